//! The thin shell around the core, on the `engine` thread: it receives, calls, and performs.
//!
//! It drains its inbox before it runs nft, so that a thousand wakes at once become a few transactions. It blocks on its
//! inbox until the core's nearest deadline, on nft, and for a moment on the reactor's bounded orders; on nothing else.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::core::{Core, Effect, Event, FrontendPlan, TargetPlan};
use super::inbox::{Inbox, Message};
use super::questions::{Question, Questions};
use super::report::View;
use super::runner::Runner;
use super::status::{FrontendState, Reply, Request};
use super::wall::Wall;
use crate::config::{Config, Probe, Protocol};
use crate::dataplane::flows::{FlowOrder, FlowOrders, Survey};
use crate::dataplane::hold::AllCounters;
use crate::dataplane::plan::{ColdPath, HoldOptions, OnFailure};
use crate::dataplane::plan::{OnLink, State};
use crate::dataplane::rules::{Repaired, Table};
use crate::ids::FrontendId;
use crate::plugin::Target;
use crate::reactor::{Order, Orders};
use crate::system::vital;

/// What the end may take beyond the longest grace time of a target.
const END_MARGIN: Duration = Duration::from_secs(10);

/// What the daemon does once every frontend has been started.
type Ready = Box<dyn FnOnce() + Send>;

/// All that the engine works with.
pub struct Engine {
    /// The configuration.
    pub config: Arc<Config>,
    /// The targets' handlers, in the configuration's order.
    pub targets: Vec<Box<dyn Target>>,
    /// Which frontends keep their targets warm.
    pub keeps_warm: Vec<bool>,
    /// Which frontends have a handler on the reactor.
    pub has_handler: Vec<bool>,
    /// The loaded table.
    pub table: Table,
    /// Who is on which link.
    pub on_link: BTreeSet<OnLink>,
    /// The way to the flows' thread.
    pub flows: FlowOrders,
    /// The way to the reactor.
    pub orders: Orders,
    /// For the threads that the engine starts.
    pub inbox: Inbox,
    /// What comes in.
    pub receiver: Receiver<Message>,
    /// What is counted of the frontends that hold packets.
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
    config: Arc<Config>,
    core: Core,
    runners: Vec<Runner>,
    has_handler: Vec<bool>,
    table: Table,
    /// Everything that is wanted of the rules, by the core and by the shell itself.
    wanted: State,
    /// UDP frontends whose stale flows are to be deleted.
    stale: Vec<FrontendId>,
    flows: FlowOrders,
    orders: Orders,
    inbox: Inbox,
    receiver: Receiver<Message>,
    /// Events that the shell itself has for the core.
    own: VecDeque<Event>,
    holds: AllCounters,
    questions: Questions,
    wall: Wall,
    ready: Option<Ready>,
    /// When the end is given up on, once it has begun.
    patience: Option<Instant>,
    grace: Duration,
    finished: bool,
    /// Something did not end in time.
    gave_up: bool,
}

impl Shell {
    fn new(engine: Engine) -> Shell {
        let config = engine.config;
        let targets = config.targets.iter().zip(&engine.targets).map(|(spec, handler)| TargetPlan {
            name: spec.name.clone(),
            idle_timeout: spec.idle_timeout,
            ready_deadline: spec.readiness.deadline,
            min_uptime: spec.min_uptime,
            max_uptime: spec.max_uptime,
            external: handler.external(),
            unwatched: handler.unwatched() && spec.readiness.probe != Probe::None,
        });
        let rules = &engine.table.plan().frontends;
        let frontends = config.frontends.iter().zip(&engine.keeps_warm).zip(rules);
        let frontends = frontends.map(|((spec, keeps_warm), rules)| FrontendPlan {
            name: spec.name.clone(),
            target: spec.target,
            keeps_warm: *keeps_warm,
            refuses: matches!(rules.cold, ColdPath::Hold(HoldOptions { on_failure: OnFailure::Reject, .. })),
        });
        let core = Core::new(Instant::now(), targets.collect(), frontends.collect());
        let grace = engine.targets.iter().map(|target| target.stop_grace()).max().unwrap_or_default();
        let specs = config.targets.iter().cloned().zip(engine.targets).enumerate();
        let runners = specs.map(|(id, (spec, handler))| Runner::new(id, spec, handler, engine.inbox.clone())).collect();
        Shell {
            core,
            runners,
            has_handler: engine.has_handler,
            table: engine.table,
            wanted: State { on_link: engine.on_link, ..State::default() },
            stale: Vec::new(),
            flows: engine.flows,
            orders: engine.orders,
            inbox: engine.inbox,
            receiver: engine.receiver,
            own: VecDeque::from([Event::RulesChanged, Event::Start]),
            holds: engine.holds,
            questions: Questions::default(),
            wall: Wall::new(Instant::now(), SystemTime::now()),
            ready: Some(engine.ready),
            patience: None,
            grace,
            finished: false,
            gave_up: false,
            config,
        }
    }

