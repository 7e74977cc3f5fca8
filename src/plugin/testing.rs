//! A reactor for unit tests of one handler, with a clock that the test moves.

use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use mio::{Events, Poll};

use super::{Handler, Io, IoCore, Readiness, Reply, Request};
use crate::engine::core::Event;
use crate::engine::{Inbox, Message};
use crate::ids::{FrontendId, HandlerId};

/// The frontend of the handler under test.
pub(crate) const FRONTEND: FrontendId = FrontendId::new(0);

/// Time for which a test waits at most.
const SOON: Duration = Duration::from_secs(10);

pub(crate) struct TestReactor {
    poll: Poll,
    events: Events,
    core: IoCore,
    messages: Receiver<Message>,
    inbox: Inbox,
    /// Requests to the engine that were not answered yet.
    pub(crate) requests: Vec<(u64, Request)>,
    /// Number of wakes.
    pub(crate) wakes: usize,
}

impl TestReactor {
    pub(crate) fn new() -> TestReactor {
        let poll = Poll::new().expect("a poll");
        let (inbox, messages) = Inbox::new(1, 1);
        let core = IoCore::new(poll.registry().try_clone().expect("a registry"), inbox.clone());
        let events = Events::with_capacity(256);
        TestReactor { poll, events, core, messages, inbox, requests: Vec::new(), wakes: 0 }
    }

    pub(crate) fn io(&mut self) -> Io<'_> {
        Io { core: &mut self.core, owner: HandlerId::Frontend(FRONTEND) }
    }

    pub(crate) fn now(&self) -> Instant {
        self.core.now
    }

    /// Moves the clock.
    pub(crate) fn pass(&mut self, time: Duration) {
        self.core.now += time;
    }

    /// Keys of the sources that have become ready.
    fn ready(&mut self) -> Vec<(usize, Readiness)> {
        self.poll.poll(&mut self.events, Some(Duration::ZERO)).expect("events");
        let core = &self.core;
        let ready = self.events.iter().filter_map(|event| {
            let readiness = Readiness { readable: event.is_readable(), writable: event.is_writable() };
            core.owner(event.token()).map(|(_, key)| (key, readiness))
        });
        ready.collect()
    }

    /// One round of the loop. Returns false if there was nothing to do.
    pub(crate) fn round(&mut self, handler: &mut impl Handler) -> bool {
        let ready = self.ready();
        for (key, readiness) in &ready {
            handler.ready(&mut self.io(), *key, *readiness);
        }
        let due = handler.deadline().is_some_and(|deadline| deadline <= self.now());
        if due {
            handler.timeout(&mut self.io());
        }
        self.receive();
        due || !ready.is_empty()
    }

    /// Runs rounds until there is nothing to do.
    #[track_caller]
    pub(crate) fn settle(&mut self, handler: &mut impl Handler) {
        assert!((0..10_000).any(|_| !self.round(handler)), "the loop spins");
    }

    /// Runs rounds until `done` returns true.
    #[track_caller]
    pub(crate) fn run_until<H: Handler>(&mut self, handler: &mut H, mut done: impl FnMut(&mut H) -> bool) {
        let until = Instant::now() + SOON;
        while !done(handler) {
            assert!(Instant::now() < until, "not within {SOON:?}");
            if !self.round(handler) {
                std::thread::yield_now();
            }
        }
    }

    /// Sends the engine's reply to all requests. Returns false if there was none.
    pub(crate) fn reply(&mut self, handler: &mut impl Handler, reply: &Reply) -> bool {
        let requests = std::mem::take(&mut self.requests);
        for (tag, _) in &requests {
            handler.reply(&mut self.io(), *tag, reply.clone());
        }
        !requests.is_empty()
    }

    /// Takes what the handler sent to the engine.
    fn receive(&mut self) {
        for message in self.messages.try_iter() {
            self.inbox.taken(&message);
            match message {
                Message::Request(id, request) => self.requests.push((id.tag, request)),
                Message::Event(Event::Wake { frontend: FRONTEND, source: Some(_) }) => self.wakes += 1,
                other => panic!("{other:?}"),
            }
        }
    }
}
