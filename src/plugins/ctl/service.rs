//! The listening socket and its clients, as a handler of the reactor. Creates the socket again when its file or directory is
//! removed.
//!
//! Invariants: nothing blocks; there are at most [`Share::max_clients`] clients; no client makes another wait for longer than
//! one turn; while no client waits there is no deadline, so an idle daemon makes no wake-ups.

use std::collections::BTreeMap;
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use mio::Interest;
use mio::net::{UnixListener, UnixStream};
use mio::unix::SourceFd;

use super::file_watch::FileWatch;
use super::peer::{Outcome, Peer};
use super::settings::Settings;
use super::socket::{self, SocketFile};
use crate::plugin::{Acceptance, Accepted, Error, Handler, Io, Readiness, Reply, Share};

/// Key of the listening socket.
const LISTENER: usize = 0;

/// Key of the watch on the socket's file.
const WATCH: usize = 1;

/// Lowest key of a client.
const FIRST_CLIENT: usize = 2;

/// Directions in which sockets are watched.
const BOTH: Interest = Interest::READABLE.add(Interest::WRITABLE);

/// Bytes read from a client at once.
const CHUNK: usize = 16 << 10;

/// Time until the next attempt to accept in a shortage of descriptors.
const SHORTAGE: Duration = Duration::from_secs(1);

/// Time between a removal and the first attempt to create the socket again, so that a removal of its directory can finish.
const FIRST_RETRY: Duration = Duration::from_millis(500);

/// Time between further attempts.
const RETRY: Duration = Duration::from_secs(2);

/// The control socket, started and stopped by the reactor.
pub(super) struct Service {
    settings: Settings,
    socket: Socket,
    /// By key.
    peers: BTreeMap<usize, Peer>,
    /// Key of the last client. The next one has another, so that a late reply reaches no other client.
    last_key: usize,
    acceptance: Acceptance,
    scratch: Box<[u8]>,
}

enum Socket {
    Closed,
    Open {
        listener: UnixListener,
        file: SocketFile,
        watch: Option<FileWatch>,
    },
    /// Its file was removed. `problem` is the last one that was logged.
    Removed {
        retry_at: Instant,
        problem: Option<String>,
    },
}

impl Service {
    pub(super) fn new(settings: Settings) -> Service {
        let acceptance = Acceptance::new(Share::Control, SHORTAGE);
        let scratch = vec![0; CHUNK].into_boxed_slice();
        Service { settings, socket: Socket::Closed, peers: BTreeMap::new(), last_key: 0, acceptance, scratch }
    }

    /// Creates the socket, with a watch on its file if one is possible.
    fn open(&mut self, io: &mut Io<'_>) -> Result<(), Error> {
        let path = self.settings.socket.display();
        let (mut listener, file) = socket::open(&self.settings)?;
        if let Err(error) = io.register(&mut listener, LISTENER, BOTH) {
            file.remove();
            return Err(format!("{path}: cannot register the socket: {error}").into());
        }
        let watch = FileWatch::open(&self.settings.socket).and_then(|watch| {
            io.register(&mut SourceFd(&watch.0.as_raw_fd()), WATCH, Interest::READABLE)?;
            Ok(watch)
        });
        let watch = watch.inspect_err(|error| {
            log::warn!("ctl: cannot watch {path}: {error}; the socket is not created again if the file is removed");
        });
        self.socket = Socket::Open { listener, file, watch: watch.ok() };
        Ok(())
    }

    /// Closes the socket, and removes its file if it is there.
    fn close_socket(&mut self, io: &mut Io<'_>) {
        if let Socket::Open { mut listener, file, watch } = std::mem::replace(&mut self.socket, Socket::Closed) {
            // First, so that no client finds a socket that refuses connections.
            file.remove();
            if let Some(watch) = watch {
                io.deregister(&mut SourceFd(&watch.0.as_raw_fd()), WATCH);
            }
            io.deregister(&mut listener, LISTENER);
        }
        self.acceptance.clear();
    }

    /// Checks that the file is still there.
    fn check_file(&mut self, io: &mut Io<'_>) {
        let Socket::Open { file, watch: Some(watch), .. } = &self.socket else { return };
        watch.drain();
        if !file.is_ours() {
            log::warn!("ctl: {} was removed; creating it again", self.settings.socket.display());
            self.close_socket(io);
            self.socket = Socket::Removed { retry_at: io.now() + FIRST_RETRY, problem: None };
        }
    }

