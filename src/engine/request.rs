//! Requests of control clients, and the engine's replies.

use super::explanation::Explanation;
use super::status::Status;

/// A request of a control client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// The status; answered with [`Reply::Status`].
    Status,
    /// The explanation of the named target's state; answered with [`Reply::Explanation`].
    Explain(String),
    /// Warm the named target, as if a client had come.
    WarmTarget(String),
    /// Drain the named target now, in use or not.
    DrainTarget(String),
    /// Start the named frontend.
    StartFrontend(String),
    /// Stop the named frontend.
    StopFrontend(String),
    /// Wake the target behind the named frontend, as if a client had come to it.
    WakeFrontend(String),
}

/// The engine's reply to a [`Request`].
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// Reply to [`Request::Status`].
    Status(Box<Status>),
    /// Reply to [`Request::Explain`].
    Explanation(Box<Explanation>),
    /// The request was accepted; the status shows its result.
    Done,
    /// The request was refused, with the reason.
    Refused(String),
}
