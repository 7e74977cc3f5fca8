//! Sockets on the reactor thread.

use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use mio::Interest;
use mio::event::Source;

use super::{Error, IoCore};
use crate::engine::{Reply, Request};
use crate::ids::{Change, FrontendId, HandlerId};

/// An owner of sockets on the reactor thread: a frontend's listener, or a plugin's service.
///
/// No method may block. Every socket is non-blocking and edge-triggered (see [`mio::Poll`]): read, write or accept until
/// [`io::ErrorKind::WouldBlock`]. A readiness can be spurious. Work that blocks belongs on a thread of the handler's own, which
/// reports through a registered pipe or socket pair ([`mio::unix::pipe`]).
///
/// All handlers share one thread: bound the work of one call for any input of a client. After a panic the reactor calls `stop`,
/// and later `start`, on the handler as the panic has left it. A frontend counts as failed until then. A service then receives
/// the state of every target through `target_changed`, because it may have missed changes.
pub trait Handler: Send {
    /// Opens and registers the handler's sockets.
    ///
    /// # Errors
    /// The handler must have closed everything that it registered. It stays stopped, and the error is shown. A frontend is
    /// started again later, and so is a service after a panic; an error of a service's first start ends the daemon.
    fn start(&mut self, io: &mut Io<'_>) -> Result<(), Error>;

    /// Closes everything. Called once after each successful start.
    fn stop(&mut self, io: &mut Io<'_>);

    /// Handles the readiness of the source that was registered under `key`.
    fn ready(&mut self, io: &mut Io<'_>, key: usize, readiness: Readiness);

    /// Time of the next [`Handler::timeout`], if any. Queried after every call to the handler.
    fn deadline(&self) -> Option<Instant> {
        None
    }

    /// Called when [`Handler::deadline`] has passed. Must do the work that was due, so that the next deadline is later.
    fn timeout(&mut self, _io: &mut Io<'_>) {}

    /// Handles a change of a frontend's target. A frontend's handler receives those of its own target, a service all of them.
    fn target_changed(&mut self, _io: &mut Io<'_>, _frontend: FrontendId, _change: Change) {}

    /// Handles the reply to the [`Io::request`] with `tag`, which may have been sent before the last `start`.
    fn reply(&mut self, _io: &mut Io<'_>, _tag: u64, _reply: Reply) {}
}

/// Readiness of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Readiness {
    /// Reading will not block, or the peer has closed, or there is an error to collect.
    pub readable: bool,
    /// Writing will not block, or there is an error to collect.
    pub writable: bool,
}

/// A [`Handler`]'s access to the reactor and the engine, for one call.
pub struct Io<'a> {
    pub(crate) core: &'a mut IoCore,
    /// The handler that is called.
    pub(crate) owner: HandlerId,
}

impl Io<'_> {
    /// Registers a source under a key that the handler chooses.
    ///
    /// # Errors
    /// The operating system's error.
    pub fn register(&mut self, source: &mut impl Source, key: usize, interest: Interest) -> io::Result<()> {
        self.core.register(self.owner, source, key, interest)
    }

    /// Changes the interest in a registered source.
    ///
    /// # Errors
    /// The operating system's error, or `NotFound` if nothing is registered under the key.
    pub fn reregister(&mut self, source: &mut impl Source, key: usize, interest: Interest) -> io::Result<()> {
        self.core.reregister(self.owner, source, key, interest)
    }

    /// Deregisters a source. Dropping the source without this leaks its key until the handler stops.
    pub fn deregister(&mut self, source: &mut impl Source, key: usize) {
        self.core.deregister(self.owner, source, key);
    }

    /// Time at which this round of the reactor began.
    pub fn now(&self) -> Instant {
        self.core.now()
    }

    /// Wakes the frontend's target for the client `source`. Does nothing for a service. Calls are merged until the engine has
    /// received the wake.
    pub fn wake(&mut self, source: Option<SocketAddr>) {
        self.core.wake(self.owner, source);
    }

    /// Sends a request to the engine; [`Handler::reply`] receives the reply with the same tag.
    pub fn request(&mut self, tag: u64, request: Request) {
        self.core.request(self.owner, tag, request);
    }
}
