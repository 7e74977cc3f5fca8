//! One client's socket, on the reactor thread.

use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use mio::net::UnixStream;

use super::session::{Session, Step};
use super::wire::Codec;
use crate::engine::{Reply, Request};

/// How long a client that is owed bytes may take none.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// How many steps one client gets before others have their turn.
const TURN: usize = 32;

/// What has become of a client.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Nothing can be done until its socket is ready again, or the engine has replied.
    Blocked,
    /// Its turn is over; there is more to do.
    More,
    /// The engine is to be asked this.
    Ask(Request),
    /// It is to be closed.
    Closed,
}

/// A connected client.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) stream: UnixStream,
    /// Never used again for another client, so that it can be the tag of a request.
    pub(super) serial: u64,
    /// When bytes last went in or out.
    pub(super) active: Instant,
    /// Whether its turn ended with more to do.
    pub(super) more: bool,
    session: Session,
    /// Since when it has taken none of the bytes that it is owed.
    stalled: Option<Instant>,
}

impl Peer {
    pub(super) fn new(stream: UnixStream, serial: u64, codec: Codec, now: Instant) -> Peer {
        Peer { stream, serial, active: now, more: false, session: Session::new(codec), stalled: None }
    }

    /// When the client is to be given up, unless it takes something before.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.stalled.map(|since| since + PATIENCE)
    }

    /// Whether the client is owed something.
    pub(super) fn busy(&self) -> bool {
        self.session.busy()
    }

    /// Takes the engine's reply.
    pub(super) fn answer(&mut self, reply: &Reply) {
        self.session.answer(reply);
    }

    /// Does what can be done without blocking, for the length of one turn. `scratch` is for the bytes that come.
    pub(super) fn advance(&mut self, now: Instant, scratch: &mut [u8]) -> Outcome {
        for _ in 0..TURN {
            match self.session.step() {
                Step::Ask(request) => return Outcome::Ask(request),
                Step::Ignored => {}
                Step::Wait => return Outcome::Blocked,
                Step::Close => return Outcome::Closed,
                Step::Send => match self.stream.write(self.session.output()) {
                    Ok(count) => {
                        self.session.sent(count);
                        self.active = now;
                        self.stalled = None;
                    }
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        self.stalled.get_or_insert(now);
                        return Outcome::Blocked;
                    }
                    Err(_) => return Outcome::Closed,
                },
                Step::Read => match self.stream.read(scratch) {
                    Ok(0) => self.session.ended(),
                    Ok(count) => {
                        self.session.received(&scratch[..count]);
                        self.active = now;
                    }
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return Outcome::Blocked,
                    Err(_) => return Outcome::Closed,
                },
            }
        }
        Outcome::More
    }
}
