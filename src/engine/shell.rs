//! The thin shell around the core, on the `engine` thread: it receives messages, calls the core, and performs its effects.
//!
//! It drains its inbox before it runs nft, so that a thousand wakes at once become a few transactions. It blocks on its
//! inbox until the core's nearest deadline, on nft, and for a moment on the reactor's bounded orders; on nothing else.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::core::{Core, Effect, Event, FrontendPlan, TargetPlan};
use super::inbox::{Inbox, Message};
use super::members::{Frontend, NewFrontend, NewTarget};
use super::orders::{Order, Orders};
use super::pending::{Pending, Query};
use super::report::View;
use super::request::{Reply, Request};
use super::runner::Runner;
use super::status::FrontendState;
use super::wall::Wall;
use crate::config::{Probe, Protocol};
use crate::dataplane::flows::{FlowOrder, FlowOrders, Survey};
use crate::dataplane::hold::AllCounters;
use crate::dataplane::plan::OnLink;
use crate::dataplane::plan::{ColdPath, HoldOptions, OnFailure};
use crate::dataplane::rules::{Repaired, Table};
use crate::ids::{FrontendId, TargetId};
use crate::vital;

/// Time that the shutdown may take beyond the longest grace time of a target.
const END_MARGIN: Duration = Duration::from_secs(10);

/// Called once every frontend has been started.
type Ready = Box<dyn FnOnce() + Send>;

/// Everything that the engine needs.
pub struct Engine {
    /// The targets.
    pub targets: Vec<NewTarget>,
    /// The frontends.
    pub frontends: Vec<NewFrontend>,
    /// The loaded table.
    pub table: Table,
    /// Addresses on the links.
    pub on_link: BTreeSet<OnLink>,
    /// Orders to the flows thread.
    pub flows: FlowOrders,
    /// Orders to the reactor.
    pub orders: Orders,
    /// For the threads that the engine starts.
    pub inbox: Inbox,
    /// Messages to the engine.
    pub receiver: Receiver<Message>,
    /// Counters of the packet holder.
    pub holds: AllCounters,
    /// Called once, when every frontend runs or has failed for the first time.
    pub ready: Ready,
}

impl Engine {
    /// Starts the engine's thread, whose panic ends the process. After [`Event::Shutdown`] it removes the table, stops the reactor and
    /// the flows' thread, and ends; the result is whether every target has ended.
    ///
    /// # Errors
    /// The operating system has no thread left.
    pub fn spawn(self) -> io::Result<JoinHandle<bool>> {
        vital::spawn("engine", move || Shell::new(self).run())
    }
}

struct Shell {
    core: Core,
    targets: BTreeMap<TargetId, Runner>,
    frontends: BTreeMap<FrontendId, Frontend>,
    table: Table,
    /// UDP frontends whose stale flows are to be deleted.
    stale: Vec<FrontendId>,
    flows: FlowOrders,
    orders: Orders,
    inbox: Inbox,
    receiver: Receiver<Message>,
    /// Events that the shell itself has for the core.
    own: VecDeque<Event>,
    holds: AllCounters,
    pending: Pending,
    wall: Wall,
    ready: Option<Ready>,
    shutdown: Shutdown,
    grace: Duration,
}

/// Progress of the shutdown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shutdown {
    NotBegun,
    /// Targets that have not ended by then are left behind.
    Until(Instant),
    Done,
    TimedOut,
}

impl Shell {
    fn new(engine: Engine) -> Shell {
        let now = Instant::now();
        let mut core = Core::default();
        let grace = engine.targets.iter().map(|target| target.handler.stop_grace()).max().unwrap_or_default();
        let targets = engine.targets.into_iter().map(|NewTarget { id, spec, handler }| {
            let plan = TargetPlan {
                name: spec.name.clone(),
                idle_timeout: spec.idle_timeout,
                ready_deadline: spec.readiness.deadline,
                min_uptime: spec.min_uptime,
                max_uptime: spec.max_uptime,
                external: handler.external(),
                unwatched: handler.unwatched() && spec.readiness.probe != Probe::None,
            };
            core.add_target(now, id, plan);
            (id, Runner::new(id, spec, handler, engine.inbox.clone()))
        });
        let targets = targets.collect();
        let frontends = engine.frontends.into_iter().map(|new| {
            let plan = FrontendPlan {
                name: new.spec.name.clone(),
                target: new.target,
                keeps_warm: new.keeps_warm,
                refuses: matches!(new.cold, ColdPath::Hold(HoldOptions { on_failure: OnFailure::Reject, .. })),
            };
            core.add_frontend(new.id, plan);
            (new.id, Frontend { spec: new.spec, has_handler: new.has_handler })
        });
        let frontends = frontends.collect();
        Shell {
            core,
            targets,
            frontends,
            table: engine.table,
            stale: Vec::new(),
            flows: engine.flows,
            orders: engine.orders,
            inbox: engine.inbox,
            receiver: engine.receiver,
            own: VecDeque::from([Event::OnLink(engine.on_link), Event::Start]),
            holds: engine.holds,
            pending: Pending::default(),
            wall: Wall::new(now, SystemTime::now()),
            ready: Some(engine.ready),
            shutdown: Shutdown::NotBegun,
            grace,
        }
    }

