//! The protocol with one client, without its socket: bytes and the engine's replies go in, requests and bytes come out.
//!
//! Runs on the reactor thread. Invariants: responses have the order of their requests; no further packet is read while one
//! waits for the engine or while output is left, so a client costs at most one response and one input buffer.

use super::methods::{self, Empty, Incoming, Message};
use super::wire::{Codec, Reader, encode};
use crate::plugin::{Reply, Request};

/// Maximum size of a request, in bytes.
pub(super) const MAX_REQUEST: usize = 64 << 10;

/// Next thing to do for a [`Session`].
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    /// Send [`Session::output`].
    Send,
    /// Send this request to the engine, and pass its reply to [`Session::reply`].
    Request(Request),
    /// Wait for the engine's reply.
    Wait,
    /// Continue: a notification of no meaning here was dropped.
    Ignored,
    /// Receive more.
    Receive,
    /// Close: everything possible is done.
    Close,
}

/// The request that waits for the engine's reply.
#[derive(Debug, Clone, Copy)]
struct Pending {
    id: u32,
    /// Method of the response.
    method: u16,
}

/// State of the bytes from the client.
#[derive(Debug, PartialEq)]
enum Input {
    Open,
    /// The client sends no more.
    Ended,
    /// The client sent something that is not a packet.
    Malformed,
}

/// The protocol with one client.
#[derive(Debug)]
pub(super) struct Session {
    codec: Codec,
    reader: Reader,
    input: Input,
    pending: Option<Pending>,
    output: Vec<u8>,
    sent: usize,
}

impl Session {
    pub(super) fn new(codec: Codec) -> Session {
        let reader = Reader::new(codec, MAX_REQUEST);
        Session { codec, reader, input: Input::Open, pending: None, output: Vec::new(), sent: 0 }
    }

    /// Returns the next thing to do.
    pub(super) fn step(&mut self) -> Step {
        loop {
            if !self.output().is_empty() {
                return Step::Send;
            }
            if self.pending.is_some() {
                return Step::Wait;
            }
            if self.input == Input::Malformed {
                return Step::Close;
            }
            match self.reader.packet() {
                Ok(None) if self.input == Input::Ended => return Step::Close,
                Ok(None) => return Step::Receive,
                Ok(Some(packet)) => match methods::incoming(&packet) {
                    Incoming::Request(request) => {
                        self.pending = Some(Pending { id: packet.id, method: methods::response_to(packet.method) });
                        return Step::Request(request);
                    }
                    // Each packet is a step, so that others have their turn after many of them.
                    Incoming::Refused(_) if packet.id == 0 => return Step::Ignored,
                    Incoming::Refused(message) => self.refuse(packet.id, &message),
                },
                Err(error) => {
                    log::debug!("ctl: {error}; closing the connection");
                    self.input = Input::Malformed;
                    if let Some(id) = error.id {
                        self.refuse(id, &error.to_string());
                    }
                }
            }
        }
    }

    /// Adds bytes from the client. Only after [`Step::Receive`].
    pub(super) fn received(&mut self, bytes: &[u8]) {
        self.reader.push(bytes);
    }

    /// Handles the end of the client's bytes. Its requests are still answered.
    pub(super) fn end(&mut self) {
        self.input = Input::Ended;
    }

    /// Returns true if the client waits for a response, or for a part of one.
    pub(super) fn is_busy(&self) -> bool {
        self.pending.is_some() || !self.output().is_empty()
    }

    /// Handles the engine's reply to [`Step::Request`].
    pub(super) fn reply(&mut self, reply: &Reply) {
        let Some(Pending { id, method }) = self.pending.take() else { return };
        match reply {
            Reply::Refused(message) if id == 0 => log::debug!("ctl: a notification was refused: {message}"),
            _ if id == 0 => {}
            Reply::Refused(message) => self.refuse(id, message),
            Reply::Done => self.respond(id, method, &Empty {}),
            Reply::Status(status) => self.respond(id, method, status),
            Reply::Explanation(explanation) => self.respond(id, method, explanation),
        }
    }

    /// Bytes to send.
    pub(super) fn output(&self) -> &[u8] {
        &self.output[self.sent..]
    }

    /// Removes sent bytes from the output.
    pub(super) fn sent(&mut self, count: usize) {
        self.sent += count;
        if self.sent >= self.output.len() {
            // Frees it: a status can be large, and the next request hours away.
            self.output = Vec::new();
            self.sent = 0;
        }
    }

    fn refuse(&mut self, id: u32, message: &str) {
        self.respond(id, methods::ERROR, &Message { msg: message });
    }

    fn respond(&mut self, id: u32, method: u16, body: &impl serde::Serialize) {
        if let Err(error) = encode(self.codec, id, method, body, &mut self.output) {
            log::error!("ctl: cannot write a response of method {method}: {error}");
            self.input = Input::Malformed;
        }
    }
}
