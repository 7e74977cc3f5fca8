//! Public view of a target: its state and its history.

use std::net::SocketAddr;
use std::time::Instant;

use crate::engine::status::TargetState;
use crate::ids::FrontendId;

/// State and history of a target.
#[derive(Debug, Clone, Copy)]
pub struct Life<'a> {
    /// State that users see.
    pub state: TargetState,
    /// Time of its last change.
    pub since: Instant,
    /// Time since when it has been up without a break.
    pub up_since: Option<Instant>,
    /// Its last wake.
    pub woken: Option<Woken>,
    /// Cause of its last drain, or of this one.
    pub drained: Option<Cause>,
    /// Its last failure.
    pub last_error: Option<&'a str>,
    /// Time at which it may start again, while it backs off.
    pub retry_at: Option<Instant>,
    /// Whether it starts as soon as it may.
    pub wanted: bool,
    /// Whether a running frontend pins it.
    pub is_pinned: bool,
    /// Whether it drains and that can still be cancelled.
    pub checking: bool,
}

/// Cause of a drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// It was out of use for its idle time.
    Idle,
    /// An operator or the end of the daemon requires it.
    Asked,
    /// The backend has ended on its own.
    Died,
    /// It answers neither its clients nor the gateway.
    Unresponsive,
    /// It was not ready in time.
    NotReady,
    /// It has been up for its `max_uptime`.
    TooOld,
}

/// The last wake of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Woken {
    /// Its origin.
    pub by: WokenBy,
    /// Its time.
    pub at: Instant,
}

/// Origin of a wake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WokenBy {
    /// A client of a frontend, with its address where that is known; or an operator who acts for one.
    Client(FrontendId, Option<SocketAddr>),
    /// A frontend that pins the target.
    Pin(FrontendId),
    /// An operator.
    Operator,
}
