//! Environment of the `conntrack` thread: the kernel's conntrack table and its events, probes of endpoints, whether an
//! address is this host's own, and the time. A trait, so that the thread's decisions are tested with failures that a kernel
//! does not make on demand ([`tests`](super::tests)).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant, SystemTime};

use crate::config::Protocol;
use crate::netlink::conntrack::{Conntrack, Entry, Event, Key, Subscription};
use crate::netlink::route::Routes;
use crate::system::connect::{Connected, Connects};

/// Time in which an endpoint must answer a probe.
pub(super) const ANSWER: Duration = Duration::from_secs(1);

/// Setting for whether the kernel reports changes (0: never, 1: always, 2: while a program listens).
const EVENTS: &str = "/proc/sys/net/netfilter/nf_conntrack_events";

/// The kernel, as far as the thread uses it. Errors are those of [`Conntrack`], [`Subscription`] and [`Connects`].
pub(super) trait Kernel: Send {
    /// The monotonic time.
    fn now(&self) -> Instant;

    /// The wall clock.
    fn wall(&self) -> SystemTime;

    /// [`Conntrack::dump_dnat`].
    fn dump_dnat(&mut self, each: &mut dyn FnMut(&Entry)) -> io::Result<()>;

    /// [`Conntrack::dump_to`].
    fn dump_to(&mut self, protocol: Protocol, port: Option<u16>, each: &mut dyn FnMut(&Entry)) -> io::Result<()>;

    /// [`Conntrack::look_up`].
    fn look_up(&mut self, key: &Key, id: u32) -> io::Result<Option<Entry>>;

    /// [`Conntrack::set_timeout`].
    fn set_timeout(&mut self, entry: &Entry, seconds: u32) -> io::Result<bool>;

    /// [`Conntrack::delete`].
    fn delete(&mut self, entry: &Entry) -> io::Result<bool>;

    /// Subscribes to events, or ends the subscription.
    fn subscribe(&mut self, on: bool) -> io::Result<()>;

    /// The next event; `None` if there is none now, or no subscription.
    fn receive(&mut self) -> io::Result<Option<Event>>;

    /// Whether the kernel reports changes: not if it is set not to, nor if it was built so and has no such setting.
    fn reports_changes(&self) -> bool;

    /// Whether an address is this host's own; `false` if the query fails.
    fn is_local(&mut self, ip: IpAddr) -> bool;

    /// Begins to connect to an endpoint, for up to [`ANSWER`].
    fn probe(&mut self, endpoint: SocketAddr);

    /// The results of the probes that have ended since the last call. Starts those that waited for their turn.
    fn probed(&mut self, now: Instant) -> Vec<Connected>;

    /// Time of the next [`Kernel::probed`], while a probe runs.
    fn probe_deadline(&self, now: Instant) -> Option<Instant>;

    /// Readable when there is an event.
    fn events(&self) -> Option<BorrowedFd<'_>>;

    /// Readable when a probe has a result.
    fn probes(&self) -> Option<BorrowedFd<'_>>;
}

/// The kernel itself, through sockets that stay open. After an error the next query has a new one.
#[derive(Debug, Default)]
pub(super) struct Netlink {
    conntrack: Option<Conntrack>,
    subscription: Option<Subscription>,
    routes: Option<Routes>,
    /// While a probe runs.
    connects: Option<Connects>,
    /// The probes that could not be started.
    failed: Vec<Connected>,
}

impl Netlink {
    fn query<R>(&mut self, query: impl FnOnce(&mut Conntrack) -> io::Result<R>) -> io::Result<R> {
        let mut conntrack = match self.conntrack.take() {
            Some(conntrack) => conntrack,
            None => Conntrack::open()?,
        };
        let result = query(&mut conntrack);
        // A refusal is an answer, after which the socket is as good as before.
        if result.as_ref().err().is_none_or(is_busy) {
            self.conntrack = Some(conntrack);
        }
        result
    }
}

/// Whether the kernel refuses to delete an entry: before Linux 6.4 it does while the flow passes a flowtable.
pub(super) fn is_busy(error: &io::Error) -> bool {
    rustix::io::Errno::from_io_error(error) == Some(rustix::io::Errno::BUSY)
}

impl Kernel for Netlink {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn wall(&self) -> SystemTime {
        SystemTime::now()
    }

    fn dump_dnat(&mut self, each: &mut dyn FnMut(&Entry)) -> io::Result<()> {
        self.query(|conntrack| conntrack.dump_dnat(each))
    }

    fn dump_to(&mut self, protocol: Protocol, port: Option<u16>, each: &mut dyn FnMut(&Entry)) -> io::Result<()> {
        self.query(|conntrack| conntrack.dump_to(protocol, port, each))
    }

