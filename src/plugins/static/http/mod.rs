//! `static:http`: a frontend that serves cold clients a page, and wakes the target with each request for it.
//!
//! Responses have `Connection: close`, so the client's next request is a new flow and reaches the backend once that is warm.
//! Everything is bounded: the size of a request's head, the time of a connection, and the number of connections. A connection
//! too many closes the one that is missed least.

mod connection;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod response;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mio::Interest;
use mio::net::{TcpListener, TcpStream};

use crate::config::{FrontendSpec, Protocol, Section};
use crate::plugin::{Acceptance, Accepted, ColdPath, Error, Frontend, Handler, Io, Readiness, Share, listen};
use connection::{Connection, Next};
use response::Page;

/// Time of a connection from its acceptance to its end.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum number of connections of a frontend. A low limit of open files leaves fewer.
const MAX_CONNECTIONS: usize = 1024;

/// Time until the next attempt to accept in a shortage of descriptors.
const SHORTAGE: Duration = Duration::from_millis(100);

/// Maximum number of listening sockets of a frontend: one for each address and port. Their keys are below this number,
/// those of connections start at it.
const MAX_LISTENERS: usize = 64;

/// Number of running frontends of this kind. They share the descriptors for clients.
static RUNNING: AtomicUsize = AtomicUsize::new(0);

/// Reads the options `content` and `endpoint`.
pub(super) fn frontend(spec: &FrontendSpec, options: &mut Section<'_>) -> Option<Frontend> {
    let content: Option<String> = options.required("content");
    let path = options.optional("endpoint").unwrap_or_else(|| "/".to_owned());
    if !path.starts_with('/') {
        options.problem("endpoint", format_args!("{path:?} is not a path: it must start with a slash"));
    }
    if spec.protocol != Protocol::Tcp {
        options.problem("", "static:http serves HTTP, so the protocol of the frontend must be tcp");
    }
    let sockets: usize = spec.listen.iter().map(|listen| listen.ports.count() as usize).sum();
    if sockets > MAX_LISTENERS {
        let message = format_args!(
            "static:http would need {sockets} sockets for this listen, at most {MAX_LISTENERS} are possible; packet:hold \
             needs none"
        );
        options.problem("", message);
    }
    if options.failed() {
        return None;
    }
    let listen = spec.listen.iter().flat_map(|listen| listen.sockets()).collect();
    let handler = Http::new(listen, Page { content: content?, path });
    Some(Frontend { cold: ColdPath::Local, keeps_warm: false, handler: Some(Box::new(handler)) })
}

struct Http {
    listen: Vec<SocketAddr>,
    page: Page,
    /// By key: as many as `listen` while the frontend runs, none otherwise.
    listeners: Vec<TcpListener>,
    connections: BTreeMap<usize, Connection>,
    /// Keys of the connections, the oldest first. On 32 bits the keys themselves wrap.
    by_age: BTreeSet<(Instant, usize)>,
    last_key: usize,
    acceptance: Acceptance,
}

