//! One client's conversation, without its socket: bytes and the engine's replies go in, requests and bytes come out.
//!
//! Runs on the reactor thread. Invariants: the responses come in the order of the requests; no further packet is looked at
//! while one waits for the engine or while output is left, so a client costs one response and one input buffer at most.

use super::methods::{self, Empty, Incoming, Message};
use super::wire::{Codec, Reader, encode};
use crate::engine::{Reply, Request};

/// The longest request, in bytes.
pub(super) const MAX_REQUEST: usize = 64 << 10;

/// What can be done next for a [`Session`].
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    /// Send what [`Session::output`] has.
    Send,
    /// Ask the engine, and give its reply to [`Session::answer`].
    Ask(Request),
    /// Nothing until the engine has replied.
    Wait,
    /// A notification has come that means nothing to us: go on.
    Ignored,
    /// Receive more.
    Read,
    /// Close: all that can be done has been done.
    Close,
}

/// What the client is owed for the request that is with the engine.
#[derive(Debug, Clone, Copy)]
struct Owed {
    id: u32,
    method: u16,
}

/// One client's conversation.
#[derive(Debug)]
pub(super) struct Session {
    codec: Codec,
    reader: Reader,
    owed: Option<Owed>,
    output: Vec<u8>,
    sent: usize,
    /// The client will send no more.
    ended: bool,
    /// What the client sent makes no sense any more.
    broken: bool,
}

impl Session {
    pub(super) fn new(codec: Codec) -> Session {
        let reader = Reader::new(codec, MAX_REQUEST);
        Session { codec, reader, owed: None, output: Vec::new(), sent: 0, ended: false, broken: false }
    }

    /// What is to be done next.
    pub(super) fn step(&mut self) -> Step {
        loop {
            if !self.output().is_empty() {
                return Step::Send;
            }
            if self.owed.is_some() {
                return Step::Wait;
            }
            if self.broken {
                return Step::Close;
            }
            match self.reader.packet() {
                Ok(None) if self.ended => return Step::Close,
                Ok(None) => return Step::Read,
                Ok(Some(packet)) => match methods::incoming(&packet) {
                    Incoming::Ask(request) => {
                        self.owed = Some(Owed { id: packet.id, method: methods::response_to(packet.method) });
                        return Step::Ask(request);
                    }
                    // A packet is a step, also one that is not answered: others want their turn too.
                    Incoming::Refuse(_) if packet.id == 0 => return Step::Ignored,
                    Incoming::Refuse(message) => self.refuse(packet.id, &message),
                },
                Err(error) => {
                    log::debug!("ctl: {error}; closing the connection");
                    self.broken = true;
                    if let Some(id) = error.id {
                        self.refuse(id, &error.to_string());
                    }
                }
            }
        }
    }

    /// Takes what the client has sent. Only after [`Step::Read`].
    pub(super) fn received(&mut self, bytes: &[u8]) {
        self.reader.push(bytes);
    }

    /// The client will send no more; what it has asked is still answered.
    pub(super) fn ended(&mut self) {
        self.ended = true;
    }

    /// Whether the client is owed a response, or part of one.
    pub(super) fn busy(&self) -> bool {
        self.owed.is_some() || !self.output().is_empty()
    }

    /// Takes the engine's reply to what [`Step::Ask`] gave.
    pub(super) fn answer(&mut self, reply: &Reply) {
        let Some(Owed { id, method }) = self.owed.take() else { return };
        match reply {
            Reply::Refused(message) if id == 0 => log::debug!("ctl: a notification: {message}"),
            _ if id == 0 => {}
            Reply::Refused(message) => self.refuse(id, message),
            Reply::Done => self.respond(id, method, &Empty {}),
            Reply::Status(status) => self.respond(id, method, status),
            Reply::Explanation(explanation) => self.respond(id, method, explanation),
        }
    }

    /// What is to be sent.
    pub(super) fn output(&self) -> &[u8] {
        &self.output[self.sent..]
    }

    /// So many bytes of the output have been sent.
    pub(super) fn sent(&mut self, count: usize) {
        self.sent += count;
        if self.sent >= self.output.len() {
            // A status can be large, and the next request may be hours away.
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
            self.broken = true;
        }
    }
}