    /// Creates the socket again.
    fn reopen(&mut self, io: &mut Io<'_>) {
        let opened = self.open(io).map_err(|error| error.to_string());
        match (opened, &mut self.socket) {
            (Err(error), Socket::Removed { retry_at, problem }) => {
                *retry_at = io.now() + RETRY;
                if problem.as_ref() != Some(&error) {
                    log::warn!("ctl: cannot create the socket again: {error}");
                    *problem = Some(error);
                }
            }
            _ => log::info!("ctl: created {} again", self.settings.socket.display()),
        }
    }

    fn accept(&mut self, io: &mut Io<'_>) {
        self.acceptance.begin();
        while let Socket::Open { listener, .. } = &self.socket
            && let Some(accepted) = self.acceptance.next(io.now(), "ctl", || listener.accept())
        {
            match accepted {
                Accepted::Client((stream, _)) => self.admit(io, stream),
                Accepted::Crowded((stream, _)) => {
                    let stream = if self.close_idlest(io) { Acceptance::replaced(stream) } else { stream };
                    self.admit(io, stream);
                }
                Accepted::Short => {}
            }
        }
    }

    /// Closes the client that has been idle for longest. Returns false if there is none.
    fn close_idlest(&mut self, io: &mut Io<'_>) -> bool {
        let idle = self.peers.iter().min_by_key(|(_, peer)| (peer.session.is_busy(), peer.active));
        let Some((&key, _)) = idle else { return false };
        log::debug!("ctl: closing the idlest of {} clients", self.peers.len());
        self.close(io, key);
        true
    }

    fn admit(&mut self, io: &mut Io<'_>, mut stream: UnixStream) {
        while self.peers.len() >= Share::Control.max_clients() && self.close_idlest(io) {}
        let key = loop {
            // On 32 bits it wraps.
            self.last_key = self.last_key.wrapping_add(1).max(FIRST_CLIENT);
            if !self.peers.contains_key(&self.last_key) {
                break self.last_key;
            }
        };
        if let Err(error) = io.register(&mut stream, key, BOTH) {
            return log::warn!("ctl: cannot register a client: {error}");
        }
        self.peers.insert(key, Peer::new(stream, self.settings.codec, io.now()));
        self.advance(io, key);
    }

    fn advance(&mut self, io: &mut Io<'_>, key: usize) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        match peer.advance(io.now(), &mut self.scratch) {
            Outcome::Wait => {}
            Outcome::Request(request) => io.request(key as u64, request),
            Outcome::Close => self.close(io, key),
        }
    }

    fn close(&mut self, io: &mut Io<'_>, key: usize) {
        if let Some(mut peer) = self.peers.remove(&key) {
            io.deregister(&mut peer.stream, key);
        }
    }
}

impl Handler for Service {
    fn start(&mut self, io: &mut Io<'_>) -> Result<(), Error> {
        self.open(io)
    }

    fn stop(&mut self, io: &mut Io<'_>) {
        self.close_socket(io);
        while let Some((&key, _)) = self.peers.first_key_value() {
            self.close(io, key);
        }
    }

    fn ready(&mut self, io: &mut Io<'_>, key: usize, _readiness: Readiness) {
        match key {
            LISTENER => self.accept(io),
            WATCH => self.check_file(io),
            _ => self.advance(io, key),
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let retry_at = match self.socket {
            Socket::Removed { retry_at, .. } => Some(retry_at),
            _ => self.acceptance.retry_at(),
        };
        self.peers.values().filter_map(Peer::deadline).chain(retry_at).min()
    }

    fn timeout(&mut self, io: &mut Io<'_>) {
        let now = io.now();
        if matches!(self.socket, Socket::Removed { retry_at, .. } if retry_at <= now) {
            self.reopen(io);
        }
        let due = self.peers.iter().filter(|(_, peer)| peer.deadline().is_some_and(|at| at <= now));
        for (key, stalled) in due.map(|(key, peer)| (*key, peer.is_stalled())).collect::<Vec<_>>() {
            if stalled {
                log::debug!("ctl: a client does not read its response; closing its connection");
                self.close(io, key);
            } else {
                self.advance(io, key);
            }
        }
        if self.acceptance.due(now) {
            self.accept(io);
        }
    }

    fn reply(&mut self, io: &mut Io<'_>, tag: u64, reply: Reply) {
        let key = tag as usize;
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.session.reply(&reply);
            self.advance(io, key);
        }
    }
}
