//! Numbers of the methods, and the requests that this server offers. Pure.

use serde::Serialize;

use super::wire::{Packet, Value, get};
use crate::plugin::Request;

/// The response to a refused request, `{"msg": …}`.
pub const ERROR: u16 = 1;
/// Returns the state of everything.
pub const STATUS: u16 = 2;
/// Warms the target `name`.
pub const WARM_TARGET: u16 = 8;
/// Drains the target `name`.
pub const DRAIN_TARGET: u16 = 10;
/// Starts the frontend `name`.
pub const START_FRONTEND: u16 = 16;
/// Stops the frontend `name`.
pub const STOP_FRONTEND: u16 = 18;
/// Explains the state of the target `name`.
pub const EXPLAIN_TARGET: u16 = 22;
/// A notification: the frontend `name` has seen a client.
pub const FRONTEND_SHOULD_WARM: u16 = 32768;

/// Method of the response to a request.
pub const fn response_to(method: u16) -> u16 {
    method | 1
}

/// An empty body.
#[derive(Debug, Serialize)]
pub struct Empty {}

/// Body of a request about a target or a frontend.
#[derive(Debug, Serialize)]
pub struct Named<'a> {
    /// Name of the target or frontend.
    pub name: &'a str,
}

/// Body of [`ERROR`].
#[derive(Debug, Serialize)]
pub struct Message<'a> {
    /// Reason for the refusal.
    pub msg: &'a str,
}

/// Meaning of a packet.
#[derive(Debug, PartialEq)]
pub(super) enum Incoming {
    /// A request to the engine.
    Request(Request),
    /// Refused for this reason. A notification gets no response even then.
    Refused(String),
}

/// Returns the meaning of a packet. Ignores unknown keys of the body.
pub(super) fn incoming(packet: &Packet) -> Incoming {
    let notification = packet.id == 0;
    let make: fn(String) -> Request = match packet.method {
        STATUS if !notification => return Incoming::Request(Request::Status),
        EXPLAIN_TARGET if !notification => Request::Explain,
        WARM_TARGET if !notification => Request::WarmTarget,
        DRAIN_TARGET if !notification => Request::DrainTarget,
        START_FRONTEND if !notification => Request::StartFrontend,
        STOP_FRONTEND if !notification => Request::StopFrontend,
        FRONTEND_SHOULD_WARM if notification => Request::WakeFrontend,
        FRONTEND_SHOULD_WARM => {
            return Incoming::Refused(format!("method {} is a notification: its id must be 0", packet.method));
        }
        other => return Incoming::Refused(format!("method {other} is not supported")),
    };
    match get(&packet.body, "name").and_then(Value::as_text) {
        Some(name) => Incoming::Request(make(name.to_owned())),
        None => Incoming::Refused(format!("the body of method {} needs a name, a string", packet.method)),
    }
}
