//! Accepting clients within the descriptors that are left.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use crate::system::files::{self, Share};

/// Time without a shortage after which the next one is logged again.
const QUIET: Duration = Duration::from_secs(60);

/// Maximum number of calls of accept(2) before other handlers have their turn.
const TURN: usize = 32;

/// Result of [`Acceptance::next`].
#[derive(Debug)]
pub enum Accepted<S> {
    /// A client.
    Client(S),
    /// A client whose descriptor is reserved for other work: close another one and call [`Acceptance::replaced`]. If it is
    /// the only one, it may stay: the reserve has one for each frontend, and more.
    Crowded(S),
    /// No client, because the system lacks resources. Closing another connection may help.
    Short,
}

/// Accepts the clients of one frontend or service: a bounded number per turn, again after a pause when there is a shortage
/// of descriptors, for which no event comes.
///
/// On an event of the listener, and when [`Acceptance::due`] returns true, call [`Acceptance::begin`] and then
/// [`Acceptance::next`] until it returns none.
#[derive(Debug)]
pub struct Acceptance {
    share: Share,
    pause: Duration,
    /// Last time of a shortage.
    short: Option<Instant>,
    retry_at: Option<Instant>,
    /// Calls of accept(2) left in this turn.
    left: usize,
}

impl Acceptance {
    /// No shortage yet. `pause` is the time to wait in one before accepting again.
    pub fn new(share: Share, pause: Duration) -> Acceptance {
        Acceptance { share, pause, short: None, retry_at: None, left: 0 }
    }

    /// Time of the next turn that needs no event. Part of [`super::Handler::deadline`].
    pub fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }

    /// Returns true once when that time has passed.
    pub fn due(&mut self, now: Instant) -> bool {
        self.retry_at.take_if(|at| *at <= now).is_some()
    }

    /// Forgets a planned turn: the listener was closed.
    pub fn clear(&mut self) {
        self.retry_at = None;
    }

    /// Begins a turn.
    pub fn begin(&mut self) {
        self.left = TURN;
    }

    /// Accepts the next client with `accept`, which calls accept(2). Returns none when no client waits or when the turn is
    /// over. `listener` is for the log, where a shortage appears once.
    pub fn next<S: AsFd, A>(
        &mut self,
        now: Instant,
        listener: impl fmt::Display,
        accept: impl Fn() -> io::Result<(S, A)>,
    ) -> Option<Accepted<(S, A)>> {
        while self.left > 0 {
            self.left -= 1;
            if self.left == 0 {
                // Edge-triggered: no event comes for the clients that still wait.
                self.retry_at = Some(now);
            }
            match accept() {
                Ok((stream, peer)) if files::is_reserved(&stream, self.share) => {
                    let reason = "the limit of open files leaves no more; closing other connections";
                    self.log_shortage(now, listener, reason);
                    return Some(Accepted::Crowded((stream, peer)));
                }
                Ok(accepted) => return Some(Accepted::Client(accepted)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                Err(error) if is_about_one_connection(&error) => {}
                Err(error) => {
                    self.log_shortage(now, listener, error);
                    self.retry_at = Some(now + self.pause);
                    self.left = 0;
                    return Some(Accepted::Short);
                }
            }
        }
        None
    }

    /// A crowded client after another one was closed for it.
    pub fn replaced<S: AsFd + From<OwnedFd>>(stream: S) -> S {
        files::move_down(stream)
    }

    fn log_shortage(&mut self, now: Instant, listener: impl fmt::Display, reason: impl fmt::Display) {
        if self.short.replace(now).is_none_or(|last| now - last >= QUIET) {
            log::warn!("{listener}: cannot accept all clients: {reason}");
        }
    }
}

/// Returns true for an error of accept(2) that belongs to the one connection that could not be accepted.
fn is_about_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind as E;
    matches!(
        error.kind(),
        E::ConnectionAborted
            | E::ConnectionReset
            | E::Interrupted
            | E::NetworkDown
            | E::NetworkUnreachable
            | E::HostUnreachable
    )
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::fs::File;

    use super::*;

    const PAUSE: Duration = Duration::from_millis(100);

    /// One turn with these results of accept(2), then `WouldBlock`: the number of clients, and whether it was short.
    fn turn(acceptance: &mut Acceptance, now: Instant, results: &[Option<io::ErrorKind>]) -> (usize, bool) {
        let (calls, mut clients, mut short) = (Cell::new(0), 0, false);
        let accept = || {
            let call = calls.replace(calls.get() + 1);
            match results.get(call).copied().unwrap_or(Some(io::ErrorKind::WouldBlock)) {
                None => Ok((File::open("/dev/null")?, ())),
                Some(kind) => Err(kind.into()),
            }
        };
        acceptance.begin();
        while let Some(accepted) = acceptance.next(now, "test", accept) {
            match accepted {
                Accepted::Client(_) => clients += 1,
                Accepted::Short => short = true,
                Accepted::Crowded(_) => panic!("descriptors are left"),
            }
        }
        (clients, short)
    }

    #[test]
    fn errors_of_one_connection_are_skipped() {
        let mut acceptance = Acceptance::new(Share::Clients, PAUSE);
        let now = Instant::now();
        use io::ErrorKind as E;
        let errors = [E::ConnectionAborted, E::ConnectionReset, E::Interrupted, E::NetworkDown, E::HostUnreachable];
        let results: Vec<_> = errors.into_iter().flat_map(|error| [Some(error), None]).collect();
        assert_eq!(turn(&mut acceptance, now, &results), (errors.len(), false));
        assert_eq!(acceptance.retry_at(), None);
    }

    #[test]
    fn a_turn_is_bounded_and_continues_at_once() {
        let mut acceptance = Acceptance::new(Share::Clients, PAUSE);
        let now = Instant::now();
        assert_eq!(turn(&mut acceptance, now, &[None; TURN - 1]), (TURN - 1, false));
        acceptance.clear();
        assert_eq!(turn(&mut acceptance, now, &[None; 2 * TURN]), (TURN, false));
        assert_eq!(acceptance.retry_at(), Some(now));
        assert!(acceptance.due(now) && !acceptance.due(now));
    }

    #[test]
    fn a_shortage_ends_the_turn_and_pauses() {
        let mut acceptance = Acceptance::new(Share::Clients, PAUSE);
        let now = Instant::now();
        let results = [None, Some(io::ErrorKind::OutOfMemory), None];
        assert_eq!(turn(&mut acceptance, now, &results), (1, true));
        assert_eq!(acceptance.retry_at(), Some(now + PAUSE));
        assert!(!acceptance.due(now) && !acceptance.due(now + PAUSE / 2));
        assert!(acceptance.due(now + PAUSE));
        assert_eq!(acceptance.retry_at(), None);
        assert_eq!(turn(&mut acceptance, now, &results), (1, true));
        acceptance.clear();
        assert_eq!(acceptance.retry_at(), None);
    }
}
