//! One request and its answer.

use std::fmt;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use proxygw::plugins::ctl::wire::{self, Codec, Decoded, Packet, method};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use serde_json::{Map, Value};

/// How long the whole exchange may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The longest answer that is taken: a status of 100,000 targets is shorter.
const LONGEST_ANSWER: usize = 64 << 20;

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Error {
    /// Nobody listens.
    Nobody(io::Error),
    /// The exchange failed.
    Io(io::Error),
    /// The daemon does not answer in time.
    Silent,
    /// The daemon has closed the connection without an answer.
    Closed,
    /// What came is no answer.
    Malformed(String),
    /// The daemon's own words.
    Refused(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Nobody(error) => write!(f, "no daemon answers there ({error}); is proxygw running?"),
            Error::Io(error) => error.fmt(f),
            Error::Silent => write!(f, "the daemon does not answer within {PATIENCE:?}"),
            Error::Closed => f.write_str("the daemon has closed the connection; does it speak another codec?"),
            Error::Malformed(why) => write!(f, "this is not an answer, perhaps in another codec: {why}"),
            Error::Refused(message) => f.write_str(message),
        }
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Error {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Error::Silent,
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Error::Closed,
            _ => Error::Io(error),
        }
    }
}

/// Asks the daemon at `socket`, and returns the body of its answer.
pub(crate) fn ask(socket: &Path, codec: Codec, method: u16, name: Option<&str>) -> Result<Value, Error> {
    let deadline = Instant::now() + PATIENCE;
    let mut stream = connect(socket)?;
    let body: Map<String, Value> = name.map(|name| ("name".to_owned(), name.into())).into_iter().collect();
    stream.write_all(&wire::encode(codec, &Packet { id: 1, method, body: Some(body) }))?;
    let packet = match codec {
        Codec::Json => receive::<Value>(&mut stream, codec, deadline)?,
        Codec::Cbor => {
            let Packet { id, method, body } = receive::<ciborium::Value>(&mut stream, codec, deadline)?;
            Packet { id, method, body: body.map(to_json).transpose()? }
        }
    };
    let body = packet.body.unwrap_or(Value::Null);
    if packet.method == method::ERROR {
        return Err(Error::Refused(body["msg"].as_str().unwrap_or("an error without words").to_owned()));
    }
    if (packet.id, packet.method) != (1, method + 1) {
        return Err(Error::Malformed(format!("it has the id {} and the method {}", packet.id, packet.method)));
    }
    Ok(body)
}

/// Connects; a daemon that accepts nobody is not waited for without end.
fn connect(path: &Path) -> Result<UnixStream, Error> {
    let address = SocketAddrUnix::new(path).map_err(|error| Error::Io(error.into()))?;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .map_err(|error| Error::Io(error.into()))?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(PATIENCE))
        .map_err(|error| Error::Io(error.into()))?;
    rustix::net::connect(&socket, &address).map_err(|error| match io::Error::from(error) {
        error if error.kind() == io::ErrorKind::WouldBlock => Error::Silent,
        error => Error::Nobody(error),
    })?;
    Ok(UnixStream::from(socket))
}

fn receive<B: serde::de::DeserializeOwned>(
    stream: &mut UnixStream,
    codec: Codec,
    deadline: Instant,
) -> Result<Packet<B>, Error> {
    let mut bytes = Vec::new();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Error::Silent);
        }
        stream.set_read_timeout(Some(left))?;
        let read = match stream.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        bytes.extend_from_slice(&buffer[..read]);
        {
            match wire::decode(codec, &bytes) {
                Decoded::Packet(packet, _) => return Ok(packet),
                Decoded::Malformed(why) => return Err(Error::Malformed(why)),
                Decoded::Incomplete if read == 0 => return Err(Error::Closed),
                Decoded::Incomplete => {}
            }
        }
        if bytes.len() > LONGEST_ANSWER {
            return Err(Error::Malformed("it has no end".to_owned()));
        }
    }
}

/// The JSON of a CBOR body: the daemon's bodies have nothing that JSON has not.
fn to_json(value: ciborium::Value) -> Result<Value, Error> {
    value.deserialized().map_err(|error| Error::Malformed(error.to_string()))
}
