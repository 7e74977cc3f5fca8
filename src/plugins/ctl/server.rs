//! The listening socket and its clients, on the reactor thread.
//!
//! Invariants: nothing blocks; there are at most [`Share::max_clients`] clients; no client makes another wait for longer than
//! one turn; while no client waits there is no deadline, so an idle daemon makes no wake-ups.

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

use mio::Interest;
use mio::net::UnixListener;

use super::peer::{Outcome, Peer};
use super::wire::Codec;
use crate::plugin::{Acceptance, Accepted, Io, Reply, Share};

/// Key of the listening socket. Clients have the keys after it.
const LISTENER: usize = 0;

/// Time until the next attempt to accept in a shortage of descriptors.
const SHORTAGE: Duration = Duration::from_secs(1);

/// Directions in which sockets are watched.
const BOTH: Interest = Interest::READABLE.add(Interest::WRITABLE);

/// Bytes read from a client at once.
const CHUNK: usize = 16 << 10;

/// A running server.
pub(super) struct Server {
    listener: UnixListener,
    codec: Codec,
    /// By key.
    peers: BTreeMap<usize, Peer>,
    next_serial: u64,
    acceptance: Acceptance,
    scratch: Box<[u8]>,
}

impl Server {
    /// Starts a server. The serials of its clients begin with `next_serial`.
    pub(super) fn start(
        mut listener: UnixListener,
        codec: Codec,
        next_serial: u64,
        io: &mut Io<'_>,
    ) -> io::Result<Server> {
        io.register(&mut listener, LISTENER, BOTH)?;
        let scratch = vec![0; CHUNK].into_boxed_slice();
        let peers = BTreeMap::new();
        let acceptance = Acceptance::new(Share::Control, SHORTAGE);
        Ok(Server { listener, codec, peers, next_serial, acceptance, scratch })
    }

    /// Accepts clients from another listener. Connected clients stay.
    pub(super) fn listen_on(&mut self, mut listener: UnixListener, io: &mut Io<'_>) -> io::Result<()> {
        io.deregister(&mut self.listener, LISTENER);
        io.register(&mut listener, LISTENER, BOTH)?;
        self.listener = listener;
        self.acceptance.clear();
        Ok(())
    }

    /// Closes everything. Returns the next unused serial.
    pub(super) fn stop(mut self, io: &mut Io<'_>) -> u64 {
        io.deregister(&mut self.listener, LISTENER);
        for (key, mut peer) in std::mem::take(&mut self.peers) {
            io.deregister(&mut peer.stream, key);
        }
        self.next_serial
    }

    pub(super) fn ready(&mut self, io: &mut Io<'_>, key: usize) {
        match key {
            LISTENER => self.accept(io),
            _ => self.advance(io, key),
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.peers.values().filter_map(Peer::deadline).chain(self.acceptance.retry_at()).min()
    }

    pub(super) fn timeout(&mut self, io: &mut Io<'_>) {
        let now = io.now();
        let due = |(&key, peer): (&usize, &Peer)| {
            peer.deadline().is_some_and(|at| at <= now).then_some((key, peer.is_stalled()))
        };
        for (key, stalled) in self.peers.iter().filter_map(due).collect::<Vec<_>>() {
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

    /// Handles the engine's reply. Ignores it if the client is gone.
    pub(super) fn reply(&mut self, io: &mut Io<'_>, tag: u64, reply: &Reply) {
        let found = self.peers.iter_mut().find(|(_, peer)| peer.serial == tag);
        if let Some((&key, peer)) = found {
            peer.reply(reply);
            self.advance(io, key);
        }
    }

    fn accept(&mut self, io: &mut Io<'_>) {
        self.acceptance.begin();
        while let Some(accepted) = self.acceptance.next(io.now(), "ctl", || self.listener.accept()) {
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
        let idle = self.peers.iter().min_by_key(|(_, peer)| (peer.is_busy(), peer.active, peer.serial));
        let Some((&key, _)) = idle else { return false };
        log::debug!("ctl: closing the idlest of {} clients", self.peers.len());
        self.close(io, key);
        true
    }

    fn admit(&mut self, io: &mut Io<'_>, stream: mio::net::UnixStream) {
        while self.peers.len() >= Share::Control.max_clients() && self.close_idlest(io) {}
        let Some(key) = (LISTENER + 1..).find(|key| !self.peers.contains_key(key)) else { return };
        let mut peer = Peer::new(stream, self.next_serial, self.codec, io.now());
        self.next_serial += 1;
        if let Err(error) = io.register(&mut peer.stream, key, BOTH) {
            log::warn!("ctl: cannot register a client: {error}");
            return;
        }
        self.peers.insert(key, peer);
        self.advance(io, key);
    }

    fn advance(&mut self, io: &mut Io<'_>, key: usize) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        match peer.advance(io.now(), &mut self.scratch) {
            Outcome::Wait => {}
            Outcome::Request(request) => io.request(peer.serial, request),
            Outcome::Close => self.close(io, key),
        }
    }

    fn close(&mut self, io: &mut Io<'_>, key: usize) {
        if let Some(mut peer) = self.peers.remove(&key) {
            io.deregister(&mut peer.stream, key);
        }
    }
}