    fn run(mut self) -> bool {
        while !self.finished {
            self.repair();
            self.settle();
            if self.finished {
                break;
            }
            let deadline = self.core.next_deadline().into_iter().chain(self.patience).chain(self.repair_due()).min();
            match self.receive(deadline) {
                Ok(message) => message.into_iter().for_each(|message| self.take(message)),
                Err(()) => break,
            }
            while let Ok(message) = self.receiver.try_recv() {
                self.inbox.taken(&message);
                self.take(message);
            }
            // Not only when no message has come: the channel prefers messages, and somebody may ask for the status all the time.
            if deadline.is_some_and(|at| at <= Instant::now()) {
                self.tick();
            }
        }
        if !self.gave_up {
            self.runners.iter_mut().for_each(Runner::ended);
        }
        if let Err(error) = self.table.remove() {
            log::error!("the rules could not be removed: {error}");
        }
        self.flows.send(FlowOrder::End);
        self.orders.send(Order::End);
        !self.gave_up
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

    fn take(&mut self, message: Message) {
        match message {
            Message::Event(event) => self.give(event),
            Message::Request { handler, tag, request } => match self.answer(request) {
                Ok(reply) => self.orders.send(Order::Reply { handler, tag, reply }),
                Err(question) => {
                    if let Some(details) = self.questions.add(handler, tag, question) {
                        self.flows.send(FlowOrder::Survey(details));
                    }
                }
            },
            Message::Wildcards(id, endpoints) => {
                self.wanted.wildcards.retain(|(target, _)| *target != id);
                self.wanted.wildcards.extend(endpoints.into_iter().map(|endpoint| (id, endpoint)));
                self.give(Event::RulesChanged);
            }
            Message::Surveyed(survey) => self.answer_questions(survey),
            Message::OnLink => {
                if let Some(links) = self.inbox.on_link() {
                    self.wanted.on_link = links;
                    self.give(Event::RulesChanged);
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
            // It is loaded again as a whole.
            self.give(Event::RulesChanged);
        }
    }

    fn tick(&mut self) {
        if self.patience.is_some_and(|at| at <= Instant::now()) {
            let running = self.config.targets.iter().enumerate().filter(|(id, _)| !self.core.has_ended(*id));
            let running: Vec<_> = running.map(|(_, target)| target.name.as_str()).collect();
            log::error!("shutdown timed out, exiting with targets still running: {}", running.join(", "));
            self.finished = true;
            self.gave_up = true;
        }
        self.give(Event::Tick);
    }

    /// Hands the core an event and performs what it wants done.
    fn give(&mut self, event: Event) {
        match &event {
            Event::TargetEnded(id, _) => self.runners[*id].ended(),
            Event::Shutdown if self.patience.is_none() => {
                self.patience = Some(Instant::now() + self.grace + END_MARGIN)
            }
            _ => {}
        }
        let mut effects = Vec::new();
        self.core.handle(Instant::now(), event, &mut effects);
        effects.into_iter().for_each(|effect| self.perform(effect));
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::StartTarget(id) => self.runners[id].start(),
            Effect::StopTarget(id) => self.runners[id].stop(),
            Effect::StartFrontend(id) if self.has_handler[id] => self.orders.send(Order::Start(id)),
            Effect::StartFrontend(id) => self.own.push_back(Event::FrontendStarted(id)),
            Effect::StopFrontend(id) if self.has_handler[id] => self.orders.send(Order::Stop(id)),
            Effect::StopFrontend(id) => self.own.push_back(Event::FrontendStopped(id)),
            Effect::SetCold(id, true) => _ = self.wanted.cold.insert(id),
            Effect::SetCold(id, false) => _ = self.wanted.cold.remove(&id),
            Effect::SetActive(id, true) => _ = self.wanted.active.insert(id),
            Effect::SetActive(id, false) => _ = self.wanted.active.remove(&id),
            Effect::SetRefusing(id, true) => _ = self.wanted.refusing.insert(id),
            Effect::SetRefusing(id, false) => _ = self.wanted.refusing.remove(&id),
            Effect::Tell(frontend, change) => self.orders.send(Order::Tell { frontend, change }),
            Effect::WatchFlows { target, asked } => self.flows.send(FlowOrder::Watch { target, asked }),
            Effect::ReleaseFlows(id) => self.flows.send(FlowOrder::Release(id)),
            Effect::CheckFlows { target, asked } => self.flows.send(FlowOrder::Check { target, asked }),
            Effect::FlushFlows { target, scope } => self.flows.send(FlowOrder::Flush { target, scope }),
            Effect::DeleteStaleFlows(id) if self.config.frontends[id].protocol == Protocol::Udp => self.stale.push(id),
            Effect::DeleteStaleFlows(_) => {}
            Effect::Finished => self.finished = true,
        }
    }

    /// Handles the shell's own events, and loads the rules that are due, until nothing of either is left.
    fn settle(&mut self) {
        loop {
            while let Some(event) = self.own.pop_front() {
                self.give(event);
            }
            let Some(revision) = self.core.rules_due(Instant::now()) else { break };
            let began = Instant::now();
            let result = self.table.apply(&self.wanted);
            let (active, cold) = (self.wanted.active.len(), self.wanted.cold.len());
            log::debug!("rules: {active} active, {cold} cold, in {:.1?}", began.elapsed());
            self.give(match result {
                Ok(()) => Event::Applied(revision),
                Err(error) => Event::ApplyFailed(error.to_string()),
            });
        }
        if !self.stale.is_empty() {
            self.flows.send(FlowOrder::DeleteStale(std::mem::take(&mut self.stale)));
        }
        self.tell_when_ready();
    }

    fn tell_when_ready(&mut self) {
        let started = |id| self.core.frontend(id).0 != FrontendState::Starting;
        if self.ready.is_some() && (0..self.config.frontends.len()).all(started) {
            self.ready.take().into_iter().for_each(|ready| ready());
        }
    }

    /// Carries an order out, or says which question it is that needs to know of the flows first.
    fn answer(&mut self, request: Request) -> Result<Reply, Question> {
        let targets = &self.config.targets;
        let frontends = &self.config.frontends;
        let target = |name: &str| targets.iter().position(|target| target.name == name);
        let frontend = |name: &str| frontends.iter().position(|frontend| frontend.name == name);
        let (kind, event, name) = match request {
            Request::Status => return Err(Question::Status),
            Request::Explain(name) => match target(&name) {
                Some(id) => return Err(Question::Explain(id)),
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
            Some(_) if self.core.closing() => Reply::Refused("the daemon is ending".to_owned()),
            Some(event) => {
                // At once, so that a status that is asked for next shows it.
                self.give(event);
                Reply::Done
            }
        })
    }

    fn answer_questions(&mut self, survey: Result<Survey, String>) {
        let now = Instant::now();
        self.wall.update(now, SystemTime::now());
        let view = View {
            now,
            wall: self.wall,
            config: &self.config,
            core: &self.core,
            holds: &self.holds,
            pids: self.runners.iter().map(Runner::pid).collect(),
            missing: self.runners.iter().map(Runner::missing).collect(),
            survey: survey.as_ref(),
        };
        let (answered, next) = self.questions.answer(|question| match question {
            Question::Status => Reply::Status(Box::new(view.status())),
            Question::Explain(id) => Reply::Explanation(Box::new(view.explain(id))),
        });
        for (handler, tag, reply) in answered {
            self.orders.send(Order::Reply { handler, tag, reply });
        }
        if let Some(details) = next {
            self.flows.send(FlowOrder::Survey(details));
        }
    }
}
