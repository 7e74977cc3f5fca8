//! What a handler may do to the reactor and the engine.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use mio::event::Source;
use mio::{Interest, Registry, Token};

use crate::engine::{Inbox, Message, Request};
use crate::ids::{HandlerId, RequestId};

/// A [`Handler`](super::Handler)'s access to the reactor and the engine, for one call.
pub struct Io<'a> {
    pub(crate) core: &'a mut IoCore,
    /// The handler that is called.
    pub(crate) owner: HandlerId,
}

impl Io<'_> {
    /// Registers a source under a key that the handler chooses.
    ///
    /// # Errors
    /// The operating system's error, or `AlreadyExists` if the key is in use.
    pub fn register(&mut self, source: &mut impl Source, key: usize, interest: Interest) -> io::Result<()> {
        let IoCore { registry, tokens, free, index, .. } = &mut *self.core;
        if index.contains_key(&(self.owner, key)) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let token = free.last().copied().unwrap_or(tokens.len());
        registry.register(source, Token(token), interest)?;
        if free.pop().is_none() {
            tokens.push(None);
        }
        tokens[token] = Some((self.owner, key));
        index.insert((self.owner, key), token);
        Ok(())
    }

    /// Changes the interest in a registered source.
    ///
    /// # Errors
    /// The operating system's error, or `NotFound` if nothing is registered under the key.
    pub fn reregister(&mut self, source: &mut impl Source, key: usize, interest: Interest) -> io::Result<()> {
        let token = self.core.index.get(&(self.owner, key)).ok_or(io::ErrorKind::NotFound)?;
        self.core.registry.reregister(source, Token(*token), interest)
    }

    /// Deregisters a source. Dropping the source without this leaks its key until the handler stops.
    pub fn deregister(&mut self, source: &mut impl Source, key: usize) {
        if let Err(error) = self.core.registry.deregister(source) {
            log::debug!("cannot deregister a source: {error}");
        }
        self.core.release((self.owner, key));
    }

    /// Time at which this round of the reactor began.
    pub fn now(&self) -> Instant {
        self.core.now
    }

    /// Wakes the frontend's target for the client `source`. Does nothing for a service. Calls are merged until the engine has
    /// received the wake.
    pub fn wake(&mut self, source: Option<SocketAddr>) {
        if let HandlerId::Frontend(frontend) = self.owner {
            self.core.inbox.wake(frontend, source);
        }
    }

    /// Sends a request to the engine; [`Handler::reply`](super::Handler::reply) receives the reply with the same tag.
    pub fn request(&mut self, tag: u64, request: Request) {
        let id = RequestId { handler: self.owner, tag };
        if !self.core.inbox.try_send(Message::Request(id, request)) {
            self.core.refused.push(id);
        }
    }
}

/// The reactor's registrations, and the inbox of the engine.
pub struct IoCore {
    registry: Registry,
    /// Handler and key of each token.
    tokens: Vec<Option<(HandlerId, usize)>>,
    free: Vec<usize>,
    index: BTreeMap<(HandlerId, usize), usize>,
    /// Time at which this round began.
    pub(crate) now: Instant,
    pub(crate) inbox: Inbox,
    /// Requests for which the engine's inbox had no space.
    pub(crate) refused: Vec<RequestId>,
}

impl IoCore {
    pub(crate) fn new(registry: Registry, inbox: Inbox) -> IoCore {
        let (tokens, free, index, refused) = Default::default();
        IoCore { registry, tokens, free, index, now: Instant::now(), inbox, refused }
    }

    pub(crate) fn owner(&self, token: Token) -> Option<(HandlerId, usize)> {
        *self.tokens.get(token.0)?
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
}
