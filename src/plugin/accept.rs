//! Accepting clients within the descriptors that are left.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use crate::system::files::{self, Share};

/// Time without a shortage after which a further one is logged again.
const QUIET: Duration = Duration::from_secs(60);

/// Result of one call of accept(2).
#[derive(Debug)]
pub enum Accepted<S> {
    /// A client.
    Client(S),
    /// A client whose descriptor is reserved for other work: close another one and call [`Acceptance::replaced`]. Where it is
    /// the only one, it may stay: the reserve has one for each frontend, and more.
    Crowded(S),
    /// Nothing, because of an error of one connection. There may be others.
    Lost,
    /// There are no more clients now.
    Done,
    /// The system cannot accept: stop, and accept again at [`Acceptance::retry_at`].
    Short,
}

/// State of a frontend's or service's accepting: whether there is a shortage of descriptors.
#[derive(Debug)]
pub struct Acceptance {
    share: Share,
    pause: Duration,
    /// Last time of a shortage.
    short: Option<Instant>,
    retry_at: Option<Instant>,
}

impl Acceptance {
    /// No shortage yet; `pause` is the time to wait in one before accepting again.
    pub fn new(share: Share, pause: Duration) -> Acceptance {
        Acceptance { share, pause, short: None, retry_at: None }
    }

    /// Time at which to accept again without an event.
    pub fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }

    /// Accepts again at this time.
    pub fn retry(&mut self, at: Option<Instant>) {
        self.retry_at = at;
    }

    /// Judges what accept(2) has returned. `listener` is for the log, where a shortage appears once.
    pub fn judge<S: AsFd, A>(
        &mut self,
        now: Instant,
        listener: impl fmt::Display,
        result: io::Result<(S, A)>,
    ) -> Accepted<(S, A)> {
        match result {
            Ok((stream, peer)) if files::is_reserved(&stream, self.share) => {
                self.log_shortage(now, listener, "the limit of open files leaves no more; closing other connections");
                Accepted::Crowded((stream, peer))
            }
            Ok(accepted) => Accepted::Client(accepted),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Accepted::Done,
            Err(error) if is_about_one_connection(&error) => Accepted::Lost,
            Err(error) => {
                self.log_shortage(now, listener, error);
                self.pause(now);
                Accepted::Short
            }
        }
    }

    /// Stops accepting for the length of the pause.
    pub fn pause(&mut self, now: Instant) {
        self.retry_at = Some(now + self.pause);
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

/// Whether an error of accept(2) belongs to the one connection that could not be accepted.
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
