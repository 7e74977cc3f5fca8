//! The frontend kind `knock`: whoever says the secret wakes the target; whoever says `status` is told how it is.

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

/// The most that a visitor may say.
const LONGEST_LINE: usize = 128;

/// How many visitors there can be at once; one more costs the oldest its place.
const MOST_VISITORS: usize = 100;

/// How long to wait before accepting again after that has failed.
const PAUSE: Duration = Duration::from_millis(100);

/// The listener's key. Visitors have the numbers after it.
const LISTENER: usize = 0;

/// Reads the option `secret`.
pub fn frontend(spec: &FrontendSpec, options: &mut Section<'_>, patience: Duration) -> Option<Frontend> {
    let secret: Option<String> = options.required("secret");
    if spec.protocol != Protocol::Tcp {
        options.problem("", "a knock comes over tcp, so that is the frontend's protocol");
    }
    let [door] = spec.listen.as_slice() else {
        options.problem("", "a house has one door, so the frontend listens on one address");
        return None;
    };
    if door.ports.is_range() {
        options.problem("", "a house has one door, so the frontend listens on one port");
    }
    let handler = Knock {
        name: spec.name.clone(),
        address: door.first(),
        secret: secret?,
        patience,
        state: "asleep",
        listener: None,
        retry: None,
        visitors: BTreeMap::new(),
        next: LISTENER + 1,
    };
    Some(Frontend { cold: ColdPath::Local, keeps_warm: false, handler: Some(Box::new(handler)) })
}

struct Knock {
    name: String,
    address: SocketAddr,
    secret: String,
    patience: Duration,
    /// How the target is, as far as we know.
    state: &'static str,
    listener: Option<TcpListener>,
    /// When to accept again after that has failed.
    retry: Option<Instant>,
    /// By key, and so by age.
    visitors: BTreeMap<usize, Visitor>,
    next: usize,
}

struct Visitor {
    stream: TcpStream,
    peer: SocketAddr,
    said: Vec<u8>,
    answered: bool,
    leaves: Instant,
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
        while let Some(key) = self.visitors.keys().next().copied() {
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
        let oldest = self.visitors.values().next().map(|visitor| visitor.leaves);
        oldest.into_iter().chain(self.retry).min()
    }

    fn timeout(&mut self, io: &mut Io<'_>) {
        while let Some((&key, visitor)) = self.visitors.first_key_value()
            && visitor.leaves <= io.now()
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
            Change::Active => "awake",
            Change::Inactive => "asleep",
            Change::Failed => "unwell",
        };
    }
}

impl Knock {
    /// Takes in everybody who waits at the door.
    fn accept(&mut self, io: &mut Io<'_>) {
        while let Some(listener) = &self.listener {
            match listener.accept() {
                Ok((stream, peer)) => self.admit(io, stream, peer),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    // No event will come for those who wait already.
                    log::warn!("frontend {}: cannot accept a connection: {error}", self.name);
                    self.retry = Some(io.now() + PAUSE);
                    return;
                }
            }
        }
    }

    fn admit(&mut self, io: &mut Io<'_>, mut stream: TcpStream, peer: SocketAddr) {
        if self.visitors.len() >= MOST_VISITORS
            && let Some(oldest) = self.visitors.keys().next().copied()
        {
            self.close(io, oldest);
        }
        let key = self.next;
        self.next += 1;
        if let Err(error) = io.register(&mut stream, key, Interest::READABLE) {
            log::warn!("frontend {}: cannot watch a connection: {error}", self.name);
            return;
        }
        let leaves = io.now() + self.patience;
        self.visitors.insert(key, Visitor { stream, peer, said: Vec::new(), answered: false, leaves });
    }

    /// Hears a visitor out, and answers the first line.
    fn serve(&mut self, io: &mut Io<'_>, key: usize) {
        let Some(visitor) = self.visitors.get_mut(&key) else { return };
        let stays = visitor.listen();
        if let Some(line) = visitor.line() {
            let answer = if line.strip_prefix("knock ") == Some(&self.secret) {
                io.wake(Some(visitor.peer));
                "come back in a moment\n".to_owned()
            } else if line == "status" {
                format!("{}\n", self.state)
            } else {
                "who is there?\n".to_owned()
            };
            visitor.answer(&answer);
        }
        if !stays {
            self.close(io, key);
        }
    }

    fn close(&mut self, io: &mut Io<'_>, key: usize) {
        if let Some(mut visitor) = self.visitors.remove(&key) {
            io.deregister(&mut visitor.stream, key);
        }
    }
}

impl Visitor {
    /// Reads until there is nothing more to be read for now. `false` if the visitor has left, or has said too much.
    fn listen(&mut self) -> bool {
        let mut buffer = [0; LONGEST_LINE];
        while self.said.len() < LONGEST_LINE {
            match self.stream.read(&mut buffer) {
                Ok(0) => return false,
                Ok(count) => self.said.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        false
    }

    /// The line to be answered.
    fn line(&self) -> Option<String> {
        let end = self.said.iter().position(|byte| *byte == b'\n').filter(|_| !self.answered)?;
        Some(String::from_utf8_lossy(&self.said[..end]).trim_end().to_owned())
    }

    /// So short an answer always finds room in a socket that nothing has been written to. The visitor closes first: a socket
    /// that is closed while something can still come resets the connection, and could cost the visitor the answer.
    fn answer(&mut self, text: &str) {
        self.answered = true;
        if self.stream.write_all(text.as_bytes()).and_then(|()| self.stream.shutdown(Shutdown::Write)).is_err() {
            log::debug!("{} did not wait for the answer", self.peer);
        }
    }
}
