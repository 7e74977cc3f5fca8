//! The part of the reactor that handlers reach through [`Io`](super::Io).

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use mio::event::Source;
use mio::{Interest, Registry, Token};

use crate::engine::{Inbox, Message, Request};
use crate::ids::{HandlerId, RequestId};

/// The reactor's registrations, and the inbox of the engine.
pub struct IoCore {
    registry: Registry,
    /// Handler and key of each token.
    tokens: Vec<Option<(HandlerId, usize)>>,
    free: Vec<usize>,
    index: BTreeMap<(HandlerId, usize), usize>,
    now: Instant,
    pub(crate) inbox: Inbox,
    refused: Vec<RequestId>,
}

impl IoCore {
    pub(crate) fn new(registry: Registry, inbox: Inbox) -> IoCore {
        let now = Instant::now();
        IoCore {
            registry,
            tokens: Vec::new(),
            free: Vec::new(),
            index: BTreeMap::new(),
            now,
            inbox,
            refused: Vec::new(),
        }
    }

    pub(crate) fn begin_round(&mut self) {
        self.now = Instant::now();
    }

    pub(crate) fn owner(&self, token: Token) -> Option<(HandlerId, usize)> {
        *self.tokens.get(token.0)?
    }

    pub(crate) fn next_refused(&mut self) -> Option<RequestId> {
        self.refused.pop()
    }

    /// Releases all keys of a stopped handler.
    pub(crate) fn release_all(&mut self, owner: HandlerId) {
        let keys: Vec<_> = self.index.range((owner, 0)..=(owner, usize::MAX)).map(|(key, _)| *key).collect();
        keys.into_iter().for_each(|key| self.release(key));
    }

    fn release(&mut self, key: (HandlerId, usize)) {
        if let Some(token) = self.index.remove(&key) {
            self.tokens[token] = None;
            self.free.push(token);
        }
    }

    pub(crate) fn now(&self) -> Instant {
        self.now
    }

    #[cfg(test)]
    pub(crate) fn set_now(&mut self, now: Instant) {
        self.now = now;
    }

    pub(crate) fn register(
        &mut self,
        owner: HandlerId,
        source: &mut impl Source,
        key: usize,
        interest: Interest,
    ) -> io::Result<()> {
        if self.index.contains_key(&(owner, key)) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let token = self.free.last().copied().unwrap_or(self.tokens.len());
        self.registry.register(source, Token(token), interest)?;
        if self.free.pop().is_none() {
            self.tokens.push(None);
        }
        self.tokens[token] = Some((owner, key));
        self.index.insert((owner, key), token);
        Ok(())
    }

    pub(crate) fn reregister(
        &mut self,
        owner: HandlerId,
        source: &mut impl Source,
        key: usize,
        interest: Interest,
    ) -> io::Result<()> {
        let token = self.index.get(&(owner, key)).ok_or(io::ErrorKind::NotFound)?;
        self.registry.reregister(source, Token(*token), interest)
    }

    pub(crate) fn deregister(&mut self, owner: HandlerId, source: &mut impl Source, key: usize) {
        if let Err(error) = self.registry.deregister(source) {
            log::debug!("cannot deregister a source: {error}");
        }
        self.release((owner, key));
    }

    pub(crate) fn wake(&mut self, owner: HandlerId, source: Option<SocketAddr>) {
        if let HandlerId::Frontend(frontend) = owner {
            self.inbox.wake(frontend, source);
        }
    }

    pub(crate) fn request(&mut self, owner: HandlerId, tag: u64, request: Request) {
        let id = RequestId { handler: owner, tag };
        if !self.inbox.try_send(Message::Request(id, request)) {
            self.refused.push(id);
        }
    }
}
