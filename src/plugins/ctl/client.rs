//! One request to a running daemon, and its response. Blocks for a bounded time.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use super::methods::{self, Empty, Named};
use super::wire::{Codec, Packet, Reader, Value, encode, get};

/// Maximum size of a response, in bytes.
const MAX_RESPONSE: usize = 64 << 20;

/// Id of the only request of a connection.
const ID: u32 = 1;

/// Sends a request to the daemon at `socket` and returns the body of the response. `timeout` bounds all of it.
///
/// # Errors
/// There is no daemon, it refuses, or it does not respond correctly and in time. The message has the socket's path, except for
/// a refusal.
pub fn exchange(
    socket: &Path,
    codec: Codec,
    method: u16,
    name: Option<&str>,
    timeout: Duration,
) -> Result<Value, String> {
    let deadline = Instant::now() + timeout;
    let mut request = Vec::new();
    let encoded = match name {
        Some(name) => encode(codec, ID, method, &Named { name }, &mut request),
        None => encode(codec, ID, method, &Empty {}, &mut request),
    };
    let failed = |message: String| format!("{}: {message}", socket.display());
    encoded.map_err(|error| failed(error.to_string()))?;
    let mut stream = open(socket, timeout).map_err(|error| failed(connect_error(&error)))?;
    let packet = converse(&mut stream, codec, &request, deadline).map_err(failed)?;
    if packet.method == methods::ERROR {
        let message = get(&packet.body, "msg").and_then(Value::as_text);
        return Err(message.unwrap_or("the daemon refused the request without a reason").to_owned());
    }
    if packet.method != methods::response_to(method) {
        return Err(failed(format!("the daemon responded to method {method} with {}", packet.method)));
    }
    Ok(packet.body)
}

/// Connects. A full queue blocks connect(2) too, so the timeout is set before it.
fn open(path: &Path, timeout: Duration) -> io::Result<UnixStream> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&socket, Timeout::Send, Some(timeout))?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(UnixStream::from(socket))
}

/// Reason for a failed connect(2), and a hint.
fn connect_error(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => "no such file; is proxygw running?".to_owned(),
        ErrorKind::ConnectionRefused => "connection refused; is proxygw running?".to_owned(),
        ErrorKind::PermissionDenied => {
            "permission denied; run as root, or set plugins.ctl.mode and plugins.ctl.group".to_owned()
        }
        ErrorKind::WouldBlock => "the daemon does not respond".to_owned(),
        _ => format!("cannot connect: {error}"),
    }
}

/// Sends the request and waits for the response to it.
fn converse(stream: &mut UnixStream, codec: Codec, request: &[u8], deadline: Instant) -> Result<Packet, String> {
    match stream.write_all(request) {
        // A response from before the connection was closed is more useful than this error.
        Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {}
        Err(error) if error.kind() == ErrorKind::WouldBlock => return Err("the daemon does not respond".to_owned()),
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
            return Err("the daemon does not respond".to_owned());
        }
        stream.set_read_timeout(Some(left)).map_err(|error| error.to_string())?;
        match stream.read(&mut chunk) {
            Ok(0) => return Err(closed(codec)),
            Ok(count) => reader.push(&chunk[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Err(closed(codec)),
            Err(error) => return Err(format!("cannot receive the response: {error}")),
        }
    }
}

fn closed(codec: Codec) -> String {
    format!("the daemon closed the connection without a response; does it use another codec than {}?", codec.name())
}
