//! Follows the interfaces and their addresses: reports which prefixes are on which link, for frontends with `masquerade: auto`,
//! and adds the routes that let answers for ::1 in. Runs on the reactor thread.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::{Duration, Instant};

use super::monitor::{Monitor, MonitorEvent, Progress};
use super::plan::OnLink;
use crate::Error;
use crate::config::Prefix;
use crate::netlink::addresses::{self, AddressWatch, InterfaceAddress};
use crate::netlink::loopback;

/// Pause before the next query after a failure: an interface was not up yet, or addresses kept changing.
const RETRY: Duration = Duration::from_secs(1);

/// Maximum number of tries in a row. An event reports an interface that comes up later.
const MAX_TRIES: u32 = 10;

/// The prefixes of each interface's link, without those that are in others of it.
///
/// # Errors
/// The operating system's error.
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

/// Kernel interface of the watch: a subscription to changes of addresses, all addresses, and the routes for ::1.
trait Interfaces: Send {
    fn open(&mut self) -> io::Result<()>;
    fn close(&mut self);
    fn fd(&self) -> Option<BorrowedFd<'_>>;
    fn changed(&mut self) -> io::Result<bool>;
    fn addresses(&self) -> io::Result<Vec<InterfaceAddress>>;
    fn add_route(&mut self, interface: u32) -> io::Result<()>;
    fn remove_routes(&mut self) -> io::Result<()>;
}

impl Interfaces for Option<AddressWatch> {
    fn open(&mut self) -> io::Result<()> {
        *self = Some(AddressWatch::open()?);
        Ok(())
    }

    fn close(&mut self) {
        *self = None;
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.as_ref().map(AddressWatch::as_fd)
    }

    fn changed(&mut self) -> io::Result<bool> {
        self.as_mut().map_or(Ok(false), AddressWatch::changed)
    }

    fn addresses(&self) -> io::Result<Vec<InterfaceAddress>> {
        addresses::dump()
    }

    fn add_route(&mut self, interface: u32) -> io::Result<()> {
        loopback::add(interface)
    }

    fn remove_routes(&mut self) -> io::Result<()> {
        loopback::remove_all()
    }
}

/// Whether clients on ::1 are sent to other hosts, so that answers for ::1 need routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoopbackRoutes {
    /// The routes are added.
    Added,
    /// There are none.
    Unused,
}

/// The watch over the links.
pub struct Links {
    interfaces: Box<dyn Interfaces>,
    routes: LoopbackRoutes,
    /// Time of the next query without an event.
    due: Option<Instant>,
    /// Number of failures in a row.
    failures: u32,
    /// It has run before: a start that fails is tried again.
    restarted: bool,
}

impl Links {
    /// A watch that is not open yet.
    pub fn new(routes: LoopbackRoutes) -> Links {
        Links { interfaces: Box::new(None), routes, due: None, failures: 0, restarted: false }
    }

    /// Queries the addresses, and adds the routes for ::1. Returns the prefixes on the links.
    fn update(&mut self, now: Instant) -> Option<BTreeSet<OnLink>> {
        let addresses = self.interfaces.addresses();
        let added = addresses.as_deref().map(|addresses| self.add_routes(addresses));
        // An interface that is down receives no answers.
        let is_down = matches!(&added, Ok(Err(error)) if error.kind() == io::ErrorKind::NetworkDown);
        let problem = match added {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(format!("clients on ::1 may get no answers: {error}")),
            Err(error) => Some(format!("cannot list the addresses of the interfaces: {error}")),
        };
        self.failures = if problem.is_some() { self.failures + 1 } else { 0 };
        self.due = (1..MAX_TRIES).contains(&self.failures).then(|| now + RETRY);
        if let Some(problem) = problem {
            // The next try most often succeeds.
            let level = if is_down || self.due.is_some() { log::Level::Debug } else { log::Level::Warn };
            log::log!(level, "{problem}");
        }
        addresses.ok().map(|addresses| on_link_of(&addresses))
    }

    /// Adds the route for answers to ::1 through each interface. The kernel deletes the routes of an interface that goes down, whether
    /// it keeps its addresses or not, so they are added each time.
    fn add_routes(&mut self, addresses: &[InterfaceAddress]) -> io::Result<()> {
        if self.routes == LoopbackRoutes::Unused {
            return Ok(());
        }
        let with_ipv6 = addresses.iter().filter(|own| own.address.is_ipv6() && !own.address.is_loopback());
        let interfaces: BTreeSet<u32> = with_ipv6.map(|own| own.interface).collect();
        let mut added = Ok(());
        for interface in interfaces {
            if let Err(error) = self.interfaces.add_route(interface) {
                let problem = format!("no route through interface {interface}: {error}");
                added = Err(io::Error::new(error.kind(), problem));
            }
        }
        added
    }
}

impl Monitor for Links {
    fn open(&mut self, now: Instant) -> Result<(), Error> {
        // Routes that a crashed daemon left go first.
        if let Err(error) = self.interfaces.remove_routes() {
            log::warn!("cannot list the routes of ::1: {error}");
        }
        match self.interfaces.open() {
            Err(error) if self.restarted => return Err(error.into()),
            // The addresses at the start seldom change.
            Err(error) => log::warn!("cannot watch the addresses of the interfaces: {error}"),
            Ok(()) => {}
        }
        // After the subscription, so that no change is missed. At the daemon's start the engine queries the links itself.
        if self.restarted {
            self.due = Some(now);
        } else {
            self.update(now);
        }
        self.restarted = true;
        Ok(())
    }

    fn close(&mut self) {
        if self.routes == LoopbackRoutes::Added
            && let Err(error) = self.interfaces.remove_routes()
        {
            log::warn!("cannot remove the routes of ::1: {error}");
        }
        self.interfaces.close();
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.interfaces.fd()
    }

    fn poll(&mut self, now: Instant, emit: &mut dyn FnMut(MonitorEvent)) -> Progress {
        let changed = self.interfaces.changed().unwrap_or_else(|error| {
            log::warn!("cannot watch the addresses of the interfaces: {error}");
            false
        });
        if changed {
            self.failures = 0;
        }
        if (changed || self.due.is_some_and(|due| due <= now))
            && let Some(links) = self.update(now)
        {
            emit(MonitorEvent::Links(links));
        }
        Progress::Drained
    }

    fn deadline(&self) -> Option<Instant> {
        self.due
    }
}

#[cfg(test)]
mod tests;
