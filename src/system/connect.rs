//! TCP connects that run side by side, so that many unanswered connects take as long as one.
//!
//! A [`Connects`] has no thread: its owner polls it like a file descriptor, until its deadline, and collects the results.
//! At most [`MAX_AT_ONCE`] connects are open; the others wait for their turn.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::epoll;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, sockopt};

use super::wait_readable;

/// Maximum number of connects that are open at one time. Each needs a file descriptor.
pub const MAX_AT_ONCE: usize = 64;

/// Connects that are open or wait for their turn.
#[derive(Debug)]
pub struct Connects {
    /// Readable when a connect has succeeded or failed.
    epoll: OwnedFd,
    timeout: Duration,
    /// Keyed by the number that epoll returns. Closing a socket takes it out of epoll.
    open: BTreeMap<u64, Open>,
    next: u64,
    queued: VecDeque<SocketAddr>,
}

#[derive(Debug)]
struct Open {
    to: SocketAddr,
    socket: OwnedFd,
    deadline: Instant,
}

/// Result of one connect.
pub type Connected = (SocketAddr, io::Result<()>);

impl Connects {
    /// No connects yet. The timeout of each one begins when it is opened.
    ///
    /// # Errors
    /// No file descriptor is left.
    pub fn new(timeout: Duration) -> io::Result<Connects> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Connects { epoll, timeout, open: BTreeMap::new(), next: 0, queued: VecDeque::new() })
    }

    /// Adds a connect to an address, unless one is open or queued already.
    pub fn add(&mut self, to: SocketAddr) {
        if !self.queued.contains(&to) && !self.open.values().any(|open| open.to == to) {
            self.queued.push_back(to);
        }
    }

    /// Opens as many as are allowed at once, and returns the new results; each connect has one. Does not block.
    pub fn advance(&mut self, now: Instant) -> Vec<Connected> {
        let mut results = Vec::new();
        self.collect(&mut results);
        let expired: Vec<u64> = self.open.iter().filter(|(_, open)| open.deadline <= now).map(|(id, _)| *id).collect();
        for id in expired {
            let timed_out = || io::Error::new(io::ErrorKind::TimedOut, "connection timed out");
            results.extend(self.open.remove(&id).map(|open| (open.to, Err(timed_out()))));
        }
        while self.open.len() < MAX_AT_ONCE
            && let Some(to) = self.queued.pop_front()
        {
            match self.open(to, now) {
                Ok(false) => {}
                Ok(true) => results.push((to, Ok(()))),
                Err(error) => results.push((to, Err(error.into()))),
            }
        }
        results
    }

    /// Time of the next [`Connects::advance`] if the descriptor does not become readable before; `None` if there is nothing
    /// to wait for.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        // A queued connect waits for the end of an open one, except at the very first.
        let queued = (self.open.len() < MAX_AT_ONCE && !self.queued.is_empty()).then_some(now);
        self.open.values().map(|open| open.deadline).chain(queued).min()
    }

    /// True if every connect has had its result.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty() && self.queued.is_empty()
    }

    fn collect(&mut self, results: &mut Vec<Connected>) {
        if self.open.is_empty() {
            return;
        }
        let mut events = Vec::with_capacity(MAX_AT_ONCE);
        let no_wait = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        let polled = epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&no_wait));
        if let Err(error) = polled {
            // Each has its deadline.
            log::debug!("cannot poll connects: {error}");
        }
        for event in events {
            let Some(open) = self.open.remove(&event.data.u64()) else { continue };
            let result = sockopt::socket_error(&open.socket).unwrap_or_else(Err);
            results.push((open.to, result.map_err(io::Error::from)));
        }
    }

    /// Opens a connect; `true` if it has succeeded at once.
    fn open(&mut self, to: SocketAddr, now: Instant) -> Result<bool, Errno> {
        let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
        match rustix::net::connect(&socket, &to) {
            Ok(()) => return Ok(true),
            Err(Errno::INPROGRESS | Errno::INTR) => {}
            Err(error) => return Err(error),
        }
        let id = self.next;
        self.next += 1;
        epoll::add(&self.epoll, &socket, epoll::EventData::new_u64(id), epoll::EventFlags::OUT)?;
        self.open.insert(id, Open { to, socket, deadline: now + self.timeout });
        Ok(false)
    }
}

