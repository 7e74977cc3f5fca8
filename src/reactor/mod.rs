//! The mio loop, on the daemon's main thread: it owns every socket that clients or operators connect to, and signals.
//!
//! It decides nothing and blocks only in [`mio::Poll::poll`]. The engine sends it orders through a bounded channel and a
//! waker. It reports to the engine's bounded inbox and never waits for space there: wakes of a frontend are merged into one
//! message, and a request that finds no space is refused.
//!
//! A panic of a handler is caught: a frontend's is reported to the engine, a service ([`service`]) is started again.

mod monitors;
mod service;
mod signals;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use mio::{Events, Poll, Token, Waker};

use crate::Error;
use crate::engine::core::Event;
use crate::engine::{Inbox, Message, Order, Orders, Reply};
use crate::ids::{Change, FrontendId, HandlerId, RequestId};
use crate::plugin::{Handler, Io, IoCore, Readiness};
use crate::system::children;
pub use monitors::Monitored;
pub use service::Service;
use service::Supervision;
pub use signals::{Signal, Signals};

/// Token of the engine's waker.
const WAKER: Token = Token(usize::MAX);

/// Token of the signals.
const SIGNALS: Token = Token(usize::MAX - 1);

/// Events that one round takes from the kernel; the next round takes the rest.
const EVENTS_PER_ROUND: usize = 256;

/// Error of a handler that has panicked. The log has the place and the message of the panic.
const PANICKED: &str = "its handler has panicked";

/// A handler and its state.
struct Slot {
    handler: Box<dyn Handler>,
    running: bool,
    /// Next call of a running handler's `timeout`, or next start of a service that has failed.
    deadline: Option<Instant>,
    /// Only of services.
    supervision: Option<Supervision>,
}

/// The event loop and everything that it owns.
pub struct Reactor {
    poll: Poll,
    core: IoCore,
    handlers: BTreeMap<HandlerId, Slot>,
    /// Last change of each frontend's target, for services that are started again.
    changes: BTreeMap<FrontendId, Change>,
    orders: Receiver<Order>,
    /// Kept open: closing a waker drops its last wake.
    _waker: Arc<Waker>,
    signals: Signals,
}

