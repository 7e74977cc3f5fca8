//! One HTTP request, and the status line of its response.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Maximum number of bytes that are read to find the first line and the headers.
const MAX_HEAD: usize = 8 * 1024;

/// Sends `GET path`, and succeeds if the response has a status below 400.
///
/// # Errors
/// The fault, or the status of the response.
pub(super) fn get(address: SocketAddr, path: &str, timeout: Duration) -> io::Result<()> {
    let deadline = Instant::now() + timeout;
    let mut stream = TcpStream::connect_timeout(&address, timeout)?;
    stream.set_write_timeout(Some(timeout))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: proxygw\r\nConnection: close\r\n\r\n");
    // In one segment: a server may answer and close after the first.
    stream.write_all(request.as_bytes())?;
    let mut head = Vec::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        let mut buffer = [0; 1024];
        let read = stream.read(&mut buffer)?;
        head.extend_from_slice(&buffer[..read]);
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut response = httparse::Response::new(&mut headers);
        let parsed = response.parse(&head).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        match response.code {
            Some(code) if parsed.is_complete() && code < 400 => return Ok(()),
            Some(code) if parsed.is_complete() => {
                return Err(io::Error::other(format!("status {code} for GET {path}")));
            }
            _ if read == 0 || head.len() > MAX_HEAD => return Err(io::Error::other("the response is not HTTP")),
            _ => {}
        }
    }
}
