//! The model: clients, the kernel and nft, the backends, and the flows thread. It lets through only what the kernel would.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use super::super::rules::RETRY;
use super::super::{Core, Effect, Event, FrontendPlan, Revision, TargetPlan, frontend};
use crate::config::{Address, Prefix};
use crate::dataplane::flows::{Report, Unresponsive, Use};
use crate::dataplane::plan::{self, OnLink};
use crate::engine::status::TargetState;
use crate::ids::{Change, FrontendId, TargetId};
use crate::random::Random;

/// The model of a target's backend, since its last start.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Backend {
    /// Started, and not ended yet.
    pub alive: bool,
    /// It has died, and its handler waits to be stopped.
    pub dead: bool,
    pub ready: bool,
    pub stop_asked: bool,
    pub started: Option<Instant>,
    /// Open flows. Those of an earlier start may live on.
    pub flows: u32,
    /// The end of the last flow, or when it became active.
    pub used: Option<Instant>,
    /// When it first became active.
    pub up: Option<Instant>,
    /// A drain of this start was requested.
    pub drain_asked: bool,
    /// It answers no client, and goes down for that.
    pub unresponsive: bool,
    /// A wake or an operator's order that no start has answered yet.
    pub owed: bool,
    /// When it died, or was not ready in time, before it was active.
    pub failed: Option<Instant>,
}

impl Backend {
    pub fn may_be_ready(&self) -> bool {
        self.alive && !self.ready && !self.stop_asked && !self.dead
    }
}

pub(super) struct World {
    pub random: Random,
    pub now: Instant,
    pub core: Core,
    pub plans: BTreeMap<TargetId, TargetPlan>,
    pub frontends: BTreeMap<FrontendId, FrontendPlan>,
    pub backends: BTreeMap<TargetId, Backend>,
    pub kernel: plan::State,
    /// Endpoints of targets that answer from any address, as last reported.
    pub wildcards: BTreeMap<TargetId, BTreeSet<Address>>,
    pub on_link: BTreeSet<OnLink>,
    /// nft has loaded this revision, and the core has not heard of it yet.
    pub in_flight: Option<Revision>,
    pub nft_broken_until: Option<Instant>,
    pub nft_failed: Option<Instant>,
    /// nft has failed during the shutdown, which does not wait for it: the table goes as a whole.
    pub nft_given_up: bool,
    /// Frontends that operators want to run.
    pub enabled: BTreeSet<FrontendId>,
    /// Frontends whose handlers know that their target is active.
    pub passing: BTreeSet<FrontendId>,
    pub opening: VecDeque<FrontendId>,
    pub closing: VecDeque<FrontendId>,
    /// Captured first packets that the engine has not heard of yet.
    wakes: VecDeque<FrontendId>,
    /// Orders to the flows thread, with their times.
    pub watches: BTreeMap<TargetId, Instant>,
    pub checks: BTreeMap<TargetId, Instant>,
    pub flushes: VecDeque<TargetId>,
    /// What the flows thread has sent.
    pub from_flows: VecDeque<Event>,
    pub shut: bool,
    pub finished: bool,
}

