//! The pure core: every decision, and nothing else.
//!
//! [`Core::handle`] takes an event and says what is to be done; [`Core::next_deadline`] says when it wants to be called
//! with [`Event::Tick`]. It knows no clock, no socket, no process and no nft, so that `simulation` can drive it through
//! any order of events. All it does besides deciding is to log what it has decided.
//!
//! Invariants (checked by `simulation` after each step):
//! - a frontend's DNAT is wanted only while its target is started and has been ready, and never after it has ended;
//! - a target that people see as active has its rules in the kernel;
//! - a backend is stopped only after its rules are gone from the kernel;
//! - each start of a target ends before the next one;
//! - whatever is neither running nor waiting for an answer has a deadline or nothing to wait for.

mod backoff;
mod event;
mod frontend;
#[cfg(test)]
mod simulation;
mod target;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

pub use event::{Change, Effect, Event, FrontendId, TargetId};
pub use frontend::FrontendPlan;
pub use target::{Cause, Life, TargetPlan, Woken, WokenBy};

use super::status::{FrontendState, TargetState};
use frontend::Frontend;
use target::{Drain, DrainStep, Phase, Target};

/// How long to wait before nft is tried again after a failure.
const RETRY: Duration = Duration::from_secs(2);

/// The state of all targets and frontends.
#[derive(Debug)]
pub struct Core {
    targets: Vec<Target>,
    frontends: Vec<Frontend>,
    /// The frontends of each target.
    fronts: Vec<Vec<FrontendId>>,
    /// What waits for [`Event::Applied`].
    pending: Vec<Subject>,
    timers: BTreeSet<(Instant, Subject)>,
    rules_timer: Option<Instant>,
    closing: bool,
    finished: bool,
}

/// What a timer or a change of the rules belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    Target(TargetId),
    Frontend(FrontendId),
    /// The rules as a whole: the shell tries again whatever is not in the kernel yet.
    Rules,
}

/// Where the effects of one event go.
type Effects = Vec<Effect>;

impl Core {
    /// Everything inactive and stopped.
    pub fn new(now: Instant, targets: Vec<TargetPlan>, frontends: Vec<FrontendPlan>) -> Core {
        let mut fronts = vec![Vec::new(); targets.len()];
        for (id, frontend) in frontends.iter().enumerate() {
            fronts[frontend.target].push(id);
        }
        Core {
            targets: targets.into_iter().map(|plan| Target::new(plan, now)).collect(),
            frontends: frontends.into_iter().map(Frontend::new).collect(),
            fronts,
            pending: Vec::new(),
            timers: BTreeSet::new(),
            rules_timer: None,
            closing: false,
            finished: false,
        }
    }

    /// Whether the daemon is ending.
    pub fn closing(&self) -> bool {
        self.closing
    }

    /// The state of a target, and its last error.
    pub fn target(&self, id: TargetId) -> (TargetState, Option<&str>) {
        (self.targets[id].state(), self.targets[id].last_error.as_deref())
    }

