//! Follows the interfaces and their addresses: keeps the engine informed of who is on which link, for the frontends that
//! masquerade by themselves, and lets answers for ::1 in through each. Lives on the reactor thread.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, AsRawFd as _};

use mio::Interest;
use mio::unix::SourceFd;

use super::plan::OnLink;
use crate::config::Prefix;
use crate::netlink::addresses::{self, AddressWatch};
use crate::netlink::loopback;
use crate::plugin::{Error, Handler, Io, Readiness};

/// The socket's key.
const SOCKET: usize = 0;

/// The prefixes of each interface's link, without those that are in others of it.
///
/// # Errors
/// The kernel could not be asked.
pub fn on_link() -> io::Result<BTreeSet<OnLink>> {
    let mut prefixes: BTreeMap<u32, Vec<Prefix>> = BTreeMap::new();
    for own in addresses::dump()? {
        // Loopback and link-local sources are masqueraded anyway.
        let link_local = matches!(own.address, IpAddr::V6(address) if address.is_unicast_link_local());
        if !own.address.is_loopback() && !link_local {
            prefixes.entry(own.interface).or_default().push(Prefix::around(own.address, own.length));
        }
    }
    let links = prefixes.into_iter().flat_map(|(interface, prefixes)| {
        Prefix::merged(prefixes).into_iter().map(move |prefix| OnLink { interface, prefix })
    });
    Ok(links.collect())
}

/// The watch over the links.
#[derive(Debug)]
pub struct Links {
    watch: Option<AddressWatch>,
    /// Whether clients on ::1 are sent to other hosts.
    loopback_routes: bool,
    /// Through which interfaces answers for them are let in already.
    let_in: BTreeSet<u32>,
}

impl Links {
    /// A watch that lets answers for ::1 in, or not.
    pub fn new(loopback_routes: bool) -> Links {
        Links { watch: None, loopback_routes, let_in: BTreeSet::new() }
    }

    fn let_in(&mut self, links: &BTreeSet<OnLink>) {
        if !self.loopback_routes {
            return;
        }
        let interfaces: BTreeSet<u32> =
            links.iter().filter(|link| link.prefix.address.is_ipv6()).map(|link| link.interface).collect();
        for interface in interfaces.difference(&self.let_in) {
            if let Err(error) = loopback::add(*interface) {
                log::warn!("clients on ::1 get no answers through interface {interface}: {error}");
            }
        }
        self.let_in = interfaces;
    }
}

impl Handler for Links {
    fn start(&mut self, io: &mut Io<'_>) -> Result<(), Error> {
        // What a daemon that has crashed has left goes first.
        if let Err(error) = loopback::remove_all() {
            log::warn!("cannot look for routes of ::1: {error}");
        }
        match on_link() {
            Ok(links) => self.let_in(&links),
            Err(error) => log::warn!("cannot tell which interfaces there are: {error}"),
        }
        match AddressWatch::open() {
            Ok(watch) => {
                io.register(&mut SourceFd(&watch.as_fd().as_raw_fd()), SOCKET, Interest::READABLE)?;
                self.watch = Some(watch);
            }
            // What is known at the start often lasts.
            Err(error) => log::warn!("cannot watch over the interfaces' addresses: {error}"),
        }
        Ok(())
    }

    fn stop(&mut self, io: &mut Io<'_>) {
        if self.loopback_routes
            && let Err(error) = loopback::remove_all()
        {
            log::warn!("cannot remove the routes of ::1: {error}");
        }
        if let Some(watch) = self.watch.take() {
            io.deregister(&mut SourceFd(&watch.as_fd().as_raw_fd()), SOCKET);
        }
    }

    fn ready(&mut self, io: &mut Io<'_>, _key: usize, _readiness: Readiness) {
        let changed = self.watch.as_mut().map(|watch| if watch.changed()? { on_link().map(Some) } else { Ok(None) });
        match changed {
            Some(Ok(Some(links))) => {
                self.let_in(&links);
                io.core.tell_on_link(links);
            }
            Some(Err(error)) => log::warn!("cannot tell who is on which link: {error}"),
            Some(Ok(None)) | None => {}
        }
    }
}
