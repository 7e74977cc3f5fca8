//! One question to a running daemon, and its answer. Blocks, for a bounded time.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use super::methods::{self, Empty, Named};
use super::wire::{Codec, Packet, Reader, Value, encode, get};

/// The longest response, in bytes.
const MAX_RESPONSE: usize = 64 << 20;

/// The id of the only request of a connection.
const ID: u32 = 1;

/// Why there is no answer. Shown with the socket's path, but for a refusal.
#[derive(Debug)]
pub enum ExchangeError {
    /// The daemon has said no, and why.
    Refused(String),
    /// Anything else.
    Failed(String),
}

impl fmt::Display for ExchangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ExchangeError::Refused(message) | ExchangeError::Failed(message) => f.write_str(message),
        }
    }
}

impl std::error::Error for ExchangeError {}

/// Asks the daemon at `socket` and returns the body of its answer. `patience` bounds all of it.
///
/// # Errors
/// No daemon is there, it does not answer in time or not as it should, or it refuses.
pub fn exchange(
    socket: &Path,
    codec: Codec,
    method: u16,
    name: Option<&str>,
    patience: Duration,
) -> Result<Value, ExchangeError> {
    let deadline = Instant::now() + patience;
    let mut request = Vec::new();
    let encoded = match name {
        Some(name) => encode(codec, ID, method, &Named { name }, &mut request),
        None => encode(codec, ID, method, &Empty {}, &mut request),
    };
    let failed = |message: String| ExchangeError::Failed(format!("{}: {message}", socket.display()));
    encoded.map_err(|error| failed(error.to_string()))?;
    let mut stream = open(socket, patience).map_err(|error| failed(unreachable_because(&error)))?;
    let packet = converse(&mut stream, codec, &request, deadline).map_err(failed)?;
    if packet.method == methods::ERROR {
        let message = get(&packet.body, "msg").and_then(Value::as_text);
        return Err(ExchangeError::Refused(message.unwrap_or("the daemon refuses, and does not say why").to_owned()));
    }
    if packet.method != methods::response_to(method) {
        return Err(failed(format!("the daemon answered method {method} with {}", packet.method)));
    }
    Ok(packet.body)
}

/// Connects. A full queue blocks a connect too, so the bound is set before it.
fn open(path: &Path, patience: Duration) -> io::Result<UnixStream> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&socket, Timeout::Send, Some(patience))?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(UnixStream::from(socket))
}

/// Why nobody could be reached, and what may help.
fn unreachable_because(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => "no daemon answers there (no such file); is proxygw running?".to_owned(),
        ErrorKind::ConnectionRefused => "no daemon answers there (connection refused); is proxygw running?".to_owned(),
        ErrorKind::PermissionDenied => {
            "permission denied; try as root, or see plugins.ctl.mode and plugins.ctl.group".to_owned()
        }
        ErrorKind::WouldBlock => "the daemon does not answer".to_owned(),
        _ => format!("no daemon answers there ({error})"),
    }
}

/// Sends the request and waits for the response to it.
fn converse(stream: &mut UnixStream, codec: Codec, request: &[u8], deadline: Instant) -> Result<Packet, String> {
    match stream.write_all(request) {
        // What it said before it closed the connection is worth more than that it did.
        Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {}
        Err(error) if error.kind() == ErrorKind::WouldBlock => return Err("the daemon does not answer".to_owned()),
        Err(error) => return Err(format!("cannot send the request: {error}")),
        Ok(()) => {}
    }
    let mut reader = Reader::new(codec, MAX_RESPONSE);
    let mut chunk = vec![0; 64 << 10];
    loop {
        while let Some(packet) = reader
            .packet()
            .map_err(|error| format!("{error}; does the daemon use another codec than {}?", codec.name()))?
        {
            if packet.id == ID {
                return Ok(packet);
            }
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err("the daemon does not answer".to_owned());
        }
        stream.set_read_timeout(Some(left)).map_err(|error| error.to_string())?;
        match stream.read(&mut chunk) {
            Ok(0) => return Err(closed(codec)),
            Ok(count) => reader.push(&chunk[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Err(closed(codec)),
            Err(error) => return Err(format!("cannot receive the answer: {error}")),
        }
    }
}

fn closed(codec: Codec) -> String {
    format!("the daemon closed the connection without an answer; does it use another codec than {}?", codec.name())
}
