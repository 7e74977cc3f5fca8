//! Keeps the engine informed of who is on which link, for the frontends that masquerade by themselves. Lives on the
//! reactor thread.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};

use mio::Interest;
use mio::unix::SourceFd;

use super::plan::OnLink;
use crate::config::Prefix;
use crate::netlink::addresses::{self, AddressWatch};
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
        if !own.address.is_loopback() {
            prefixes.entry(own.interface).or_default().push(Prefix::around(own.address, own.length));
        }
    }
    let links = prefixes.into_iter().flat_map(|(interface, prefixes)| {
        Prefix::merged(prefixes).into_iter().map(move |prefix| OnLink { interface, prefix })
    });
    Ok(links.collect())
}

/// The watch over the links.
#[derive(Debug, Default)]
pub struct Links {
    watch: Option<AddressWatch>,
}

impl Handler for Links {
    fn start(&mut self, io: &mut Io<'_>) -> Result<(), Error> {
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
        if let Some(watch) = self.watch.take() {
            io.deregister(&mut SourceFd(&watch.as_fd().as_raw_fd()), SOCKET);
        }
    }

    fn ready(&mut self, io: &mut Io<'_>, _key: usize, _readiness: Readiness) {
        let changed = self.watch.as_mut().map(|watch| if watch.changed()? { on_link().map(Some) } else { Ok(None) });
        match changed {
            Some(Ok(Some(links))) => io.core.tell_on_link(links),
            Some(Err(error)) => log::warn!("cannot tell who is on which link: {error}"),
            Some(Ok(None)) | None => {}
        }
    }
}