    fn look_up(&mut self, key: &Key, id: u32) -> io::Result<Option<Entry>> {
        self.query(|conntrack| conntrack.look_up(key, id))
    }

    fn set_timeout(&mut self, entry: &Entry, seconds: u32) -> io::Result<bool> {
        self.query(|conntrack| conntrack.set_timeout(entry, seconds))
    }

    fn delete(&mut self, entry: &Entry) -> io::Result<bool> {
        self.query(|conntrack| conntrack.delete(entry))
    }

    fn subscribe(&mut self, on: bool) -> io::Result<()> {
        self.subscription = None;
        if on {
            self.subscription = Some(Subscription::open()?);
        }
        Ok(())
    }

    fn receive(&mut self) -> io::Result<Option<Event>> {
        self.subscription.as_mut().map_or(Ok(None), Subscription::recv)
    }

    fn reports_changes(&self) -> bool {
        is_on(std::fs::read_to_string(EVENTS))
    }

    fn is_local(&mut self, ip: IpAddr) -> bool {
        let mut routes = match self.routes.take() {
            Some(routes) => routes,
            None => match Routes::open() {
                Ok(routes) => routes,
                Err(_) => return false,
            },
        };
        let result = routes.is_local(ip);
        if result.is_ok() {
            self.routes = Some(routes);
        }
        result.unwrap_or(false)
    }

    fn probe(&mut self, endpoint: SocketAddr) {
        let connects = self.connects.take().map_or_else(|| Connects::new(ANSWER), Ok);
        match connects {
            Ok(connects) => self.connects.insert(connects).add(endpoint),
            Err(error) => self.failed.push((endpoint, Err(error))),
        }
    }

    fn probed(&mut self, now: Instant) -> Vec<Connected> {
        let mut results = std::mem::take(&mut self.failed);
        if let Some(connects) = &mut self.connects {
            results.extend(connects.advance(now));
        }
        self.connects = self.connects.take().filter(|connects| !connects.is_empty());
        results
    }

    fn probe_deadline(&self, now: Instant) -> Option<Instant> {
        let failed = self.failed.first().map(|_| now);
        failed.or_else(|| self.connects.as_ref()?.deadline(now))
    }

    fn events(&self) -> Option<BorrowedFd<'_>> {
        self.subscription.as_ref().map(AsFd::as_fd)
    }

    fn probes(&self) -> Option<BorrowedFd<'_>> {
        self.connects.as_ref().map(AsFd::as_fd)
    }
}

/// Whether events are on. A setting that cannot be read shows nothing.
fn is_on(setting: io::Result<String>) -> bool {
    match setting {
        Ok(value) => value.trim() != "0",
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::system::wait_readable;

    #[test]
    fn events_are_off_if_the_setting_is_zero_or_missing() {
        for (setting, expected) in [("0\n", false), ("1\n", true), ("2\n", true)] {
            assert_eq!(is_on(Ok(setting.to_owned())), expected, "{setting}");
        }
        assert!(!is_on(Err(io::ErrorKind::NotFound.into())));
        assert!(is_on(Err(io::ErrorKind::PermissionDenied.into())));
    }

    #[test]
    fn a_probe_has_one_result() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let endpoint = listener.local_addr().expect("bound");
        let mut kernel = Netlink::default();
        assert!(kernel.probe_deadline(Instant::now()).is_none() && kernel.probes().is_none());
        kernel.probe(endpoint);
        let mut results = Vec::new();
        while results.is_empty() {
            let now = Instant::now();
            results = kernel.probed(now);
            let Some(probes) = kernel.probes() else { break };
            wait_readable(&[probes], kernel.probe_deadline(now)).expect("it waits");
        }
        assert!(matches!(results[..], [(at, Ok(()))] if at == endpoint), "{results:?}");
        let now = Instant::now();
        assert!(kernel.probed(now).is_empty() && kernel.probe_deadline(now).is_none() && kernel.probes().is_none());
    }

    #[test]
    fn a_probe_that_cannot_begin_fails_at_once() {
        let mut kernel = Netlink::default();
        let endpoint = SocketAddr::from(([203, 0, 113, 2], 80));
        kernel.failed.push((endpoint, Err(rustix::io::Errno::MFILE.into())));
        let now = Instant::now();
        assert_eq!(kernel.probe_deadline(now), Some(now));
        assert!(matches!(kernel.probed(now)[..], [(at, Err(_))] if at == endpoint));
        assert_eq!(kernel.probe_deadline(now), None);
    }
}