    fn run(mut self) -> bool {
        while !self.is_over() {
            self.repair();
            self.settle();
            if self.is_over() {
                break;
            }
            let timeout = match self.shutdown {
                Shutdown::Until(at) => Some(at),
                _ => None,
            };
            let deadline = self.core.next_deadline().into_iter().chain(timeout).chain(self.repair_due()).min();
            match self.receive(deadline) {
                Ok(message) => message.into_iter().for_each(|message| self.handle(message)),
                Err(()) => break,
            }
            while let Ok(message) = self.receiver.try_recv() {
                self.inbox.taken(&message);
                self.handle(message);
            }
            // Not only when no message has come: the channel prefers messages, and requests may come all the time.
            if deadline.is_some_and(|at| at <= Instant::now()) {
                self.tick();
            }
        }
        let all_ended = self.shutdown != Shutdown::TimedOut;
        if all_ended {
            self.targets.values_mut().for_each(Runner::ended);
        }
        if let Err(error) = self.table.remove() {
            log::error!("cannot remove the rules: {error}");
        }
        self.flows.send(FlowOrder::End);
        self.orders.send(Order::End);
        all_ended
    }

    fn is_over(&self) -> bool {
        matches!(self.shutdown, Shutdown::Done | Shutdown::TimedOut)
    }

    /// Waits for a message; `None` when the deadline has come.
    fn receive(&mut self, deadline: Option<Instant>) -> Result<Option<Message>, ()> {
        let message = match deadline {
            None => self.receiver.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(at) => self.receiver.recv_deadline(at),
        };
        match message {
            Ok(message) => {
                self.inbox.taken(&message);
                Ok(Some(message))
            }
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(()),
        }
    }

    fn handle(&mut self, message: Message) {
        match message {
            Message::Event(event) => self.dispatch(event),
            Message::Request(id, request) => match self.handle_request(request) {
                Ok(reply) => self.orders.send(Order::Reply(id, reply)),
                Err(query) => {
                    if let Some(details) = self.pending.add(id, query) {
                        self.flows.send(FlowOrder::Survey(details));
                    }
                }
            },
            Message::Surveyed(survey) => self.reply_to_queries(survey),
            Message::OnLink => {
                if let Some(links) = self.inbox.on_link() {
                    self.dispatch(Event::OnLink(links));
                }
            }
            Message::RulesChanged if self.core.closing() => {}
            Message::RulesChanged => self.table.noticed(Instant::now()),
        }
    }

    /// Time of the next repair of the table, if one is needed.
    fn repair_due(&self) -> Option<Instant> {
        self.table.repair_due().filter(|_| !self.core.closing())
    }

    /// Restores what another program has changed in the table, if that is due.
    fn repair(&mut self) {
        let now = Instant::now();
        if self.repair_due().is_some_and(|due| due <= now) && self.table.repair(now) == Repaired::Lost {
            // It is loaded as a whole.
            self.dispatch(Event::RulesLost);
        }
    }

    fn tick(&mut self) {
        if matches!(self.shutdown, Shutdown::Until(at) if at <= Instant::now()) {
            let running = self.targets.iter().filter(|(id, _)| !self.core.has_ended(**id));
            let running: Vec<_> = running.map(|(_, target)| target.spec().name.as_str()).collect();
            log::error!("shutdown timed out, exiting with targets still running: {}", running.join(", "));
            self.shutdown = Shutdown::TimedOut;
        }
        self.dispatch(Event::Tick);
    }

    /// Hands an event to the core and performs the effects.
    fn dispatch(&mut self, event: Event) {
        match &event {
            Event::TargetEnded(id, _) => self.with_target(*id, Runner::ended),
            Event::Shutdown if self.shutdown == Shutdown::NotBegun => {
                self.shutdown = Shutdown::Until(Instant::now() + self.grace + END_MARGIN)
            }
            _ => {}
        }
        let mut effects = Vec::new();
        self.core.handle(Instant::now(), event, &mut effects);
        effects.into_iter().for_each(|effect| self.perform(effect));
    }

    fn with_target(&mut self, id: TargetId, action: impl FnMut(&mut Runner)) {
        self.targets.get_mut(&id).into_iter().for_each(action);
    }

