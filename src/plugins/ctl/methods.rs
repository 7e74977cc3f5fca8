//! The numbers of the methods, and which of them this server offers. Pure.

use serde::Serialize;

use super::wire::{Packet, Value, get};
use crate::engine::Request;

/// The response that says why not, `{"msg": …}`.
pub const ERROR: u16 = 1;
/// Asks for the state of everything.
pub const STATUS: u16 = 2;
/// Warms the target `name`.
pub const WARM_TARGET: u16 = 8;
/// Drains the target `name`.
pub const DRAIN_TARGET: u16 = 10;
/// Starts the frontend `name`.
pub const START_FRONTEND: u16 = 16;
/// Stops the frontend `name`.
pub const STOP_FRONTEND: u16 = 18;
/// Asks why the target `name` is in its state.
pub const EXPLAIN_TARGET: u16 = 22;
/// A notification: the frontend `name` has seen a client.
pub const FRONTEND_SHOULD_WARM: u16 = 32768;

/// The method of the response to a request.
pub const fn response_to(method: u16) -> u16 {
    method | 1
}

/// The body of a response that has nothing to say.
#[derive(Debug, Serialize)]
pub struct Empty {}

/// The body of a request about something that has a name.
#[derive(Debug, Serialize)]
pub struct Named<'a> {
    /// Of the target or frontend.
    pub name: &'a str,
}

/// The body of [`ERROR`].
#[derive(Debug, Serialize)]
pub struct Message<'a> {
    /// What went wrong.
    pub msg: &'a str,
}

/// What is to be done about a packet.
#[derive(Debug, PartialEq)]
pub(super) enum Incoming {
    /// Ask the engine.
    Ask(Request),
    /// Say why not. A notification gets no answer all the same.
    Refuse(String),
}

/// Finds out what a packet wants. The body may have keys that are not known here.
pub(super) fn incoming(packet: &Packet) -> Incoming {
    let notification = packet.id == 0;
    let make: fn(String) -> Request = match packet.method {
        STATUS if !notification => return Incoming::Ask(Request::Status),
        EXPLAIN_TARGET if !notification => Request::Explain,
        WARM_TARGET if !notification => Request::WarmTarget,
        DRAIN_TARGET if !notification => Request::DrainTarget,
        START_FRONTEND if !notification => Request::StartFrontend,
        STOP_FRONTEND if !notification => Request::StopFrontend,
        FRONTEND_SHOULD_WARM if notification => Request::WakeFrontend,
        FRONTEND_SHOULD_WARM => {
            return Incoming::Refuse(format!("method {} is a notification: its id is 0", packet.method));
        }
        other => return Incoming::Refuse(format!("method {other} is not offered here")),
    };
    match get(&packet.body, "name").and_then(Value::as_text) {
        Some(name) => Incoming::Ask(make(name.to_owned())),
        None => Incoming::Refuse(format!("the body of method {} needs a name, a text", packet.method)),
    }
}
