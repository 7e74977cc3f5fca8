//! The listening socket and its clients, on the reactor thread.
//!
//! Invariants: nothing blocks; there are never more than [`Share::max_clients`] clients; no client can keep another waiting for
//! longer than its turn; while nobody is owed anything there is no deadline, so that an idle daemon makes no wake-ups.

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

use mio::event::Source;
use mio::net::UnixListener;

use super::peer::{Outcome, Peer};
use super::wire::Codec;
use crate::engine::{Reply, Request};
use crate::plugin::{Acceptance, Accepted, Share};

/// The key of the listening socket; clients have those after it.
const LISTENER: usize = 0;

/// How many clients are accepted before others have their turn.
const ACCEPT_TURN: usize = 64;

/// How long to wait before accepting again when the system had no file descriptor left.
const SHORTAGE: Duration = Duration::from_secs(1);

/// What is read of a client at once.
const CHUNK: usize = 16 << 10;

/// What the server needs of the reactor.
pub(super) trait Reactor {
    /// Watches a source for both directions.
    fn register(&mut self, source: &mut impl Source, key: usize) -> io::Result<()>;
    /// Ends the watch.
    fn deregister(&mut self, source: &mut impl Source, key: usize);
    /// The time at which this round began.
    fn now(&self) -> Instant;
    /// Asks the engine.
    fn request(&mut self, tag: u64, request: Request);
}

/// The server while it runs.
pub(super) struct Server {
    listener: UnixListener,
    codec: Codec,
    /// By key.
    peers: BTreeMap<usize, Peer>,
    next_serial: u64,
    acceptance: Acceptance,
    /// Set when a turn has ended with more to do, to when.
    resume_at: Option<Instant>,
    scratch: Box<[u8]>,
}

impl Server {
    /// Serves clients. Their serials begin with `next_serial`.
    pub(super) fn start(
        mut listener: UnixListener,
        codec: Codec,
        next_serial: u64,
        reactor: &mut impl Reactor,
    ) -> io::Result<Server> {
        reactor.register(&mut listener, LISTENER)?;
        let scratch = vec![0; CHUNK].into_boxed_slice();
        let peers = BTreeMap::new();
        let acceptance = Acceptance::new(Share::Control, SHORTAGE);
        Ok(Server { listener, codec, peers, next_serial, acceptance, resume_at: None, scratch })
    }

    /// Accepts clients from another listener. Those that are connected stay.
    pub(super) fn listen_on(&mut self, mut listener: UnixListener, reactor: &mut impl Reactor) -> io::Result<()> {
        reactor.deregister(&mut self.listener, LISTENER);
        reactor.register(&mut listener, LISTENER)?;
        self.listener = listener;
        self.acceptance.retry(None);
        Ok(())
    }

    /// Closes everything; returns the first serial that no client has had.
    pub(super) fn stop(mut self, reactor: &mut impl Reactor) -> u64 {
        reactor.deregister(&mut self.listener, LISTENER);
        for (key, mut peer) in std::mem::take(&mut self.peers) {
            reactor.deregister(&mut peer.stream, key);
        }
        self.next_serial
    }

    pub(super) fn ready(&mut self, reactor: &mut impl Reactor, key: usize) {
        match key {
            LISTENER => self.accept(reactor),
            _ => self.advance(reactor, key),
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let stalled = self.peers.values().filter_map(Peer::deadline);
        stalled.chain(self.acceptance.retry_at()).chain(self.resume_at).min()
    }

    pub(super) fn timeout(&mut self, reactor: &mut impl Reactor) {
        let now = reactor.now();
        self.resume_at = None;
        let stalled = |peer: &Peer| peer.deadline().is_some_and(|deadline| deadline <= now);
        let keys = |these: &dyn Fn(&Peer) -> bool| -> Vec<usize> {
            self.peers.iter().filter(|(_, peer)| these(peer)).map(|(&key, _)| key).collect()
        };
        let (give_up, go_on) = (keys(&stalled), keys(&|peer| peer.more && !stalled(peer)));
        for key in give_up {
            log::debug!("ctl: a client takes no bytes; closing its connection");
            self.close(reactor, key);
        }
        for key in go_on {
            self.advance(reactor, key);
        }
        if self.acceptance.retry_at().is_some_and(|at| at <= now) {
            self.accept(reactor);
        }
    }

    /// Takes the engine's reply; nothing happens if the client has gone.
    pub(super) fn reply(&mut self, reactor: &mut impl Reactor, tag: u64, reply: &Reply) {
        let found = self.peers.iter_mut().find(|(_, peer)| peer.serial == tag);
        if let Some((&key, peer)) = found {
            peer.answer(reply);
            self.advance(reactor, key);
        }
    }

    fn accept(&mut self, reactor: &mut impl Reactor) {
        let now = reactor.now();
        self.acceptance.retry(None);
        for _ in 0..ACCEPT_TURN {
            match self.acceptance.judge(now, "ctl", self.listener.accept()) {
                Accepted::Client((stream, _)) => self.admit(reactor, stream),
                Accepted::Crowded((stream, _)) => {
                    let stream = if self.make_room(reactor) { Acceptance::replaced(stream) } else { stream };
                    self.admit(reactor, stream);
                }
                Accepted::Lost => {}
                Accepted::Done | Accepted::Short => return,
            }
        }
        self.acceptance.retry(Some(now));
    }

    /// Closes the connection that has been idle for longest. Returns false if there is none.
    fn make_room(&mut self, reactor: &mut impl Reactor) -> bool {
        let idle = self.peers.iter().min_by_key(|(_, peer)| (peer.busy(), peer.active, peer.serial));
        let Some((&key, _)) = idle else { return false };
        log::debug!("ctl: {} clients are too many; closing the one that has been idle for longest", self.peers.len());
        self.close(reactor, key);
        true
    }

    fn admit(&mut self, reactor: &mut impl Reactor, stream: mio::net::UnixStream) {
        while self.peers.len() >= Share::Control.max_clients() && self.make_room(reactor) {}
        let Some(key) = (LISTENER + 1..).find(|key| !self.peers.contains_key(key)) else { return };
        let mut peer = Peer::new(stream, self.next_serial, self.codec, reactor.now());
        self.next_serial += 1;
        if let Err(error) = reactor.register(&mut peer.stream, key) {
            log::warn!("ctl: cannot watch a client: {error}");
            return;
        }
        self.peers.insert(key, peer);
        self.advance(reactor, key);
    }

    fn advance(&mut self, reactor: &mut impl Reactor, key: usize) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let outcome = peer.advance(reactor.now(), &mut self.scratch);
        peer.more = matches!(outcome, Outcome::More);
        match outcome {
            Outcome::Blocked => {}
            Outcome::More => self.resume_at = Some(reactor.now()),
            Outcome::Ask(request) => reactor.request(peer.serial, request),
            Outcome::Closed => self.close(reactor, key),
        }
    }

    fn close(&mut self, reactor: &mut impl Reactor, key: usize) {
        if let Some(mut peer) = self.peers.remove(&key) {
            reactor.deregister(&mut peer.stream, key);
        }
    }
}