impl World {
    pub fn new(seed: u64) -> World {
        let mut random = Random(seed);
        let now = Instant::now();
        let mut core = Core::default();
        let targets = 1 + random.below(3) as u32;
        let plans: BTreeMap<_, _> = (0..targets)
            .map(|number| {
                let plan = TargetPlan {
                    name: format!("t{number}"),
                    idle_timeout: Duration::from_millis(100 + random.below(20_000)),
                    ready_deadline: Duration::from_millis(100 + random.below(5_000)),
                    min_uptime: Duration::from_millis(random.below(2) * random.below(20_000)),
                    max_uptime: random.chance(30).then(|| Duration::from_millis(20_000 + random.below(60_000))),
                    external: random.chance(30),
                    unwatched: random.chance(30),
                };
                core.add_target(now, TargetId::new(number), plan.clone());
                (TargetId::new(number), plan)
            })
            .collect();
        let frontends = (0..1 + random.below(4) as u32).map(|number| {
            let plan = FrontendPlan {
                name: format!("f{number}"),
                target: TargetId::new(random.below(targets.into()) as u32),
                keeps_warm: random.chance(20),
                refuses: random.chance(40),
            };
            core.add_frontend(FrontendId::new(number), plan.clone());
            (FrontendId::new(number), plan)
        });
        let frontends = frontends.collect();
        let mut world = World {
            random,
            now,
            core,
            backends: plans.keys().map(|id| (*id, Backend::default())).collect(),
            plans,
            frontends,
            kernel: plan::State::default(),
            wildcards: BTreeMap::new(),
            on_link: BTreeSet::new(),
            in_flight: None,
            nft_broken_until: None,
            nft_failed: None,
            nft_given_up: false,
            enabled: BTreeSet::new(),
            passing: BTreeSet::new(),
            opening: VecDeque::new(),
            closing: VecDeque::new(),
            wakes: VecDeque::new(),
            watches: BTreeMap::new(),
            checks: BTreeMap::new(),
            flushes: VecDeque::new(),
            from_flows: VecDeque::new(),
            shut: false,
            finished: false,
        };
        world.give(Event::Start);
        world
    }

