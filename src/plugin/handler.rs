//! Sockets on the reactor thread.

use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use mio::Interest;
use mio::event::Source;

use super::{Error, IoCore};
use crate::engine::{Reply, Request};
use crate::ids::{Change, FrontendId, HandlerId};

/// Something that owns sockets on the reactor thread: a frontend's listener, a plugin's service.
///
/// No method may block. Every socket is non-blocking and edge-triggered (see [`mio::Poll`]): read, write or accept until
/// [`io::ErrorKind::WouldBlock`]. A readiness can be spurious. A handler with work that blocks gives it to a thread of its
/// own, which it hears from through a pipe or socket pair that it registers ([`mio::unix::pipe`]).
///
/// All handlers share one thread: bound the work of one call for any input of a client. After a panic,
/// `stop` is called, and later `start`, and they find the handler as the panic has left it. A frontend counts as failed until
/// then. A service then receives the state of every target by `target_changed`, since it has missed changes.
pub trait Handler: Send {
    /// Opens and registers what the handler listens on.
    ///
    /// # Errors
    /// The handler stays stopped, everything it registered is expected to be closed, and the error is shown. A frontend is
    /// tried again later, and so is a service after a panic; an error of a service's first start ends the daemon.
    fn start(&mut self, io: &mut Io<'_>) -> Result<(), Error>;

    /// Closes everything. Called once after each successful start.
    fn stop(&mut self, io: &mut Io<'_>);

    /// The source that was registered under `key` is ready.
    fn ready(&mut self, io: &mut Io<'_>, key: usize, readiness: Readiness);

    /// When [`Handler::timeout`] is to be called, if at all. Asked anew after every call to the handler.
    fn deadline(&self) -> Option<Instant> {
        None
    }

    /// [`Handler::deadline`] has passed. Do what was due, so that the next deadline is later.
    fn timeout(&mut self, _io: &mut Io<'_>) {}

    /// The target of a frontend has changed. A frontend's handler is told of its own frontend, a service of all.
    fn target_changed(&mut self, _io: &mut Io<'_>, _frontend: FrontendId, _change: Change) {}

    /// The engine's answer to the [`Io::request`] that carried `tag`, which may have been made before the last `start`.
    fn reply(&mut self, _io: &mut Io<'_>, _tag: u64, _reply: Reply) {}
}

/// What a source is ready for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Readiness {
    /// Reading will not block, or the peer has closed, or there is an error to collect.
    pub readable: bool,
    /// Writing will not block, or there is an error to collect.
    pub writable: bool,
}

/// What a [`Handler`] can do with the reactor and the engine, for the length of one call.
pub struct Io<'a> {
    pub(crate) core: &'a mut IoCore,
    /// Which handler is being called.
    pub(crate) owner: HandlerId,
}

impl Io<'_> {
    /// Registers a source under a key of the handler's own choice.
    ///
    /// # Errors
    /// The operating system's error.
    pub fn register(&mut self, source: &mut impl Source, key: usize, interest: Interest) -> io::Result<()> {
        self.core.register(self.owner, source, key, interest)
    }

    /// Changes what a registered source is watched for.
    ///
    /// # Errors
    /// The operating system's error, or `NotFound` if nothing is registered under the key.
    pub fn reregister(&mut self, source: &mut impl Source, key: usize, interest: Interest) -> io::Result<()> {
        self.core.reregister(self.owner, source, key, interest)
    }

    /// Ends the watch over a source. Dropping the source without this leaks its key until the reactor ends.
    pub fn deregister(&mut self, source: &mut impl Source, key: usize) {
        self.core.deregister(self.owner, source, key);
    }

    /// The time at which this round of the reactor began.
    pub fn now(&self) -> Instant {
        self.core.now()
    }

    /// Wakes the frontend's target; `source` is the client that asked for it. For frontends only: the call of any other
    /// handler does nothing. Any number of calls is one wake.
    pub fn wake(&mut self, source: Option<SocketAddr>) {
        self.core.wake(self.owner, source);
    }

    /// Asks the engine for something; the answer comes to [`Handler::reply`] with the same tag.
    pub fn request(&mut self, tag: u64, request: Request) {
        self.core.request(self.owner, tag, request);
    }
}
