//! The frontend kind `knock`: a client that sends the secret wakes the target; one that sends `status` gets its state.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::time::{Duration, Instant};

use proxygw::plugin::log;
use proxygw::plugin::mio::Interest;
use proxygw::plugin::mio::net::{TcpListener, TcpStream};
use proxygw::plugin::{
    Change, ColdPath, Error, Frontend, FrontendId, FrontendSpec, Handler, Io, Protocol, Readiness, Section, listen,
};

/// Maximum length of a client's line.
const MAX_LINE: usize = 128;

/// Maximum number of clients. A further one replaces the oldest.
const MAX_CLIENTS: usize = 100;

/// Pause after a failed `accept`.
const PAUSE: Duration = Duration::from_millis(100);

/// Key of the listener. Clients have the numbers after it.
const LISTENER: usize = 0;

/// Reads the option `secret`.
pub fn frontend(spec: &FrontendSpec, options: &mut Section<'_>, timeout: Duration) -> Option<Frontend> {
    let secret: Option<String> = options.required("secret");
    if spec.protocol != Protocol::Tcp {
        options.problem("", "demo:knock supports tcp only");
    }
    let [address] = spec.listen.as_slice() else {
        options.problem("", "demo:knock listens on one address only");
        return None;
    };
    if address.ports.is_range() {
        options.problem("", "demo:knock listens on one port only");
    }
    let handler = Knock {
        name: spec.name.clone(),
        address: address.first(),
        secret: secret?,
        timeout,
        state: "inactive",
        listener: None,
        retry: None,
        clients: BTreeMap::new(),
        next: LISTENER + 1,
    };
    Some(Frontend { cold: ColdPath::Local, keeps_warm: false, handler: Some(Box::new(handler)) })
}

struct Knock {
    name: String,
    address: SocketAddr,
    secret: String,
    timeout: Duration,
    /// Last reported state of the target.
    state: &'static str,
    listener: Option<TcpListener>,
    /// Time of the next `accept` after a failed one.
    retry: Option<Instant>,
    /// By key, and so by age.
    clients: BTreeMap<usize, Client>,
    next: usize,
}

struct Client {
    stream: TcpStream,
    peer: SocketAddr,
    received: Vec<u8>,
    answered: bool,
    deadline: Instant,
}

impl Handler for Knock {
    fn start(&mut self, io: &mut Io<'_>) -> Result<(), Error> {
        let mut listener =
            listen(self.address).map_err(|error| format!("cannot listen on {}: {error}", self.address))?;
        io.register(&mut listener, LISTENER, Interest::READABLE)?;
        self.listener = Some(listener);
        Ok(())
    }

    fn stop(&mut self, io: &mut Io<'_>) {
        while let Some(key) = self.clients.keys().next().copied() {
            self.close(io, key);
        }
        if let Some(mut listener) = self.listener.take() {
            io.deregister(&mut listener, LISTENER);
        }
        self.retry = None;
    }

    fn ready(&mut self, io: &mut Io<'_>, key: usize, _readiness: Readiness) {
        if key == LISTENER {
            self.accept(io);
        } else {
            self.serve(io, key);
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let oldest = self.clients.values().next().map(|client| client.deadline);
        oldest.into_iter().chain(self.retry).min()
    }

    fn timeout(&mut self, io: &mut Io<'_>) {
        while let Some((&key, client)) = self.clients.first_key_value()
            && client.deadline <= io.now()
        {
            self.close(io, key);
        }
        if self.retry.is_some_and(|at| at <= io.now()) {
            self.retry = None;
            self.accept(io);
        }
    }

    fn target_changed(&mut self, _io: &mut Io<'_>, _frontend: FrontendId, change: Change) {
        self.state = match change {
            Change::Active => "active",
            Change::Inactive => "inactive",
            Change::Failed => "failed",
        };
    }
}

impl Knock {
    /// Accepts all waiting clients.
    fn accept(&mut self, io: &mut Io<'_>) {
        while let Some(listener) = &self.listener {
            match listener.accept() {
                Ok((stream, peer)) => self.admit(io, stream, peer),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    // No event comes for clients that already wait.
                    log::warn!("frontend {}: cannot accept a connection: {error}", self.name);
                    self.retry = Some(io.now() + PAUSE);
                    return;
                }
            }
        }
    }

    fn admit(&mut self, io: &mut Io<'_>, mut stream: TcpStream, peer: SocketAddr) {
        if self.clients.len() >= MAX_CLIENTS
            && let Some(oldest) = self.clients.keys().next().copied()
        {
            self.close(io, oldest);
        }
        let key = self.next;
        self.next += 1;
        if let Err(error) = io.register(&mut stream, key, Interest::READABLE) {
            log::warn!("frontend {}: cannot watch a connection: {error}", self.name);
            return;
        }
        let deadline = io.now() + self.timeout;
        self.clients.insert(key, Client { stream, peer, received: Vec::new(), answered: false, deadline });
    }

    /// Reads from a client, and answers its first line.
    fn serve(&mut self, io: &mut Io<'_>, key: usize) {
        let Some(client) = self.clients.get_mut(&key) else { return };
        let is_open = client.receive();
        if let Some(line) = client.line() {
            let answer = if line.strip_prefix("knock ") == Some(&self.secret) {
                io.wake(Some(client.peer));
                "starting, connect again\n".to_owned()
            } else if line == "status" {
                format!("{}\n", self.state)
            } else {
                "unknown command\n".to_owned()
            };
            client.answer(&answer);
        }
        if !is_open {
            self.close(io, key);
        }
    }

    fn close(&mut self, io: &mut Io<'_>, key: usize) {
        if let Some(mut client) = self.clients.remove(&key) {
            io.deregister(&mut client.stream, key);
        }
    }
}

impl Client {
    /// Reads all that has arrived. Returns `false` if the client has closed, or has sent too much.
    fn receive(&mut self) -> bool {
        let mut buffer = [0; MAX_LINE];
        while self.received.len() < MAX_LINE {
            match self.stream.read(&mut buffer) {
                Ok(0) => return false,
                Ok(count) => self.received.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        false
    }

    /// The line, if it is complete and has no answer yet.
    fn line(&self) -> Option<String> {
        let end = self.received.iter().position(|byte| *byte == b'\n').filter(|_| !self.answered)?;
        Some(String::from_utf8_lossy(&self.received[..end]).trim_end().to_owned())
    }

    /// Such a short answer always fits into an unused socket buffer. The client closes first: closing a socket while data
    /// can still arrive resets the connection, and the client could lose the answer.
    fn answer(&mut self, text: &str) {
        self.answered = true;
        if self.stream.write_all(text.as_bytes()).and_then(|()| self.stream.shutdown(Shutdown::Write)).is_err() {
            log::debug!("{} has closed before the answer", self.peer);
        }
    }
}
