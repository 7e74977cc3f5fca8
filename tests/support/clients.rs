//! Clients for use inside [`Namespace::run`](super::Namespace::run), each with a bound.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use super::Namespace;

/// How long a request takes at most.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A connection over which one request has been answered, and which stays open.
#[derive(Debug)]
pub struct Client(TcpStream);

impl Client {
    /// Connects from a namespace to a [`backend_command`](super::backend_command), and asks once.
    #[track_caller]
    pub fn connect(namespace: &Namespace, address: SocketAddr) -> Client {
        let stream = namespace.run(|| TcpStream::connect_timeout(&address, TIMEOUT)).expect("a connection");
        stream.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
        let mut client = Client(stream);
        client.ask();
        client
    }

    /// Asks once more; returns the answer.
    #[track_caller]
    pub fn ask(&mut self) -> String {
        self.0.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").expect("it is open");
        let mut answer = String::new();
        let mut part = [0; 1024];
        while !answer.ends_with("}\n") {
            let read = self.0.read(&mut part).expect("an answer");
            assert_ne!(read, 0, "closed after {answer:?}");
            answer.push_str(&String::from_utf8_lossy(&part[..read]));
        }
        answer
    }

    /// Asks once more, unless the connection is over; whether it was answered.
    pub fn ask_if_open(&mut self) -> bool {
        let mut part = [0; 1024];
        self.0.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").is_ok()
            && self.0.read(&mut part).is_ok_and(|read| read > 0)
    }

    /// The connection itself.
    pub fn stream(&mut self) -> &mut TcpStream {
        &mut self.0
    }
}

/// Asks an HTTP server for a path; returns the status and the body.
///
/// # Errors
/// What the operating system said, `TimedOut` after 10 s, or `InvalidData` for something that is not HTTP.
pub fn http_get(address: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    http_get_within(address, path, TIMEOUT)
}

/// [`http_get`] with a timeout of its own for the whole of it.
///
/// # Errors
/// As [`http_get`].
pub fn http_get_within(address: SocketAddr, path: &str, timeout: Duration) -> io::Result<(u16, String)> {
    let until = Instant::now() + timeout;
    let mut stream = TcpStream::connect_timeout(&address, timeout)?;
    stream.set_write_timeout(Some(timeout))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    let mut part = [0; 4096];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut part) {
            Ok(0) => break,
            Ok(length) => answer.extend_from_slice(&part[..length]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(io::ErrorKind::TimedOut.into()),
            Err(error) => return Err(error),
        }
    }
    parse(&String::from_utf8_lossy(&answer))
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, String::from_utf8_lossy(&answer)))
}

fn parse(answer: &str) -> Option<(u16, String)> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    (length.is_none_or(|length| length == body.len())).then(|| (status, body.to_owned()))
}

/// Sends one datagram and returns the answer to it.
///
/// # Errors
/// What the operating system said; `TimedOut` if no answer comes in time.
pub fn udp_ask(address: SocketAddr, datagram: &[u8], timeout: Duration) -> io::Result<String> {
    let local: SocketAddr = match address {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(local)?;
    socket.connect(address)?;
    socket.set_read_timeout(Some(timeout))?;
    socket.send(datagram)?;
    let mut answer = [0; 65536];
    match socket.recv(&mut answer) {
        Ok(length) => Ok(String::from_utf8_lossy(&answer[..length]).into_owned()),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(io::ErrorKind::TimedOut.into()),
        Err(error) => Err(error),
    }
}