impl Reactor {
    /// A reactor for handlers, none of which is started yet.
    ///
    /// # Errors
    /// The operating system's error.
    pub fn new(
        frontends: impl IntoIterator<Item = (FrontendId, Box<dyn Handler>)>,
        services: Vec<Service>,
        inbox: Inbox,
    ) -> io::Result<(Reactor, Orders)> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let (sender, orders) = Orders::channel(waker.clone());
        let signals = Signals::register(poll.registry(), SIGNALS)?;
        let core = IoCore::new(poll.registry().try_clone()?, inbox);
        let slot = |handler, supervision| Slot { handler, running: false, deadline: None, supervision };
        let frontends = frontends.into_iter().map(|(id, handler)| (HandlerId::Frontend(id), slot(handler, None)));
        let services = (0..).zip(services).map(|(at, Service { name, handler })| {
            (HandlerId::Service(at), slot(handler, Some(Supervision::new(name))))
        });
        let reactor = Reactor {
            poll,
            core,
            handlers: frontends.chain(services).collect(),
            changes: BTreeMap::new(),
            orders,
            _waker: waker,
            signals,
        };
        Ok((reactor, sender))
    }

    /// Starts the services.
    ///
    /// # Errors
    /// A service could not start; those before it have been stopped again.
    pub fn start_services(&mut self) -> Result<(), Error> {
        for id in self.services() {
            if let Err(error) = self.start(id) {
                self.stop_all();
                return Err(match self.handlers.get(&id) {
                    Some(Slot { supervision: Some(supervision), .. }) if error.to_string() == PANICKED => {
                        format!("service {}: {error}", supervision.name).into()
                    }
                    _ => error,
                });
            }
        }
        Ok(())
    }

    /// Runs until the engine sends [`Order::End`]. After a second SIGTERM or SIGINT it stops all handlers and calls `emergency`.
    ///
    /// # Errors
    /// The operating system cannot wait for events.
    pub fn run(&mut self, emergency: impl FnOnce(Signal)) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS_PER_ROUND);
        let mut ending = false;
        loop {
            let deadline = self.handlers.values().filter_map(|slot| slot.deadline).min();
            let timeout = match deadline {
                _ if !self.core.refused.is_empty() => Some(Duration::ZERO),
                deadline => deadline.map(|at| at.saturating_duration_since(Instant::now())),
            };
            match self.poll.poll(&mut events, timeout) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => self.core.now = Instant::now(),
            }
            for event in &events {
                match event.token() {
                    WAKER => {}
                    SIGNALS => {
                        while let Some(signal) = self.signals.next() {
                            match signal {
                                Signal::Reopen => crate::logging::reopen(),
                                Signal::Child => children::reap_orphans(),
                                Signal::Terminate | Signal::Interrupt if std::mem::replace(&mut ending, true) => {
                                    self.stop_all();
                                    emergency(signal);
                                    return Ok(());
                                }
                                Signal::Terminate | Signal::Interrupt => {
                                    log::info!("received {signal}, shutting down (send again to force)");
                                    self.core.inbox.send(Message::Event(Event::Shutdown));
                                }
                            }
                        }
                    }
                    token => {
                        let readable = event.is_readable() || event.is_read_closed() || event.is_error();
                        let writable = event.is_writable() || event.is_write_closed() || event.is_error();
                        if let Some((owner, key)) = self.core.owner(token) {
                            self.call(owner, |handler, io| handler.ready(io, key, Readiness { readable, writable }));
                        }
                    }
                }
            }
            if self.handle_orders() {
                self.stop_all();
                return Ok(());
            }
            self.fire_timers();
            self.answer_refused();
        }
    }

    fn services(&self) -> Vec<HandlerId> {
        self.handlers.range(HandlerId::Service(0)..).map(|(id, _)| *id).collect()
    }

    /// Handles the engine's orders; returns whether the engine has ended.
    fn handle_orders(&mut self) -> bool {
        while let Ok(order) = self.orders.try_recv() {
            match order {
                Order::Start(id) => {
                    let event = match self.start(HandlerId::Frontend(id)) {
                        Ok(()) => Event::FrontendStarted(id),
                        Err(error) => Event::FrontendFailed(id, error.to_string()),
                    };
                    self.core.inbox.send(Message::Event(event));
                }
                Order::Stop(id) => {
                    self.stop(HandlerId::Frontend(id));
                    self.core.inbox.send(Message::Event(Event::FrontendStopped(id)));
                }
                Order::Reply(RequestId { handler, tag }, reply) => {
                    self.call(handler, |handler, io| handler.reply(io, tag, reply));
                }
                Order::Notify { frontend, change } => {
                    self.changes.insert(frontend, change);
                    for id in std::iter::once(HandlerId::Frontend(frontend)).chain(self.services()) {
                        self.notify(id, frontend, change);
                    }
                }
                Order::End => return true,
            }
        }
        false
    }

    /// Calls each handler whose deadline has passed once, so that a handler without progress does not block the others.
    fn fire_timers(&mut self) {
        let now = self.core.now;
        let due = self.handlers.iter_mut().filter_map(|(id, slot)| {
            slot.deadline.take_if(|at| *at <= now)?;
            Some((*id, slot.running))
        });
        for (id, running) in due.collect::<Vec<_>>() {
            if running {
                self.call(id, |handler, io| handler.timeout(io));
            } else {
                self.restart(id);
            }
        }
    }

    /// Reports a change of a frontend's target to a handler.
    fn notify(&mut self, id: HandlerId, frontend: FrontendId, change: Change) {
        self.call(id, |handler, io| handler.target_changed(io, frontend, change));
        if let Some(Slot { running: false, supervision: Some(supervision), .. }) = self.handlers.get_mut(&id) {
            supervision.missed.insert(frontend);
        }
    }

    /// Answers requests for which the engine's inbox had no space. Those that are refused meanwhile wait for the next round.
    fn answer_refused(&mut self) {
        for RequestId { handler, tag } in std::mem::take(&mut self.core.refused) {
            let reply = Reply::Refused("the engine is too busy".to_owned());
            self.call(handler, |handler, io| handler.reply(io, tag, reply));
        }
    }

    fn start(&mut self, id: HandlerId) -> Result<(), Error> {
        let Some(slot) = self.handlers.get_mut(&id) else { return Ok(()) };
        if slot.running {
            return Ok(());
        }
        let io = &mut Io { core: &mut self.core, owner: id };
        let started = catch_unwind(AssertUnwindSafe(|| slot.handler.start(io)));
        if let Err(error) = started.unwrap_or_else(|_| Err(PANICKED.into())) {
            // It has closed its sockets; its keys must be free for the next start.
            self.core.release_all(id);
            return Err(error);
        }
        slot.running = true;
        if let Some(supervision) = &mut slot.supervision {
            supervision.started(Instant::now());
        }
        self.call(id, |_, _| {});
        match self.handlers.get(&id) {
            Some(slot) if slot.running => Ok(()),
            _ => Err(PANICKED.into()),
        }
    }

    fn stop(&mut self, id: HandlerId) {
        self.call(id, |handler, io| handler.stop(io));
        if let Some(slot) = self.handlers.get_mut(&id) {
            slot.running = false;
            slot.deadline = None;
        }
        self.core.release_all(id);
    }

    fn stop_all(&mut self) {
        let all: Vec<_> = self.handlers.keys().copied().collect();
        all.into_iter().for_each(|id| self.stop(id));
    }

    /// Stops a handler that has panicked. It is started again later, as the panic has left it.
    fn broke(&mut self, id: HandlerId) {
        let Some(slot) = self.handlers.get_mut(&id) else { return };
        slot.running = false;
        slot.deadline = None;
        let io = &mut Io { core: &mut self.core, owner: id };
        if catch_unwind(AssertUnwindSafe(|| slot.handler.stop(io))).is_err() {
            log::error!("a handler that panicked has panicked again in its stop");
        }
        self.core.release_all(id);
        match id {
            HandlerId::Service(_) => self.restart_later(id, PANICKED),
            HandlerId::Frontend(id) => {
                self.core.inbox.send(Message::Event(Event::FrontendBroke(id, PANICKED.to_owned())));
            }
        }
    }

    /// Schedules the next start of a service that has failed.
    fn restart_later(&mut self, id: HandlerId, reason: &str) {
        let Some(Slot { supervision: Some(supervision), deadline, .. }) = self.handlers.get_mut(&id) else { return };
        let now = Instant::now();
        let pause = supervision.failed(now);
        log::error!("service {}: {reason}; next start in {} ms", supervision.name, pause.as_millis());
        *deadline = Some(now + pause);
    }

    /// Starts a service that has failed, and reports to it what it has missed.
    fn restart(&mut self, id: HandlerId) {
        if let Err(error) = self.start(id) {
            // If it panicked after its start, the next one is scheduled already.
            if self.handlers.get(&id).is_some_and(|slot| slot.deadline.is_none()) {
                self.restart_later(id, &format!("cannot start: {error}"));
            }
            return;
        }
        let Some(Slot { supervision: Some(supervision), .. }) = self.handlers.get_mut(&id) else { return };
        log::info!("service {}: runs again", supervision.name);
        let missed = std::mem::take(&mut supervision.missed);
        for (frontend, change) in self.changes.clone() {
            // A failure is an event, not a state: it is reported once.
            let stale = change == Change::Failed && !missed.contains(&frontend);
            self.notify(id, frontend, if stale { Change::Inactive } else { change });
        }
    }

    /// Calls a running handler, and queries its deadline afterwards.
    fn call(&mut self, id: HandlerId, call: impl FnOnce(&mut dyn Handler, &mut Io<'_>)) {
        let Some(slot) = self.handlers.get_mut(&id).filter(|slot| slot.running) else { return };
        let io = &mut Io { core: &mut self.core, owner: id };
        let called = catch_unwind(AssertUnwindSafe(|| {
            call(&mut *slot.handler, io);
            slot.handler.deadline()
        }));
        match called {
            Ok(deadline) => slot.deadline = deadline,
            Err(_) => self.broke(id),
        }
    }
}

impl Drop for Reactor {
    fn drop(&mut self) {
        self.stop_all();
    }
}
