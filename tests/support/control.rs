//! The control socket's JSON wire format, spoken from scratch.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

/// How long one request takes at most.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The method of a status request; the response's is one more.
pub(super) const STATUS: u16 = 2;

/// Sends one request on a connection of its own; returns the response's body.
///
/// # Errors
/// What the operating system said, or `InvalidData` if the response is not one to the request.
pub(super) fn request(socket: &Path, method: u16, body: Value) -> io::Result<Value> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let packet = format!("{}\n", json!({"id": 1, "method": method, "body": body}));
    stream.write_all(packet.as_bytes())?;
    // The first JSON value is all of it, whether a newline follows or not.
    let mut values = serde_json::Deserializer::from_reader(stream).into_iter::<Value>();
    let response = values.next().ok_or(io::ErrorKind::UnexpectedEof)??;
    if response["id"] != 1 || response["method"] != method + 1 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, response.to_string()));
    }
    Ok(response["body"].clone())
}
