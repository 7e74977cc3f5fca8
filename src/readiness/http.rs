//! One HTTP request, and the first line of its answer.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// How much of an answer is read to find its first line and headers.
const MOST: usize = 8 * 1024;

/// Whether `GET path` is answered with a status below 400.
///
/// # Errors
/// What went wrong, or which status came.
pub(super) fn get(address: SocketAddr, path: &str, patience: Duration) -> io::Result<()> {
    let deadline = Instant::now() + patience;
    let mut stream = TcpStream::connect_timeout(&address, patience)?;
    stream.set_write_timeout(Some(patience))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: proxygw\r\nConnection: close\r\n\r\n")?;
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
            _ if read == 0 || head.len() > MOST => return Err(io::Error::other("the answer is not HTTP")),
            _ => {}
        }
    }
}