    pub fn members(&self, target: TargetId) -> impl Iterator<Item = FrontendId> + '_ {
        self.frontends.iter().filter(move |(_, plan)| plan.target == target).map(|(id, _)| *id)
    }

    pub fn target_ids(&self) -> Vec<TargetId> {
        self.plans.keys().copied().collect()
    }

    pub fn frontend_ids(&self) -> Vec<FrontendId> {
        self.frontends.keys().copied().collect()
    }

    pub fn backend(&mut self, id: TargetId) -> &mut Backend {
        self.backends.get_mut(&id).expect("a backend of each target")
    }

    /// Hands an event to the core, applies its effects to the model, and checks.
    pub fn give(&mut self, event: Event) {
        let before: Vec<_> = self.backends.keys().map(|id| (*id, self.core.target(*id).0)).collect();
        self.note(&event);
        let states: BTreeMap<_, _> = self.core.targets.iter().map(|(id, member)| (*id, member.target.state)).collect();
        let open = self.open_frontends();
        let mut effects = Vec::new();
        self.core.handle(self.now, event.clone(), &mut effects);
        self.check_stale(&event, &states);
        self.check_stale_flows(&open, &effects);
        for effect in &effects {
            self.perform(effect);
        }
        for (id, before) in before {
            self.check_move(id, before, &event, &effects);
        }
        self.check();
    }

    /// Each frontend that runs, and whether its target's flows pass.
    pub fn open_frontends(&self) -> BTreeSet<(FrontendId, bool)> {
        let running = self.core.frontends.iter().filter(|(_, front)| front.state == frontend::State::Running);
        let states = running.flat_map(|(id, front)| [(*id, false), (*id, front.passing)]);
        states.collect()
    }

    /// Records the wishes of operators and clients.
    fn note(&mut self, event: &Event) {
        match event {
            Event::Start => self.enabled = self.frontends.keys().copied().collect(),
            Event::StartFrontend(id) if !self.shut => _ = self.enabled.insert(*id),
            Event::StopFrontend(id) => _ = self.enabled.remove(id),
            Event::Shutdown => self.enabled.clear(),
            Event::Wake { frontend, .. } if self.core.frontends[frontend].has_rules() => {
                self.owe(self.frontends[frontend].target)
            }
            Event::WarmTarget(id) => self.owe(*id),
            Event::DrainTarget(id) => self.backend(*id).owed = false,
            _ => {}
        }
    }

    fn owe(&mut self, target: TargetId) {
        let state = self.core.target(target).0;
        self.backend(target).owed |= matches!(state, TargetState::Inactive | TargetState::Draining);
    }

    fn perform(&mut self, effect: &Effect) {
        self.check_effect(effect);
        match *effect {
            Effect::StartTarget(id) => {
                let Backend { flows, owed, .. } = self.backends[&id];
                let started = Some(self.now);
                *self.backend(id) = Backend { alive: true, flows, owed, started, ..Backend::default() };
            }
            Effect::StopTarget(id) => self.backend(id).stop_asked = true,
            Effect::StartFrontend(id) => self.opening.push_back(id),
            Effect::StopFrontend(id) => self.closing.push_back(id),
            Effect::Notify(id, Change::Active) => _ = self.passing.insert(id),
            Effect::Notify(id, Change::Inactive | Change::Failed) => _ = self.passing.remove(&id),
            Effect::WatchFlows { target, asked } => _ = self.watches.insert(target, asked),
            Effect::ReleaseFlows(id) => {
                self.watches.remove(&id);
                self.checks.remove(&id);
            }
            Effect::CheckFlows { target, asked } => _ = self.checks.insert(target, asked),
            Effect::FlushFlows { target, .. } => {
                self.watches.remove(&target);
                self.checks.remove(&target);
                self.flushes.push_back(target);
            }
            Effect::DeleteStaleFlows(_) => {}
            Effect::Finished => self.finished = true,
        }
    }

    // ---- operators and clients ----

    pub fn warm(&mut self, target: TargetId) {
        self.give(Event::WarmTarget(target));
    }

    pub fn drain(&mut self, target: TargetId) {
        self.backend(target).drain_asked = true;
        self.give(Event::DrainTarget(target));
    }

    pub fn shut_down(&mut self) {
        self.shut = true;
        self.give(Event::Shutdown);
    }

    /// A client sends a first packet, and the cold path hands it over, unless another path is in the kernel.
    pub fn capture(&mut self, front: FrontendId) -> bool {
        let kernel = &self.kernel;
        let is_cold = kernel.cold.contains(&front) && !kernel.active.contains(&front);
        if is_cold && !kernel.refusing.contains(&front) && !self.wakes.contains(&front) {
            self.wakes.push_back(front);
            return true;
        }
        false
    }

    pub fn deliver_wake(&mut self) -> bool {
        let Some(frontend) = self.wakes.pop_front() else { return false };
        self.give(Event::Wake { frontend, source: None });
        true
    }

    pub fn begin_flow(&mut self, target: TargetId) {
        if !self.backends[&target].dead {
            self.backend(target).flows += 1;
        }
    }

    pub fn end_flow(&mut self, target: TargetId) {
        let now = self.now;
        let backend = self.backend(target);
        if backend.flows > 0 {
            backend.flows -= 1;
            // A flow that outlives a start does not use the next one before it is active.
            backend.used = backend.used.map(|_| now);
        }
    }

    /// The clients of a frontend get no answer; `none`: from none of the target's endpoints.
    pub fn lose_clients(&mut self, target: TargetId, none: bool) {
        let Some(frontend) = self.members(target).next() else { return };
        self.backend(target).unresponsive |= none && self.plans[&target].unwatched;
        let unresponsive = if none { Unresponsive::Target } else { Unresponsive::Endpoint };
        self.give(Event::Flows(Report::ClientsLost { frontend, problem: "no answer".to_owned(), unresponsive }));
    }

    // ---- backends and frontends ----

    pub fn ready(&mut self, target: TargetId) {
        let endpoints: BTreeSet<Address> = (0..self.random.below(3)).map(|_| self.address()).collect();
        self.wildcards.insert(target, endpoints.clone());
        self.give(Event::Wildcards(target, endpoints));
        self.backend(target).ready = true;
        self.give(Event::TargetReady(target));
    }

    fn address(&mut self) -> Address {
        format!("127.0.0.1:{}", 1 + self.random.below(3)).parse().expect("an address")
    }

    /// An address of an interface comes or goes.
    pub fn change_links(&mut self) {
        let interface = self.random.below(3) as u32;
        let prefix = Prefix::around([192, 0, 2, 1].into(), 24);
        let link = OnLink { interface, prefix };
        if !self.on_link.remove(&link) {
            self.on_link.insert(link);
        }
        self.give(Event::OnLink(self.on_link.clone()));
    }

    pub fn die(&mut self, target: TargetId) {
        let is_warming = self.core.target(target).0 == TargetState::Warming;
        let now = self.now;
        let backend = self.backend(target);
        (backend.dead, backend.flows) = (true, 0);
        backend.failed = is_warming.then_some(now).or(backend.failed);
        self.give(Event::TargetDied(target, "exit status: 1".to_owned()));
    }

    pub fn end(&mut self, target: TargetId, fails: bool) {
        let is_warming = self.core.target(target).0 == TargetState::Warming;
        let now = self.now;
        let backend = self.backend(target);
        backend.failed = is_warming.then_some(now).or(backend.failed);
        backend.alive = false;
        if !backend.unresponsive {
            backend.flows = 0;
        }
        self.give(Event::TargetEnded(target, fails.then(|| "exit status: 1".to_owned())));
    }

    pub fn open(&mut self, works: bool) -> bool {
        let Some(id) = self.opening.pop_front() else { return false };
        self.give(if works { Event::FrontendStarted(id) } else { Event::FrontendFailed(id, "in use".to_owned()) });
        true
    }

    pub fn close(&mut self) -> bool {
        let Some(id) = self.closing.pop_front() else { return false };
        self.give(Event::FrontendStopped(id));
        true
    }

    // ---- nft ----

    /// nft runs, if the core wants it to; the core hears of a success later.
    pub fn apply(&mut self) -> bool {
        let Some(revision) = self.core.rules_due(self.now) else { return false };
        if self.in_flight.is_some() {
            return false;
        }
        if self.nft_broken_until.is_some_and(|until| self.now < until) {
            let pause = self.nft_failed.map(|at| self.now - at);
            assert!(
                self.shut || pause.is_none_or(|pause| pause >= RETRY),
                "nft is run again {pause:?} after a failure"
            );
            self.nft_failed = Some(self.now);
            self.nft_given_up |= self.shut;
            self.give(Event::ApplyFailed("nft failed".to_owned()));
            self.check_failure_is_shown();
        } else {
            self.kernel = self.core.wanted().clone();
            self.nft_failed = None;
            self.in_flight = Some(revision);
        }
        true
    }

    pub fn deliver_applied(&mut self) -> bool {
        let Some(revision) = self.in_flight.take() else { return false };
        self.give(Event::Applied(revision));
        true
    }

    // ---- the flows thread ----

    /// Reports that a watched target is not in use, if it is not.
    pub fn answer_watch(&mut self, target: TargetId) -> bool {
        if self.backends[&target].flows > 0 {
            return false;
        }
        let Some(asked) = self.watches.remove(&target) else { return false };
        self.from_flows.push_back(Event::Flows(Report::Unused { target, asked, since: self.backends[&target].used }));
        true
    }

    /// Reports whether a target is in use; if that cannot be known, that it is.
    pub fn answer_check(&mut self, works: bool) -> bool {
        let Some((target, asked)) = self.checks.pop_first() else { return false };
        let backend = &self.backends[&target];
        let is_used = !works || backend.flows > 0;
        let result = if is_used { Use::InUse } else { Use::Unused { since: backend.used } };
        self.from_flows.push_back(Event::Flows(Report::Checked { target, asked, result }));
        true
    }

    pub fn answer_flush(&mut self) -> bool {
        let Some(target) = self.flushes.pop_front() else { return false };
        self.from_flows.push_back(Event::Flows(Report::Flushed(target)));
        true
    }

    pub fn deliver_from_flows(&mut self) -> bool {
        let at = self.random.below(self.from_flows.len().max(1) as u64) as usize;
        let Some(event) = self.from_flows.remove(at) else { return false };
        self.give(event);
        true
    }

    // ---- time ----

    /// Lets some time pass, but no further than the next deadline, as the shell does.
    pub fn pass(&mut self, most: Duration) {
        let then = self.now + most;
        self.now = self.core.next_deadline().map_or(then, |at| at.min(then)).max(self.now);
        self.give(Event::Tick);
    }
}