impl AsFd for Connects {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

/// Connects to all addresses side by side, and blocks until each has its result: for at most `timeout` per [`MAX_AT_ONCE`]
/// of them.
///
/// # Errors
/// No file descriptor is left, or polling failed.
pub fn connect_all(addresses: impl Iterator<Item = SocketAddr>, timeout: Duration) -> io::Result<Vec<Connected>> {
    let mut connects = Connects::new(timeout)?;
    addresses.for_each(|to| connects.add(to));
    let mut results = Vec::new();
    loop {
        results.extend(connects.advance(Instant::now()));
        if connects.is_empty() {
            return Ok(results);
        }
        wait_readable(&[connects.as_fd()], connects.deadline(Instant::now()))?;
    }
}

/// True if a connect failed for a reason of this host's own, which shows nothing about the endpoint: a resource is used up, or
/// the host's rules forbid the packet.
pub fn is_own_failure(error: &io::Error) -> bool {
    use Errno as E;
    [E::MFILE, E::NFILE, E::NOBUFS, E::NOMEM, E::NOSPC, E::AGAIN, E::ADDRNOTAVAIL, E::PERM, E::ACCESS]
        .map(Some)
        .contains(&E::from_io_error(error))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    /// A listener whose queue is full: it answers no further SYN.
    fn unresponsive() -> (OwnedFd, Vec<TcpStream>, SocketAddr) {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("bound");
        socket.listen(0).expect("it listens");
        let at = socket.local_addr().expect("bound").as_socket().expect("an IP address");
        let fill = std::iter::from_fn(|| TcpStream::connect_timeout(&at, Duration::from_millis(100)).ok());
        let streams: Vec<_> = fill.take(16).collect();
        assert!(streams.len() < 16, "its queue is full");
        (socket.into(), streams, at)
    }

    /// A loopback address with a port that is bound, so no other program has it, and it refuses.
    fn refusing() -> (socket2::Socket, SocketAddr) {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("bound");
        let at = socket.local_addr().expect("bound").as_socket().expect("an IP address");
        (socket, at)
    }

    #[test]
    fn unresponsive_endpoints_take_as_long_as_one_and_hold_up_no_other() {
        let unanswered: Vec<_> = (0..30).map(|_| unresponsive()).collect();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let open = listener.local_addr().expect("bound");
        let (_refusing, refused) = refusing();
        let timeout = Duration::from_millis(600);
        let mut connects = Connects::new(timeout).expect("a descriptor");
        unanswered.iter().for_each(|(_, _, at)| connects.add(*at));
        connects.add(open);
        connects.add(refused);
        let began = Instant::now();
        let mut results = BTreeMap::new();
        while !connects.is_empty() {
            for (to, result) in connects.advance(Instant::now()) {
                let before = results.insert(to, (result.map_err(|error| error.kind()), began.elapsed()));
                assert!(before.is_none(), "one result each");
            }
            let until = connects.deadline(Instant::now()).unwrap_or_else(Instant::now);
            wait_readable(&[connects.as_fd()], Some(until)).expect("polled");
        }
        assert_eq!(results.len(), 32);
        let (answer, after) = &results[&open];
        assert!(answer.is_ok() && *after < timeout, "it is not held up: {after:?}");
        let (answer, after) = &results[&refused];
        assert!(*answer == Err(io::ErrorKind::ConnectionRefused) && *after < timeout, "{answer:?} {after:?}");
        for (_, _, at) in &unanswered {
            let (answer, after) = &results[at];
            assert_eq!(*answer, Err(io::ErrorKind::TimedOut));
            assert!(*after >= timeout && *after < 5 * timeout, "side by side: {after:?}");
        }
    }

    #[test]
    fn no_more_than_the_maximum_are_open_and_the_others_have_their_turn() {
        let (_listener, _streams, at) = unresponsive();
        let mut connects = Connects::new(Duration::from_secs(60)).expect("a descriptor");
        let now = Instant::now();
        // 127.0.0.0/8 is all this host's; nothing of it but 127.0.0.1 has the listener, so these are refused.
        let others: Vec<_> = (0..200u8).map(|n| SocketAddr::from(([127, 0, 1, n], at.port()))).collect();
        connects.add(at);
        connects.add(at);
        others.iter().for_each(|to| connects.add(*to));
        let mut results = Vec::new();
        let until = now + Duration::from_secs(20);
        while results.len() < others.len() && Instant::now() < until {
            results.extend(connects.advance(Instant::now()));
            assert!(connects.open.len() <= MAX_AT_ONCE);
            if results.len() == others.len() {
                break;
            }
            let next = connects.deadline(Instant::now()).unwrap_or(until).min(until);
            wait_readable(&[connects.as_fd()], Some(next)).expect("polled");
        }
        assert!(results.iter().all(|(to, result)| *to != at && result.is_err()));
        assert_eq!(results.len(), others.len());
        assert_eq!(connects.open.len(), 1, "one for both");
        assert_eq!(connects.advance(now + Duration::from_secs(120)).len(), 1, "its time is over");
        assert!(connects.is_empty() && connects.deadline(now).is_none());
    }

    #[test]
    fn failures_of_this_host_are_told_from_those_of_the_endpoint() {
        for own in [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::ADDRNOTAVAIL, Errno::PERM, Errno::ACCESS] {
            assert!(is_own_failure(&own.into()), "{own}");
        }
        for other in [Errno::CONNREFUSED, Errno::HOSTUNREACH, Errno::NETUNREACH, Errno::TIMEDOUT, Errno::CONNRESET] {
            assert!(!is_own_failure(&other.into()), "{other}");
        }
        assert!(!is_own_failure(&io::ErrorKind::TimedOut.into()));
    }
}
