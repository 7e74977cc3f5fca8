//! One client's connection.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::time::Instant;

use mio::net::TcpStream;

use super::response::{Effect, Page};

/// Maximum size of a request's head.
pub(super) const MAX_HEAD: usize = 8 * 1024;

/// Maximum number of reads that discard what follows a request, in one call.
const MAX_DISCARDS: usize = 64;

/// A connection of a client.
pub(super) struct Connection {
    pub(super) stream: TcpStream,
    pub(super) peer: SocketAddr,
    pub(super) expires: Instant,
    state: State,
}

enum State {
    /// The part of the request's head that has arrived.
    Reading(Vec<u8>),
    /// The response, and the number of bytes already written.
    Writing(Vec<u8>, usize),
    /// The response is out. Closing before the client does would reset the connection and could destroy the response.
    Lingering,
}

/// What to do with a connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    Keep,
    Close,
}

impl Connection {
    pub(super) fn new(stream: TcpStream, peer: SocketAddr, expires: Instant) -> Connection {
        Connection { stream, peer, expires, state: State::Reading(Vec::new()) }
    }

    /// Returns true once the response is out.
    pub(super) fn is_answered(&self) -> bool {
        matches!(self.state, State::Lingering)
    }

    #[cfg(test)]
    pub(super) fn is_writing(&self) -> bool {
        matches!(self.state, State::Writing(..))
    }

    /// Reads, responds and writes without blocking. Calls `wake` for a request that wakes the target.
    pub(super) fn advance(&mut self, page: &Page, mut wake: impl FnMut(SocketAddr)) -> Next {
        loop {
            let step = match &mut self.state {
                State::Reading(head) => read_head(&mut self.stream, head).map(|()| {
                    let (response, effect) = page.response(head);
                    if effect == Effect::Wake {
                        wake(self.peer);
                    }
                    State::Writing(response, 0)
                }),
                State::Writing(response, written) => write_rest(&mut self.stream, response, written)
                    .and_then(|()| self.stream.shutdown(Shutdown::Write))
                    .map(|()| State::Lingering),
                State::Lingering => match discard(&mut self.stream) {
                    Ok(()) => return Next::Close,
                    Err(error) => Err(error),
                },
            };
            match step {
                Ok(state) => self.state = state,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Next::Keep,
                Err(_) => return Next::Close,
            }
        }
    }
}

/// Reads until the head of a request is complete or too large.
fn read_head(stream: &mut TcpStream, head: &mut Vec<u8>) -> io::Result<()> {
    let mut buffer = [0; 2048];
    loop {
        let read = match stream.read(&mut buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        let searched = head.len().saturating_sub(3);
        head.extend_from_slice(&buffer[..read]);
        let complete = head[searched..].windows(4).any(|end| end == b"\r\n\r\n")
            || head[searched..].windows(2).any(|end| end == b"\n\n");
        if complete || head.len() > MAX_HEAD {
            return Ok(());
        }
    }
}

fn write_rest(stream: &mut TcpStream, response: &[u8], written: &mut usize) -> io::Result<()> {
    while *written < response.len() {
        match stream.write(&response[*written..]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => *written += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads until the client closes. Returns early for a client that never stops sending: it has its response.
fn discard(stream: &mut TcpStream) -> io::Result<()> {
    let mut buffer = [0; 2048];
    for _ in 0..MAX_DISCARDS {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            read => _ = read?,
        }
    }
    Ok(())
}
