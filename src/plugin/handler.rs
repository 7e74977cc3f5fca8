//! Sockets on the reactor thread.

use std::time::Instant;

use super::{Error, Io};
use crate::engine::Reply;
use crate::ids::{Change, FrontendId};

/// An owner of sockets on the reactor thread: a frontend's listener, or a plugin's service.
///
/// No method may block. Every socket is non-blocking and edge-triggered (see [`mio::Poll`]): read, write or accept until
/// [`std::io::ErrorKind::WouldBlock`]. A readiness can be spurious. Work that blocks belongs on a thread of the handler's own, which
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