impl Handler for Http {
    fn start(&mut self, io: &mut Io<'_>) -> Result<(), Error> {
        for (key, address) in self.listen.iter().enumerate() {
            let opened = listen(*address).and_then(|mut listener| {
                io.register(&mut listener, key, Interest::READABLE)?;
                Ok(listener)
            });
            match opened {
                Ok(listener) => self.listeners.push(listener),
                Err(error) => {
                    let message = format!("cannot listen on {address}: {error}");
                    self.close_listeners(io);
                    return Err(message.into());
                }
            }
        }
        RUNNING.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn stop(&mut self, io: &mut Io<'_>) {
        while let Some(&(_, key)) = self.by_age.first() {
            self.close(io, key);
        }
        self.close_listeners(io);
        self.acceptance.clear();
        RUNNING.fetch_sub(1, Ordering::Relaxed);
    }

    fn ready(&mut self, io: &mut Io<'_>, key: usize, _readiness: Readiness) {
        if key < MAX_LISTENERS { self.accept(io, key) } else { self.advance(io, key) }
    }

    fn deadline(&self) -> Option<Instant> {
        let oldest = self.by_age.first().map(|(expires, _)| *expires);
        oldest.into_iter().chain(self.acceptance.retry_at()).min()
    }

    fn timeout(&mut self, io: &mut Io<'_>) {
        let now = io.now();
        while let Some(&(_, key)) = self.by_age.first().filter(|(expires, _)| *expires <= now) {
            self.close(io, key);
        }
        if self.acceptance.due(now) {
            (0..self.listeners.len()).for_each(|key| self.accept(io, key));
        }
    }
}

impl Http {
    fn new(listen: Vec<SocketAddr>, page: Page) -> Http {
        let acceptance = Acceptance::new(Share::Clients, SHORTAGE);
        let (connections, by_age) = Default::default();
        Http { listen, page, listeners: Vec::new(), connections, by_age, last_key: 0, acceptance }
    }

    fn accept(&mut self, io: &mut Io<'_>, key: usize) {
        self.acceptance.begin();
        while let Some(listener) = self.listeners.get(key) {
            let name = format_args!("static:http on {}", self.listen[key]);
            let Some(accepted) = self.acceptance.next(io.now(), name, || listener.accept()) else { return };
            match accepted {
                Accepted::Client((stream, peer)) => self.admit(io, stream, peer),
                Accepted::Crowded((stream, peer)) => {
                    let stream = if self.close_one(io) { Acceptance::replaced(stream) } else { stream };
                    self.admit(io, stream, peer);
                }
                Accepted::Short => _ = self.close_one(io),
            }
        }
    }

    fn admit(&mut self, io: &mut Io<'_>, mut stream: TcpStream, peer: SocketAddr) {
        if self.connections.len() >= max_connections(Share::Clients.max_clients(), RUNNING.load(Ordering::Relaxed)) {
            self.close_one(io);
        }
        let key = loop {
            self.last_key = self.last_key.wrapping_add(1).max(MAX_LISTENERS);
            if !self.connections.contains_key(&self.last_key) {
                break self.last_key;
            }
        };
        if let Err(error) = io.register(&mut stream, key, Interest::READABLE | Interest::WRITABLE) {
            return log::warn!("cannot register a connection of {peer}: {error}");
        }
        let expires = io.now() + TIMEOUT;
        self.connections.insert(key, Connection::new(stream, peer, expires));
        self.by_age.insert((expires, key));
        // Its request has often arrived already.
        self.advance(io, key);
    }

    fn advance(&mut self, io: &mut Io<'_>, key: usize) {
        if let Some(connection) = self.connections.get_mut(&key)
            && connection.advance(&self.page, |peer| io.wake(Some(peer))) == Next::Close
        {
            self.close(io, key);
        }
    }

    fn close_listeners(&mut self, io: &mut Io<'_>) {
        for (key, mut listener) in std::mem::take(&mut self.listeners).into_iter().enumerate() {
            io.deregister(&mut listener, key);
        }
    }

    /// Closes the connection that is missed least: the oldest with its response out, or else the oldest of all. Returns
    /// false if there is none.
    fn close_one(&mut self, io: &mut Io<'_>) -> bool {
        let answered = self.by_age.iter().find(|(_, key)| self.connections[key].is_answered());
        let Some(&(_, key)) = answered.or_else(|| self.by_age.first()) else { return false };
        self.close(io, key);
        true
    }

    fn close(&mut self, io: &mut Io<'_>, key: usize) {
        if let Some(mut connection) = self.connections.remove(&key) {
            self.by_age.remove(&(connection.expires, key));
            io.deregister(&mut connection.stream, key);
        }
    }
}

/// Maximum number of connections of each running frontend when there may be this number of clients in total.
fn max_connections(clients: usize, running: usize) -> usize {
    (clients / running.max(1)).clamp(1, MAX_CONNECTIONS)
}
