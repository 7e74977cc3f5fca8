//! Monitors: receivers of the kernel's own reports, on the reactor thread. They know neither the reactor nor the engine.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::time::Instant;

use super::plan::OnLink;
use crate::Error;
use crate::ids::{Change, FrontendId};

/// Report of a monitor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MonitorEvent {
    /// A client's first packet came to a cold frontend.
    FirstPacket {
        /// The frontend.
        frontend: FrontendId,
        /// The client.
        source: SocketAddr,
    },
    /// The prefixes that are on the interfaces' links now.
    Links(BTreeSet<OnLink>),
    /// Another program changed our table: [`Notices`](super::watch::Notices) has the changes.
    TableChanged,
}

/// Result of [`Monitor::poll`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// The socket is empty.
    Drained,
    /// One call's share is read, and there may be more.
    More,
}

/// Owner of a non-blocking socket that the kernel reports to. No method blocks.
pub trait Monitor: Send {
    /// Opens the socket. A [`Monitor::poll`] follows.
    ///
    /// # Errors
    /// The monitor stays closed.
    fn open(&mut self, now: Instant) -> Result<(), Error>;

    /// Closes the socket.
    fn close(&mut self);

    /// The socket, while there is one.
    fn fd(&self) -> Option<BorrowedFd<'_>>;

    /// Reads the socket and does what is due by `now`; called when the socket is readable and at the deadline.
    fn poll(&mut self, now: Instant, emit: &mut dyn FnMut(MonitorEvent)) -> Progress;

    /// Time of the next [`Monitor::poll`] without anything to read.
    fn deadline(&self) -> Option<Instant> {
        None
    }

    /// Handles a change of a frontend's target.
    fn target_changed(&mut self, _frontend: FrontendId, _change: Change) {}
}