    fn has_handler(&self, id: FrontendId) -> bool {
        self.frontends.get(&id).is_some_and(|frontend| frontend.has_handler)
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::StartTarget(id) => self.with_target(id, Runner::start),
            Effect::StopTarget(id) => self.with_target(id, |target| target.stop()),
            Effect::StartFrontend(id) if self.has_handler(id) => self.orders.send(Order::Start(id)),
            Effect::StartFrontend(id) => self.own.push_back(Event::FrontendStarted(id)),
            Effect::StopFrontend(id) if self.has_handler(id) => self.orders.send(Order::Stop(id)),
            Effect::StopFrontend(id) => self.own.push_back(Event::FrontendStopped(id)),
            Effect::Notify(frontend, change) => self.orders.send(Order::Notify { frontend, change }),
            Effect::WatchFlows { target, asked } => self.flows.send(FlowOrder::Watch { target, asked }),
            Effect::ReleaseFlows(id) => self.flows.send(FlowOrder::Release(id)),
            Effect::CheckFlows { target, asked } => self.flows.send(FlowOrder::Check { target, asked }),
            Effect::FlushFlows { target, scope } => self.flows.send(FlowOrder::Flush { target, scope }),
            Effect::DeleteStaleFlows(id) => {
                let is_udp = self.frontends.get(&id).is_some_and(|frontend| frontend.spec.protocol == Protocol::Udp);
                self.stale.extend(is_udp.then_some(id));
            }
            Effect::Finished => self.shutdown = Shutdown::Done,
        }
    }

    /// Handles the shell's own events and loads the rules that are due, until neither is left.
    fn settle(&mut self) {
        loop {
            while let Some(event) = self.own.pop_front() {
                self.dispatch(event);
            }
            let Some(revision) = self.core.rules_due(Instant::now()) else { break };
            let began = Instant::now();
            let wanted = self.core.wanted();
            let result = self.table.apply(wanted);
            let (active, cold) = (wanted.active.len(), wanted.cold.len());
            log::debug!("rules: {active} active, {cold} cold, in {:.1?}", began.elapsed());
            self.dispatch(match result {
                Ok(()) => Event::Applied(revision),
                Err(error) => Event::ApplyFailed(error.to_string()),
            });
        }
        if !self.stale.is_empty() {
            self.flows.send(FlowOrder::DeleteStale(std::mem::take(&mut self.stale)));
        }
        self.notify_when_ready();
    }

    fn notify_when_ready(&mut self) {
        let started = |id: &FrontendId| self.core.frontend(*id).0 != FrontendState::Starting;
        if self.ready.is_some() && self.frontends.keys().all(started) {
            self.ready.take().into_iter().for_each(|ready| ready());
        }
    }

    /// Handles a request, unless it needs a survey of the flows first.
    fn handle_request(&mut self, request: Request) -> Result<Reply, Query> {
        let target = |name: &str| {
            let found = self.targets.iter().find(|(_, target)| target.spec().name == name);
            found.map(|(id, _)| *id)
        };
        let frontend = |name: &str| {
            let found = self.frontends.iter().find(|(_, frontend)| frontend.spec.name == name);
            found.map(|(id, _)| *id)
        };
        let (kind, event, name) = match request {
            Request::Status => return Err(Query::Status),
            Request::Explain(name) => match target(&name) {
                Some(id) => return Err(Query::Explain(id)),
                None => ("target", None, name),
            },
            Request::WarmTarget(name) => ("target", target(&name).map(Event::WarmTarget), name),
            Request::DrainTarget(name) => ("target", target(&name).map(Event::DrainTarget), name),
            Request::StartFrontend(name) => ("frontend", frontend(&name).map(Event::StartFrontend), name),
            Request::StopFrontend(name) => ("frontend", frontend(&name).map(Event::StopFrontend), name),
            Request::WakeFrontend(name) => {
                let wake = |frontend| Event::Wake { frontend, source: None };
                ("frontend", frontend(&name).map(wake), name)
            }
        };
        Ok(match event {
            None => Reply::Refused(format!("there is no {kind} {name:?}")),
            Some(_) if self.core.closing() => Reply::Refused("the daemon is shutting down".to_owned()),
            Some(event) => {
                // At once, so that a status that is requested next shows it.
                self.dispatch(event);
                Reply::Done
            }
        })
    }

    fn reply_to_queries(&mut self, survey: Result<Survey, String>) {
        let now = Instant::now();
        self.wall.update(now, SystemTime::now());
        let view = View {
            now,
            wall: self.wall,
            core: &self.core,
            targets: &self.targets,
            frontends: &self.frontends,
            holds: &self.holds,
            survey: survey.as_ref(),
        };
        let (replies, next) = self.pending.reply(|query| match query {
            Query::Status => Reply::Status(Box::new(view.status())),
            Query::Explain(id) => Reply::Explanation(Box::new(view.explain(id))),
        });
        replies.into_iter().for_each(|(id, reply)| self.orders.send(Order::Reply(id, reply)));
        if let Some(details) = next {
            self.flows.send(FlowOrder::Survey(details));
        }
    }
}

#[cfg(test)]
mod tests;
