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
mod drain;
mod event;
mod frontend;
mod frontends;
#[cfg(test)]
mod simulation;
mod target;
mod warm;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

pub use event::{Change, Effect, Event, FrontendId, TargetId};
pub use frontend::FrontendPlan;
pub use target::{Cause, Life, TargetPlan, Woken, WokenBy};

use super::status::{FrontendState, TargetState};
use frontend::Frontend;
use target::{DrainStep, Phase, Target};

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
            Event::FrontendStopped(id) => self.frontend_stopped(now, id, effects),
            Event::FrontendBroke(id, error) => self.frontend_broke(now, id, error, effects),
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
            Event::ClientsLost { frontend, problem, none } => self.clients_lost(now, frontend, problem, none, effects),
            Event::ClientsAnswered(id) => self.clients_answered(id),
            Event::Tick => {}
            Event::Shutdown => self.shutdown(now, effects),
        }
        self.ring(now, effects);
        self.finish_if_done(effects);
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
