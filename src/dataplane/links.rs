//! Follows the interfaces and their addresses: keeps the engine informed of who is on which link, for the frontends that
//! masquerade by themselves, and lets answers for ::1 in through each. Lives on the reactor thread.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::time::{Duration, Instant};

use mio::Interest;
use mio::unix::SourceFd;

use super::plan::OnLink;
use crate::Error;
use crate::config::Prefix;
use crate::netlink::addresses::{self, AddressWatch, InterfaceAddress};
use crate::netlink::loopback;
use crate::plugin::{Handler, Io, Readiness};

/// The socket's key.
const SOCKET: usize = 0;

/// How long after a failure the kernel is asked again: an interface that was not up yet, addresses that kept changing.
const RETRY: Duration = Duration::from_secs(1);

/// Maximum number of tries in a row. An event reports an interface that comes up later.
const TRIES: u32 = 10;

/// The prefixes of each interface's link, without those that are in others of it.
///
/// # Errors
/// The kernel could not be asked.
pub fn on_link() -> io::Result<BTreeSet<OnLink>> {
    Ok(on_link_of(&addresses::dump()?))
}

fn on_link_of(addresses: &[InterfaceAddress]) -> BTreeSet<OnLink> {
    let mut prefixes: BTreeMap<u32, Vec<Prefix>> = BTreeMap::new();
    for own in addresses {
        // Loopback and link-local sources are masqueraded anyway.
        let link_local = matches!(own.address, IpAddr::V6(address) if address.is_unicast_link_local());
        if !own.address.is_loopback() && !link_local {
            prefixes.entry(own.interface).or_default().push(Prefix::around(own.address, own.length));
        }
    }
    let links = prefixes.into_iter().flat_map(|(interface, prefixes)| {
        Prefix::merged(prefixes).into_iter().map(move |prefix| OnLink { interface, prefix })
    });
    links.collect()
}

/// The watch over the links.
#[derive(Debug)]
pub struct Links {
    watch: Option<AddressWatch>,
    /// Whether clients on ::1 are sent to other hosts.
    loopback_routes: bool,
    /// When the kernel is asked again after a failure, and how often that was so.
    retry: Option<Instant>,
    failures: u32,
    /// It has run before: a start that fails is tried again.
    restarted: bool,
}

impl Links {
    /// A watch that lets answers for ::1 in, or not.
    pub fn new(loopback_routes: bool) -> Links {
        Links { watch: None, loopback_routes, retry: None, failures: 0, restarted: false }
    }

    /// Asks the kernel, and does what follows. Returns who is on which link.
    fn look(&mut self, now: Instant) -> Option<BTreeSet<OnLink>> {
        let addresses = addresses::dump();
        let let_in = addresses.as_deref().map(|addresses| self.let_in(addresses));
        // Nobody is answered through an interface that is down.
        let is_down = matches!(&let_in, Ok(Err(error)) if error.kind() == io::ErrorKind::NetworkDown);
        let problem = match let_in {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(format!("clients on ::1 may get no answers: {error}")),
            Err(error) => Some(format!("cannot tell who is on which link: {error}")),
        };
        self.failures = if problem.is_some() { self.failures + 1 } else { 0 };
        self.retry = (1..TRIES).contains(&self.failures).then(|| now + RETRY);
        if let Some(problem) = problem {
            // Most often it is over the next time.
            let level = if is_down || self.retry.is_some() { log::Level::Debug } else { log::Level::Warn };
            log::log!(level, "{problem}");
        }
        addresses.ok().map(|addresses| on_link_of(&addresses))
    }

    /// Lets answers for ::1 in through each interface. The kernel forgets the routes of an interface that goes down, whether
    /// it keeps its addresses or not, so they are added each time.
    fn let_in(&self, addresses: &[InterfaceAddress]) -> io::Result<()> {
        let with_ipv6 = addresses.iter().filter(|own| own.address.is_ipv6() && !own.address.is_loopback());
        let interfaces: BTreeSet<u32> = with_ipv6.map(|own| own.interface).filter(|_| self.loopback_routes).collect();
        let mut done = Ok(());
        for interface in interfaces {
            if let Err(error) = loopback::add(interface) {
                let problem = format!("no route through interface {interface}: {error}");
                done = Err(io::Error::new(error.kind(), problem));
            }
        }
        done
    }
}

impl Handler for Links {
    fn start(&mut self, io: &mut Io<'_>) -> Result<(), Error> {
        // What a daemon that has crashed has left goes first.
        if let Err(error) = loopback::remove_all() {
            log::warn!("cannot look for routes of ::1: {error}");
        }
        match AddressWatch::open() {
            Ok(watch) => {
                io.register(&mut SourceFd(&watch.as_fd().as_raw_fd()), SOCKET, Interest::READABLE)?;
                self.watch = Some(watch);
            }
            Err(error) if self.restarted => return Err(error.into()),
            // What is known at the start often lasts.
            Err(error) => log::warn!("cannot watch over the interfaces' addresses: {error}"),
        }
        // After the watch has begun, so that no change is missed. At the daemon's start the engine queries them itself.
        let links = self.look(io.now());
        if let Some(links) = links.filter(|_| self.restarted) {
            io.core.tell_on_link(links);
        }
        self.restarted = true;
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
        match self.watch.as_mut().map(AddressWatch::changed) {
            Some(Ok(true)) => {
                self.failures = 0;
                self.timeout(io);
            }
            Some(Err(error)) => log::warn!("cannot watch over the interfaces' addresses: {error}"),
            Some(Ok(false)) | None => {}
        }
    }

    fn deadline(&self) -> Option<Instant> {
        self.retry
    }

    fn timeout(&mut self, io: &mut Io<'_>) {
        if let Some(links) = self.look(io.now()) {
            io.core.tell_on_link(links);
        }
    }
}
