//! One client's side of the conversation, without any socket: bytes in, requests out; replies in, bytes out.
//!
//! A connection has one request at the engine at a time, and is not read from while it has, so that what it can make us
//! keep is one packet and one answer.

use super::wire::{self, Codec, Decoded, Empty, ErrorBody, Packet, RequestBody, method};
use crate::engine::{Reply, Request};

/// The longest packet of a client. Those that there are have some dozens of bytes.
pub(super) const LONGEST_PACKET: usize = 16 * 1024;

/// What is known of a conversation.
pub(super) struct Connection {
    codec: Codec,
    input: Vec<u8>,
    output: Vec<u8>,
    /// The id and the method of the request that the engine has; a notification's id is 0.
    asked: Option<(u32, u16)>,
}

/// What a connection wants next.
#[derive(Debug, PartialEq)]
pub(super) enum Next {
    /// Hand this to the engine, and come back with its reply.
    Ask(Request),
    /// Write [`Connection::output`] first.
    Write,
    /// Wait for the engine.
    Wait,
    /// More bytes.
    Read,
    /// Nothing: the client has sent what is no packet.
    Close,
}

impl Connection {
    pub(super) fn new(codec: Codec) -> Connection {
        Connection { codec, input: Vec::new(), output: Vec::new(), asked: None }
    }

    /// Takes bytes in. To be called only after [`Next::Read`].
    pub(super) fn read(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
    }

    /// What is to be written.
    pub(super) fn output(&self) -> &[u8] {
        &self.output
    }

    /// So much of it has been.
    pub(super) fn written(&mut self, count: usize) {
        self.output.drain(..count);
        if self.output.is_empty() {
            // A status of thousands of targets is not kept in store for the next.
            self.output.shrink_to(LONGEST_PACKET);
        }
    }

    /// Takes the engine's reply in.
    pub(super) fn reply(&mut self, reply: Reply) {
        let Some((id, asked)) = self.asked.take() else { return };
        match reply {
            _ if id == 0 => {}
            Reply::Status(status) => self.answer(id, asked + 1, status),
            Reply::Done => self.answer(id, asked + 1, Empty {}),
            Reply::Refused(msg) => self.answer(id, method::ERROR, ErrorBody { msg }),
        }
    }

    /// Goes on as far as that goes without the engine or the client.
    pub(super) fn next(&mut self) -> Next {
        loop {
            if !self.output.is_empty() {
                return Next::Write;
            }
            if self.asked.is_some() {
                return Next::Wait;
            }
            match wire::decode::<RequestBody>(self.codec, &self.input) {
                Decoded::Packet(packet, used) => {
                    self.input.drain(..used);
                    match request(&packet) {
                        Ok(request) => {
                            self.asked = Some((packet.id, packet.method));
                            return Next::Ask(request);
                        }
                        Err(_) if packet.id == 0 => {}
                        Err(msg) => self.answer(packet.id, method::ERROR, ErrorBody { msg }),
                    }
                }
                Decoded::Incomplete if self.input.len() > LONGEST_PACKET => return Next::Close,
                Decoded::Incomplete => return Next::Read,
                Decoded::Malformed(_) => return Next::Close,
            }
        }
    }

    fn answer(&mut self, id: u32, method: u16, body: impl serde::Serialize) {
        self.output = wire::encode(self.codec, &Packet { id, method, body: Some(body) });
    }
}

/// What a packet asks of the engine.
fn request(packet: &Packet<RequestBody>) -> Result<Request, String> {
    let name = || match &packet.body {
        Some(RequestBody::Named { name }) => Ok(name.clone()),
        _ => Err("the body has no name".to_owned()),
    };
    match (packet.method, packet.id) {
        (method::STATUS, _) => Ok(Request::Status),
        (method::WARM_TARGET, _) => name().map(Request::WarmTarget),
        (method::DRAIN_TARGET, _) => name().map(Request::DrainTarget),
        (method::START_FRONTEND, _) => name().map(Request::StartFrontend),
        (method::STOP_FRONTEND, _) => name().map(Request::StopFrontend),
        (method::FRONTEND_SHOULD_WARM, 0) => name().map(Request::WakeFrontend),
        (other, _) => Err(format!("method {other} is not offered")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds bytes and answers each request at once; what comes out, and whether it is closed at the end.
    fn talk(codec: Codec, chunks: &[&[u8]]) -> (Vec<Request>, String, bool) {
        let mut connection = Connection::new(codec);
        let (mut requests, mut output) = (Vec::new(), Vec::new());
        let mut chunks = chunks.iter();
        loop {
            match connection.next() {
                Next::Ask(request) => {
                    assert_eq!(connection.next(), Next::Wait);
                    connection.reply(Reply::Done);
                    requests.push(request);
                }
                Next::Write => {
                    output.push(connection.output()[0]);
                    connection.written(1);
                }
                Next::Read => match chunks.next() {
                    Some(chunk) => connection.read(chunk),
                    None => return (requests, String::from_utf8_lossy(&output).into_owned(), false),
                },
                Next::Close => return (requests, String::from_utf8_lossy(&output).into_owned(), true),
                Next::Wait => panic!("every request is answered"),
            }
        }
    }

    #[test]
    fn requests_are_answered_in_order_however_they_are_split() {
        let stream = b"{\"id\":7,\"method\":8,\"body\":{\"name\":\"a\"}}\n\n{\"id\":8,\"method\":4,\"body\":{}}{\"id\":9,\"method\":10,\"body\":{}}\
            {\"id\":0,\"method\":32768,\"body\":{\"name\":\"f\"}}{\"id\":0,\"method\":99}{\"id\":10,\"method\":18,\"body\":{\"name\":\"f\"}}";
        let expected = "{\"id\":7,\"method\":9,\"body\":{}}\n\
            {\"id\":8,\"method\":1,\"body\":{\"msg\":\"method 4 is not offered\"}}\n\
            {\"id\":9,\"method\":1,\"body\":{\"msg\":\"the body has no name\"}}\n\
            {\"id\":10,\"method\":19,\"body\":{}}\n";
        for size in 1..stream.len() {
            let chunks: Vec<&[u8]> = stream.chunks(size).collect();
            let (requests, output, closed) = talk(Codec::Json, &chunks);
            let name = |name: &str| name.to_owned();
            assert_eq!(
                requests,
                [Request::WarmTarget(name("a")), Request::WakeFrontend(name("f")), Request::StopFrontend(name("f"))]
            );
            assert_eq!(output, expected, "in pieces of {size}");
            assert!(!closed);
        }
    }

    #[test]
    fn garbage_and_packets_without_end_close_the_connection() {
        assert!(talk(Codec::Json, &[b"GET / HTTP/1.1\r\n"]).2);
        assert!(talk(Codec::Cbor, &[b"{\"id\":1,\"method\":2}"]).2);
        let endless = vec![b' '; 1 << 20];
        let chunks: Vec<&[u8]> = [&b"{\"id\":"[..]].into_iter().chain(endless.chunks(1000)).collect();
        assert!(talk(Codec::Json, &chunks).2);
    }
}
