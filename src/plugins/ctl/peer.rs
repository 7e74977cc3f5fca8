//! The socket of one client, on the reactor thread.

use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use mio::net::UnixStream;

use super::session::{Session, Step};
use super::wire::Codec;
use crate::plugin::Request;

/// Time for which a client may leave its responses unread.
pub(super) const STALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Number of steps of one client before others have their turn.
const TURN: usize = 32;

/// What the server must do for a client.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Wait for its socket, its deadline, or the engine's reply.
    Wait,
    /// Send this request to the engine.
    Request(Request),
    /// Close it.
    Close,
}

/// Reason for a client's deadline.
#[derive(Debug, Clone, Copy)]
enum Pause {
    None,
    /// Its turn ended with more to do at this time.
    TurnOver(Instant),
    /// It has read none of its response since this time.
    Stalled(Instant),
}

/// A connected client.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) stream: UnixStream,
    /// Last time at which bytes went in or out.
    pub(super) active: Instant,
    pub(super) session: Session,
    pause: Pause,
}

impl Peer {
    pub(super) fn new(stream: UnixStream, codec: Codec, now: Instant) -> Peer {
        Peer { stream, active: now, session: Session::new(codec), pause: Pause::None }
    }

    /// Time at which its turn continues, or at which it has failed to read its response.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.pause {
            Pause::None => None,
            Pause::TurnOver(at) => Some(at),
            Pause::Stalled(since) => Some(since + STALL_TIMEOUT),
        }
    }

    /// Returns true if its response waits for it to read.
    pub(super) fn is_stalled(&self) -> bool {
        matches!(self.pause, Pause::Stalled(_))
    }

    /// Does what does not block, for one turn. `scratch` is for received bytes.
    pub(super) fn advance(&mut self, now: Instant, scratch: &mut [u8]) -> Outcome {
        if let Pause::TurnOver(_) = self.pause {
            self.pause = Pause::None;
        }
        for _ in 0..TURN {
            match self.session.step() {
                Step::Request(request) => return Outcome::Request(request),
                Step::Ignored => {}
                Step::Wait => return Outcome::Wait,
                Step::Close => return Outcome::Close,
                Step::Send => match self.stream.write(self.session.output()) {
                    Ok(count) => {
                        self.session.sent(count);
                        self.active = now;
                        self.pause = Pause::None;
                    }
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        if !self.is_stalled() {
                            self.pause = Pause::Stalled(now);
                        }
                        return Outcome::Wait;
                    }
                    Err(_) => return Outcome::Close,
                },
                Step::Receive => match self.stream.read(scratch) {
                    Ok(0) => self.session.end(),
                    Ok(count) => {
                        self.session.received(&scratch[..count]);
                        self.active = now;
                    }
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return Outcome::Wait,
                    Err(_) => return Outcome::Close,
                },
            }
        }
        self.pause = Pause::TurnOver(now);
        Outcome::Wait
    }
}