    /// All that there is to say about a target.
    pub fn life(&self, now: Instant, id: TargetId) -> Life<'_> {
        self.targets[id].life(now)
    }

    /// When an active target drains if no further flow comes, given how many use it and when the last one has ended; `None`
    /// if that is not known, or it is not active.
    pub fn drains_at(&self, id: TargetId, flows: u32, ended: Option<Instant>) -> Option<Instant> {
        let target = &self.targets[id];
        let Phase::Active { idle_from, .. } = target.phase else { return None };
        let idle = (flows == 0 && target.keepers == 0)
            .then(|| target.idle_at(ended.map_or(idle_from, |at| at.max(idle_from))));
        idle.into_iter().chain(target.too_old_at()).min()
    }

    /// The frontends that keep a target warm.
    pub fn keepers(&self, id: TargetId) -> impl Iterator<Item = FrontendId> + '_ {
        let keeps = |front: &FrontendId| {
            let frontend = &self.frontends[*front];
            frontend.plan.keeps_warm && frontend.phase == frontend::Phase::Running
        };
        self.fronts[id].iter().copied().filter(keeps)
    }

    /// The state of a frontend, and its last error.
    pub fn frontend(&self, id: FrontendId) -> (FrontendState, Option<&str>) {
        (self.frontends[id].state(), self.frontends[id].last_error.as_deref())
    }

    /// Whether [`Event::Applied`] is waited for.
    pub fn awaits_rules(&self) -> bool {
        !self.pending.is_empty()
    }

    /// When [`Event::Tick`] is wanted, if at all.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Takes an event in and adds what is to be done to `effects`. `now` never goes back.
    pub fn handle(&mut self, now: Instant, event: Event, effects: &mut Effects) {
        match event {
            Event::Start => (0..self.frontends.len()).for_each(|id| self.start_frontend(id, effects)),
            Event::Wake { frontend, source } => self.wake(now, frontend, source, effects),
            Event::WarmTarget(id) => {
                log::info!("target {}: an operator wants it warm", self.targets[id].plan.name);
                self.want(now, id, WokenBy::Operator, effects);
            }
            Event::DrainTarget(id) => self.drain_asked(now, id, effects),
            Event::StartFrontend(id) => self.start_frontend(id, effects),
            Event::StopFrontend(id) => self.stop_frontend(now, id, effects),
            Event::FrontendStarted(id) => self.frontend_started(now, id, effects),
            Event::FrontendFailed(id, error) => self.frontend_failed(now, id, error),
            Event::FrontendStopped(id) => self.frontend_stopped(id, effects),
            Event::TargetReady(id) => self.target_ready(id, effects),
            Event::TargetDied(id, error) => self.target_died(now, id, error, effects),
            Event::TargetEnded(id, error) => self.target_ended(now, id, error, effects),
            Event::Applied => self.applied(now, effects),
            Event::ApplyFailed(error) => self.apply_failed(now, &error, effects),
            Event::Unused { target, since } => self.unused(now, target, since, effects),
            Event::Checked { target, used, since } => {
                // A flow that came and went after the word that there was none is use as well.
                let lately = since.is_some_and(|since| self.targets[target].idle_at(since) > now);
                self.checked(now, target, used || lately, effects);
            }
            Event::FlowsForgotten(id) => self.flows_forgotten(now, id, effects),
            Event::ClientsLost { frontend, problem } => self.clients_lost(frontend, problem),
            Event::Tick => {}
            Event::Shutdown => self.shutdown(now, effects),
        }
        self.ring(now, effects);
        self.finish_if_done(effects);
    }

    // ---- targets ----

    fn wake(&mut self, now: Instant, id: FrontendId, source: Option<SocketAddr>, effects: &mut Effects) {
        let frontend = &self.frontends[id];
        if !frontend.ruled() {
            return;
        }
        let target = &self.targets[frontend.plan.target];
        if matches!(target.phase, Phase::Inactive | Phase::Draining(_)) && !target.wanted {
            let client = source.map(|client| format!(" for {client}")).unwrap_or_default();
            log::info!("target {}: woken by frontend {}{client}", target.plan.name, frontend.plan.name);
        }
        self.want(now, frontend.plan.target, WokenBy::Client(id, source), effects);
    }

    /// Warms a target as soon as that may be.
    fn want(&mut self, now: Instant, id: TargetId, by: WokenBy, effects: &mut Effects) {
        let target = &mut self.targets[id];
        if matches!(target.phase, Phase::Inactive | Phase::Draining(_)) && !target.wanted {
            target.woken = Some(Woken { by, at: now });
        }
        match &target.phase {
            Phase::Inactive => self.warm(now, id, effects),
            Phase::Draining(drain) => {
                let checking = drain.step == DrainStep::Checking;
                target.wanted = true;
                if checking {
                    self.arm_target(id, Some(now));
                }
            }
            // It is on its way, or there.
            Phase::Warming { .. } | Phase::Active { .. } | Phase::Closed => {}
        }
    }

    /// Starts an inactive target, or waits until its backoff is over.
    fn warm(&mut self, now: Instant, id: TargetId, effects: &mut Effects) {
        let target = &mut self.targets[id];
        if let Some(until) = target.backoff.until(now) {
            if !target.wanted {
                log::info!("target {}: not before {:.1?}, since it has failed", target.plan.name, until - now);
            }
            target.wanted = true;
            return self.arm_target(id, Some(until));
        }
        target.wanted = false;
        target.enter(now, Phase::Warming { routing: false });
        self.refuse(id, false, effects);
        let target = &self.targets[id];
        let deadline = now + target.plan.ready_deadline;
        log::info!("target {}: warming", target.plan.name);
        effects.push(Effect::StartTarget(id));
        self.arm_target(id, Some(deadline));
    }

    fn target_ready(&mut self, id: TargetId, effects: &mut Effects) {
        if let Phase::Warming { routing } = &mut self.targets[id].phase {
            *routing = true;
            self.route(id, effects);
        }
    }

    fn target_died(&mut self, now: Instant, id: TargetId, error: String, effects: &mut Effects) {
        let target = &mut self.targets[id];
        match &mut target.phase {
            Phase::Warming { .. } => target.backoff.failed(now),
            Phase::Active { .. } => target.backoff.died(now, now - target.up_since.unwrap_or(now)),
            Phase::Draining(drain) if drain.cause == Cause::Idle => {
                drain.cause = Cause::Died;
                target.last_error = Some(error);
                match drain.step {
                    DrainStep::Checking => self.stop(now, id, effects),
                    DrainStep::Rerouting => {
                        drain.step = DrainStep::Unrouting;
                        self.route(id, effects);
                    }
                    DrainStep::Unrouting | DrainStep::Stopping | DrainStep::Forgetting => {}
                }
                return;
            }
            Phase::Draining(_) | Phase::Inactive | Phase::Closed => return,
        }
        log::warn!("target {}: {error}", target.plan.name);
        target.last_error = Some(error);
        self.drain(now, id, Cause::Died, effects);
    }

    fn target_ended(&mut self, now: Instant, id: TargetId, error: Option<String>, effects: &mut Effects) {
        if matches!(self.targets[id].phase, Phase::Warming { .. } | Phase::Active { .. }) {
            let error = error.clone().unwrap_or_else(|| "the backend has ended".to_owned());
            self.target_died(now, id, error, effects);
        }
        let target = &mut self.targets[id];
        let Phase::Draining(drain) = &mut target.phase else { return };
        drain.ended = true;
        match (drain.cause, &mut target.last_error, error) {
            // The handler knows what was missing.
            (Cause::NotReady, Some(last), Some(error)) => *last = format!("{last}: {error}"),
            (Cause::Idle | Cause::Asked | Cause::TooOld, last, Some(error)) => *last = Some(error),
            _ => {}
        }
        match drain.step {
            DrainStep::Stopping | DrainStep::Checking => self.forget(now, id, effects),
            DrainStep::Rerouting => {
                drain.step = DrainStep::Unrouting;
                self.route(id, effects);
            }
            DrainStep::Unrouting | DrainStep::Forgetting => {}
        }
    }

    fn drain_asked(&mut self, now: Instant, id: TargetId, effects: &mut Effects) {
        let target = &mut self.targets[id];
        target.wanted = false;
        match &mut target.phase {
            // A frontend that keeps it warm still does.
            Phase::Inactive if target.keepers > 0 && !self.closing => {}
            Phase::Inactive => self.arm_target(id, None),
            Phase::Draining(drain) if drain.cause == Cause::Idle => {
                drain.cause = Cause::Asked;
                match drain.step {
                    DrainStep::Checking => self.stop(now, id, effects),
                    DrainStep::Rerouting => {
                        drain.step = DrainStep::Unrouting;
                        self.route(id, effects);
                    }
                    _ => {}
                }
            }
            Phase::Warming { .. } | Phase::Active { .. } => self.drain(now, id, Cause::Asked, effects),
            Phase::Draining(_) | Phase::Closed => {}
        }
    }

    /// Takes a warming or active target down: new flows off first.
    fn drain(&mut self, now: Instant, id: TargetId, cause: Cause, effects: &mut Effects) {
        let target = &mut self.targets[id];
        let was_routed = target.routed();
        let why = match cause {
            Cause::Idle => " since it is idle",
            Cause::Asked => " since it was asked to",
            Cause::Died => "",
            Cause::NotReady => " since it was not ready in time",
            Cause::TooOld => " since it has been up for its max_uptime",
        };
        log::info!("target {}: draining{why}", target.plan.name);
        let draining = Drain { cause, step: DrainStep::Unrouting, ended: false };
        let before = target.enter(now, Phase::Draining(draining));
        if matches!(before, Phase::Active { .. }) && target.keepers == 0 {
            effects.push(Effect::ReleaseFlows(id));
        }
        self.arm_target(id, None);
        if matches!(before, Phase::Warming { .. }) && matches!(cause, Cause::Died | Cause::NotReady) {
            effects.extend(self.fronts[id].iter().map(|front| Effect::Tell(*front, Change::Failed)));
        }
        if was_routed {
            self.route(id, effects);
        } else {
            self.stop(now, id, effects);
        }
    }

    /// Stops the backend of a draining target whose rules are gone.
    fn stop(&mut self, now: Instant, id: TargetId, effects: &mut Effects) {
        let Phase::Draining(drain) = &mut self.targets[id].phase else { return };
        if drain.ended {
            return self.forget(now, id, effects);
        }
        drain.step = DrainStep::Stopping;
        effects.push(Effect::StopTarget(id));
    }

    /// Deletes the conntrack entries of a draining target whose backend is gone, so that a client's next packet takes the
    /// cold path.
    fn forget(&mut self, now: Instant, id: TargetId, effects: &mut Effects) {
        let target = &mut self.targets[id];
        let Phase::Draining(drain) = &mut target.phase else { return };
        if self.closing && target.plan.external {
            return self.drained(now, id, effects);
        }
        drain.step = DrainStep::Forgetting;
        effects.push(Effect::ForgetFlows(id));
    }

    fn flows_forgotten(&mut self, now: Instant, id: TargetId, effects: &mut Effects) {
        if matches!(&self.targets[id].phase, Phase::Draining(drain) if drain.step == DrainStep::Forgetting) {
            self.drained(now, id, effects);
        }
    }

    fn drained(&mut self, now: Instant, id: TargetId, effects: &mut Effects) {
        let target = &mut self.targets[id];
        if let Phase::Draining(drain) = &target.phase {
            target.drained = Some(drain.cause);
            log::info!("target {}: inactive after draining for {:.1?}", target.plan.name, now - target.since);
            if matches!(drain.cause, Cause::Idle | Cause::Asked | Cause::TooOld) {
                target.backoff.reset();
            }
        }
        if self.closing {
            target.enter(now, Phase::Closed);
            return;
        }
        target.enter(now, Phase::Inactive);
        if let Some(until) = target.backoff.until(now)
            && self.refuse(id, true, effects)
        {
            // Those who came while it was going down are told like those before them, and those after them.
            let refusing = self.fronts[id].iter().filter(|front| self.frontends[**front].refusing);
            effects.extend(refusing.map(|front| Effect::Tell(*front, Change::Failed)));
            if self.fronts[id].iter().all(|front| self.frontends[*front].refusing) {
                self.targets[id].wanted = false;
            }
            self.arm_target(id, Some(until));
        }
        let target = &mut self.targets[id];
        if target.wanted || target.keepers > 0 {
            if !target.wanted {
                let keeper = self.keepers(id).next();
                self.targets[id].woken = keeper.map(|keeper| Woken { by: WokenBy::Keeper(keeper), at: now });
            }
            self.targets[id].wanted = false;
            self.warm(now, id, effects);
        }
    }

    /// Wants in the kernel what the state of the target and of its frontends calls for.
    fn route(&mut self, id: TargetId, effects: &mut Effects) {
        for frontend in self.fronts[id].clone() {
            self.route_frontend(frontend, effects);
        }
        self.pending.push(Subject::Target(id));
    }

    fn route_frontend(&mut self, id: FrontendId, effects: &mut Effects) {
        let frontend = &mut self.frontends[id];
        let active = frontend.ruled() && self.targets[frontend.plan.target].routed();
        if frontend.active != active {
            frontend.active = active;
            if !active {
                effects.push(Effect::Tell(id, Change::Inactive));
            }
            effects.push(Effect::SetActive(id, active));
        }
    }

    /// Wants the clients of a target that backs off refused, or no longer, where their frontends say so; whether any does.
    fn refuse(&mut self, id: TargetId, on: bool, effects: &mut Effects) -> bool {
        let mut any = false;
        for front in &self.fronts[id] {
            let frontend = &mut self.frontends[*front];
            let on = on && frontend.plan.refuses;
            any |= on;
            if frontend.refusing != on {
                frontend.refusing = on;
                effects.push(Effect::SetRefusing(*front, on));
            }
        }
        any
    }

    // ---- frontends ----

    fn start_frontend(&mut self, id: FrontendId, effects: &mut Effects) {
        let frontend = &mut self.frontends[id];
        frontend.wanted = !self.closing;
        if frontend.wanted && frontend.phase == frontend::Phase::Stopped {
            frontend.phase = frontend::Phase::Opening;
            effects.push(Effect::StartFrontend(id));
            self.arm_frontend(id, None);
        }
    }

    fn frontend_started(&mut self, now: Instant, id: FrontendId, effects: &mut Effects) {
        let frontend = &mut self.frontends[id];
        if frontend.phase != frontend::Phase::Opening {
            return;
        }
        frontend.phase = frontend::Phase::Ruling;
        effects.push(Effect::SetCold(id, true));
        self.pending.push(Subject::Frontend(id));
        self.route_frontend(id, effects);
        if !self.frontends[id].wanted {
            self.stop_frontend(now, id, effects);
        }
    }

    fn frontend_failed(&mut self, now: Instant, id: FrontendId, error: String) {
        let frontend = &mut self.frontends[id];
        log::error!("frontend {}: {error}", frontend.plan.name);
        frontend.last_error = Some(error);
        frontend.phase = if self.closing { frontend::Phase::Closed } else { frontend::Phase::Stopped };
        if frontend.wanted {
            frontend.backoff.failed(now);
            let until = frontend.backoff.until(now);
            self.arm_frontend(id, until);
        }
    }

    fn clients_lost(&mut self, id: FrontendId, problem: Option<String>) {
        let frontend = &mut self.frontends[id];
        match &problem {
            Some(problem) => log::warn!("frontend {}: {problem}", frontend.plan.name),
            None => log::info!("frontend {}: a client gets an answer again", frontend.plan.name),
        }
        frontend.last_error = problem;
    }

    fn frontend_running(&mut self, now: Instant, id: FrontendId, effects: &mut Effects) {
        let frontend = &mut self.frontends[id];
        frontend.phase = frontend::Phase::Running;
        frontend.last_error = None;
        frontend.backoff.reset();
        log::debug!("frontend {}: running", frontend.plan.name);
        effects.push(Effect::ForgetStale(id));
        if frontend.active {
            effects.push(Effect::Tell(id, Change::Active));
        }
        if frontend.plan.keeps_warm {
            let target = frontend.plan.target;
            self.keep(target, effects);
            self.want(now, target, WokenBy::Keeper(id), effects);
        }
    }

    fn stop_frontend(&mut self, now: Instant, id: FrontendId, effects: &mut Effects) {
        use frontend::Phase as F;
        let frontend = &mut self.frontends[id];
        frontend.wanted = false;
        match frontend.phase {
            F::Ruling | F::Running => {
                let kept = frontend.phase == F::Running && frontend.plan.keeps_warm;
                frontend.phase = F::Unruling;
                effects.push(Effect::SetCold(id, false));
                self.pending.push(Subject::Frontend(id));
                self.route_frontend(id, effects);
                if kept {
                    self.let_go(now, self.frontends[id].plan.target, effects);
                }
            }
            F::Stopped => {
                if self.closing {
                    frontend.phase = F::Closed;
                }
                self.arm_frontend(id, None);
            }
            F::Opening | F::Unruling | F::Closing | F::Closed => {}
        }
    }

    /// One more frontend keeps the target warm.
    fn keep(&mut self, id: TargetId, effects: &mut Effects) {
        let target = &mut self.targets[id];
        target.keepers += 1;
        if let (Phase::Active { unused, .. }, 1) = (&mut target.phase, target.keepers) {
            *unused = None;
            effects.push(Effect::ReleaseFlows(id));
            let at = target.too_old_at();
            self.arm_target(id, at);
        }
    }

    /// A frontend no longer keeps the target warm.
    fn let_go(&mut self, now: Instant, id: TargetId, effects: &mut Effects) {
        let target = &mut self.targets[id];
        target.keepers -= 1;
        if target.keepers > 0 {
            return;
        }
        match &mut target.phase {
            Phase::Active { idle_from, .. } => {
                *idle_from = now;
                effects.push(Effect::WatchFlows(id));
            }
            Phase::Inactive if !target.wanted => self.arm_target(id, None),
            _ => {}
        }
    }

    fn frontend_stopped(&mut self, id: FrontendId, effects: &mut Effects) {
        let frontend = &mut self.frontends[id];
        if frontend.phase != frontend::Phase::Closing {
            return;
        }
        log::debug!("frontend {}: stopped", frontend.plan.name);
        if self.closing {
            frontend.phase = frontend::Phase::Closed;
            return;
        }
        frontend.phase = frontend::Phase::Stopped;
        if frontend.wanted {
            self.start_frontend(id, effects);
        }
    }

    // ---- the rules ----

    fn applied(&mut self, now: Instant, effects: &mut Effects) {
        self.disarm(Subject::Rules);
        for subject in std::mem::take(&mut self.pending) {
            match subject {
                Subject::Target(id) => self.target_applied(now, id, effects),
                Subject::Frontend(id) => match self.frontends[id].phase {
                    frontend::Phase::Ruling => self.frontend_running(now, id, effects),
                    frontend::Phase::Unruling => {
                        self.frontends[id].phase = frontend::Phase::Closing;
                        effects.push(Effect::StopFrontend(id));
                    }
                    _ => {}
                },
                Subject::Rules => {}
            }
        }
    }

    fn target_applied(&mut self, now: Instant, id: TargetId, effects: &mut Effects) {
        let target = &mut self.targets[id];
        match &mut target.phase {
            Phase::Warming { routing: true } => {
                log::info!("target {}: active after {:.1?}", target.plan.name, now - target.since);
                self.activate(now, id, effects);
            }
            Phase::Draining(drain) => match drain.step {
                DrainStep::Unrouting if drain.cause == Cause::Idle && !drain.ended => {
                    drain.step = DrainStep::Checking;
                    effects.push(Effect::CheckFlows(id));
                    if target.wanted || target.keepers > 0 {
                        // Not here and now: what is wanted from now on must not be taken for what is in the kernel.
                        self.arm_target(id, Some(now));
                    }
                }
                DrainStep::Unrouting => self.stop(now, id, effects),
                DrainStep::Rerouting => {
                    log::info!("target {}: active again, since a client came while it was draining", target.plan.name);
                    self.activate(now, id, effects);
                }
                DrainStep::Checking | DrainStep::Stopping | DrainStep::Forgetting => {}
            },
            _ => {}
        }
    }

    fn activate(&mut self, now: Instant, id: TargetId, effects: &mut Effects) {
        let target = &mut self.targets[id];
        target.wanted = false;
        target.last_error = None;
        target.enter(now, Phase::Active { idle_from: now, unused: None });
        if target.keepers == 0 {
            effects.push(Effect::WatchFlows(id));
        }
        let at = target.too_old_at();
        self.arm_target(id, at);
        for front in self.fronts[id].iter().filter(|id| self.frontends[**id].active) {
            effects.extend([Effect::ForgetStale(*front), Effect::Tell(*front, Change::Active)]);
        }
    }

    fn apply_failed(&mut self, now: Instant, error: &str, effects: &mut Effects) {
        if self.closing {
            // There is nothing to wait for: the table goes as a whole.
            return self.applied(now, effects);
        }
        for subject in &self.pending {
            match subject {
                Subject::Target(id) => self.targets[*id].last_error = Some(error.to_owned()),
                Subject::Frontend(id) => self.frontends[*id].last_error = Some(error.to_owned()),
                Subject::Rules => {}
            }
        }
        self.arm(Subject::Rules, Some(now + RETRY));
    }

    // ---- flows ----

    /// No flow keeps the target in use: it drains, or will be looked at again when its idle time is over.
    fn unused(&mut self, now: Instant, id: TargetId, since: Option<Instant>, effects: &mut Effects) {
        let target = &mut self.targets[id];
        let Phase::Active { idle_from, unused } = &mut target.phase else { return };
        if target.keepers > 0 {
            return;
        }
        let since = since.map_or(*idle_from, |since| since.max(*idle_from));
        *unused = Some(since);
        let at = target.idle_at(since);
        if at <= now {
            self.drain(now, id, Cause::Idle, effects);
        } else {
            let at = target.too_old_at().map_or(at, |old| old.min(at));
            self.arm_target(id, Some(at));
        }
    }

    /// Ends the check of a draining target: it goes on, or is called off for the sake of somebody who needs it.
    fn checked(&mut self, now: Instant, id: TargetId, used: bool, effects: &mut Effects) {
        let target = &mut self.targets[id];
        let Phase::Draining(drain) = &mut target.phase else { return };
        if drain.step != DrainStep::Checking {
            return;
        }
        if used || target.wanted || target.keepers > 0 {
            drain.step = DrainStep::Rerouting;
            self.route(id, effects);
        } else {
            self.stop(now, id, effects);
        }
    }

    // ---- time ----

    /// Does what the deadlines that have come call for.
    fn ring(&mut self, now: Instant, effects: &mut Effects) {
        while let Some((at, subject)) = self.timers.first().copied()
            && at <= now
        {
            self.disarm(subject);
            match subject {
                // The shell tries again whenever it has been called.
                Subject::Rules => {}
                Subject::Frontend(id) => self.start_frontend(id, effects),
                Subject::Target(id) => match self.targets[id].phase {
                    Phase::Inactive => {
                        self.refuse(id, false, effects);
                        if self.targets[id].wanted || self.targets[id].keepers > 0 {
                            self.warm(now, id, effects);
                        }
                    }
                    Phase::Warming { .. } => {
                        let target = &mut self.targets[id];
                        let within = target.plan.ready_deadline;
                        target.last_error = Some(format!("not ready within {within:?}"));
                        target.backoff.failed(now);
                        self.drain(now, id, Cause::NotReady, effects);
                    }
                    Phase::Active { .. } => self.active_for_long(now, id, effects),
                    // Somebody who needs it does not wait for the answer of a check.
                    Phase::Draining(_) => self.checked(now, id, false, effects),
                    Phase::Closed => {}
                },
            }
        }
    }

    /// An active target's deadline has come: its idle time is over unless somebody has used it, or it is too old.
    fn active_for_long(&mut self, now: Instant, id: TargetId, effects: &mut Effects) {
        let target = &mut self.targets[id];
        if target.too_old_at().is_some_and(|at| at <= now) {
            return self.drain(now, id, Cause::TooOld, effects);
        }
        if let Phase::Active { unused, .. } = &mut target.phase
            && unused.take().is_some()
        {
            effects.push(Effect::WatchFlows(id));
        }
        let at = target.too_old_at();
        self.arm_target(id, at);
    }

    fn arm_target(&mut self, id: TargetId, at: Option<Instant>) {
        self.arm(Subject::Target(id), at);
    }

    fn arm_frontend(&mut self, id: FrontendId, at: Option<Instant>) {
        self.arm(Subject::Frontend(id), at);
    }

    fn disarm(&mut self, subject: Subject) {
        self.arm(subject, None);
    }

    /// Sets the one timer of a subject, or stops it.
    fn arm(&mut self, subject: Subject, at: Option<Instant>) {
        let timer = match subject {
            Subject::Target(id) => &mut self.targets[id].timer,
            Subject::Frontend(id) => &mut self.frontends[id].timer,
            Subject::Rules => &mut self.rules_timer,
        };
        if let Some(old) = std::mem::replace(timer, at) {
            self.timers.remove(&(old, subject));
        }
        if let Some(at) = at {
            self.timers.insert((at, subject));
        }
    }

    // ---- the end ----

    fn shutdown(&mut self, now: Instant, effects: &mut Effects) {
        if std::mem::replace(&mut self.closing, true) {
            return;
        }
        for id in 0..self.frontends.len() {
            self.stop_frontend(now, id, effects);
        }
        for id in 0..self.targets.len() {
            self.drain_asked(now, id, effects);
            if matches!(self.targets[id].phase, Phase::Inactive) {
                self.targets[id].enter(now, Phase::Closed);
            }
        }
    }

    fn finish_if_done(&mut self, effects: &mut Effects) {
        if self.closing
            && !self.finished
            && self.targets.iter().all(|target| matches!(target.phase, Phase::Closed))
            && self.frontends.iter().all(|frontend| frontend.phase == frontend::Phase::Closed)
        {
            self.finished = true;
            effects.push(Effect::Finished);
        }
    }
}
