//! The pure core: every decision, and nothing else.
//!
//! [`Core::handle`] takes an event in and returns effects; [`Core::next_deadline`] is when it has to be called with
//! [`Event::Tick`]. It knows no clock, socket, process or nft, so that `simulation` can drive it through any order of
//! events. Besides deciding, it logs its decisions. The engine thread runs it.
//!
//! Each target and frontend is a state machine ([`target`], [`frontend`]); this file hands them their events, and derives
//! from their states what is wanted of the rules, the deadlines, and who waits for the rules.
//!
//! Invariants (checked by `simulation` after each step):
//! - a frontend's DNAT is wanted only while its target has been started, has been ready and has not ended;
//! - the rules of a target that is shown as active are in the kernel;
//! - a backend is stopped only after its rules are gone from the kernel;
//! - each start of a target ends before the next one;
//! - everything that is neither at rest nor active waits for a result that will come, or has a deadline.

mod around;
mod backoff;
mod event;
mod frontend;
mod life;
mod rules;
#[cfg(test)]
mod simulation;
mod state;
mod target;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Instant;

use event::Effects;
pub use event::{Effect, Event};
pub use frontend::FrontendPlan;
pub use life::{Cause, Life, Woken, WokenBy};
pub use rules::Revision;
pub use target::TargetPlan;

use super::status::{FrontendState, TargetState};
use crate::dataplane::flows::{Report, Unresponsive};
use crate::dataplane::plan;
use crate::ids::{Change, FrontendId, TargetId};
use around::Around;
use frontend::{Frontend, Input as OfFrontend};
use rules::{Path, Rules};
use state::{Derived, Phase, State};
use target::{Input as OfTarget, Target};

/// The state of all targets and frontends.
#[derive(Debug, Default)]
pub struct Core {
    targets: BTreeMap<TargetId, Member>,
    frontends: BTreeMap<FrontendId, Frontend>,
    rules: Rules,
    /// Index of the deadlines of all targets and frontends.
    deadlines: Index<Instant>,
    /// Index of the revisions that targets and frontends wait for.
    waiting: Index<Revision>,
    /// Targets and frontends that have not ended for good.
    open: BTreeSet<Subject>,
    phase: Phase,
}

/// A target and its frontends.
#[derive(Debug)]
struct Member {
    target: Target,
    frontends: Vec<FrontendId>,
    /// Those of its frontends that pin it.
    pins: BTreeSet<FrontendId>,
}

/// A target or a frontend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    Target(TargetId),
    Frontend(FrontendId),
}

/// Subjects in the order of something that follows from their states.
#[derive(Debug)]
struct Index<K> {
    order: BTreeSet<(K, Subject)>,
    keys: BTreeMap<Subject, K>,
}

impl<K> Default for Index<K> {
    fn default() -> Index<K> {
        Index { order: BTreeSet::new(), keys: BTreeMap::new() }
    }
}

impl<K: Ord + Copy> Index<K> {
    fn set(&mut self, subject: Subject, key: Option<K>) {
        let old = match key {
            Some(key) => self.keys.insert(subject, key),
            None => self.keys.remove(&subject),
        };
        if old != key {
            self.order.extend(key.map(|key| (key, subject)));
            old.map(|old| self.order.remove(&(old, subject)));
        }
    }

    fn first(&self) -> Option<(K, Subject)> {
        self.order.first().copied()
    }
}

impl Core {
    /// Adds an inactive target.
    pub fn add_target(&mut self, now: Instant, id: TargetId, plan: TargetPlan) {
        self.open.insert(Subject::Target(id));
        self.targets
            .insert(id, Member { target: Target::new(plan, now), frontends: Vec::new(), pins: BTreeSet::new() });
    }

    /// Adds a stopped frontend of a target that was added before.
    pub fn add_frontend(&mut self, id: FrontendId, plan: FrontendPlan) {
        if let Some(member) = self.targets.get_mut(&plan.target) {
            member.frontends.push(id);
            self.open.insert(Subject::Frontend(id));
            self.frontends.insert(id, Frontend::new(plan));
        }
    }

    // ---- queries ----

    /// Whether the daemon is shutting down.
    pub fn closing(&self) -> bool {
        self.phase != Phase::Running
    }

    /// The state of a target, and its last error.
    pub fn target(&self, id: TargetId) -> (TargetState, Option<&str>) {
        let target = &self.targets[&id].target;
        (target.state.visible(), target.last_error.as_deref())
    }

    /// Whether a target has ended for good.
    pub fn has_ended(&self, id: TargetId) -> bool {
        self.targets[&id].target.state == State::Closed
    }

    /// State and history of a target.
    pub fn life(&self, id: TargetId) -> Life<'_> {
        self.targets[&id].target.life(self.pins(id).next().is_some())
    }

    /// Time at which an active target drains if no further flow comes, from its number of flows and the end of the last one.
    /// `None` if that is not known, or it is not active.
    pub fn drains_at(&self, id: TargetId, flows: u32, ended: Option<Instant>) -> Option<Instant> {
        self.targets[&id].target.drains_at(flows, ended)
    }

    /// The frontends that pin a target.
    pub fn pins(&self, id: TargetId) -> impl Iterator<Item = FrontendId> + '_ {
        self.targets[&id].pins.iter().copied()
    }

    /// The state of a frontend, and its last error.
    pub fn frontend(&self, id: FrontendId) -> (FrontendState, Option<&str>) {
        (self.frontends[&id].visible(), self.frontends[&id].last_error.as_deref())
    }

    /// Everything that is wanted of the rules.
    pub fn wanted(&self) -> &plan::State {
        self.rules.wanted()
    }

    /// The revision of the rules to load now; followed by [`Event::Applied`] or [`Event::ApplyFailed`].
    pub fn rules_due(&self, now: Instant) -> Option<Revision> {
        self.rules.due(now)
    }

    /// Time of the next [`Event::Tick`], if one is needed.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| at).into_iter().chain(self.rules.deadline()).min()
    }

    // ---- events ----

    /// Handles an event and adds its effects to `effects`. `now` never goes back.
    pub fn handle(&mut self, now: Instant, event: Event, effects: &mut Effects) {
        match event {
            Event::Start => self.step_all_frontends(now, || OfFrontend::Start, effects),
            Event::Wake { frontend, source } => self.wake(now, frontend, source, effects),
            Event::WarmTarget(id) => self.step_target(now, id, OfTarget::Wake(WokenBy::Operator), effects),
            Event::DrainTarget(id) => self.step_target(now, id, OfTarget::Drain, effects),
            Event::StartFrontend(id) => self.step_frontend(now, id, OfFrontend::Start, effects),
            Event::StopFrontend(id) => self.step_frontend(now, id, OfFrontend::Stop, effects),
            Event::FrontendStarted(id) => self.step_frontend(now, id, OfFrontend::Opened, effects),
            Event::FrontendFailed(id, error) => self.step_frontend(now, id, OfFrontend::OpenFailed(error), effects),
            Event::FrontendStopped(id) => self.step_frontend(now, id, OfFrontend::SocketsClosed, effects),
            Event::FrontendBroke(id, error) => self.step_frontend(now, id, OfFrontend::Broke(error), effects),
            Event::TargetReady(id) => self.step_target(now, id, OfTarget::Ready, effects),
            Event::TargetDied(id, error) => self.step_target(now, id, OfTarget::Died(error), effects),
            Event::TargetEnded(id, error) => self.step_target(now, id, OfTarget::Ended(error), effects),
            Event::RulesLost => _ = self.rules.touch(),
            Event::Wildcards(id, endpoints) => self.rules.set_wildcards(id, endpoints),
            Event::OnLink(on_link) => self.rules.set_on_link(on_link),
            Event::Applied(revision) => {
                if self.rules.error().is_some() {
                    log::info!("rules loaded again");
                }
                self.rules.applied(revision);
                self.resume(now, effects);
            }
            Event::ApplyFailed(error) => self.apply_failed(now, error, effects),
            Event::Flows(report) => self.flows_reported(now, report, effects),
            Event::Tick => {}
            Event::Shutdown => self.shutdown(now, effects),
        }
        self.fire_timers(now, effects);
        self.finish_if_done(effects);
    }

    fn flows_reported(&mut self, now: Instant, report: Report, effects: &mut Effects) {
        match report {
            Report::Unused { target, asked, since } => {
                self.step_target(now, target, OfTarget::Unused { asked, since }, effects)
            }
            Report::Checked { target, asked, result } => {
                self.step_target(now, target, OfTarget::Checked { asked, result }, effects)
            }
            Report::Flushed(id) => self.step_target(now, id, OfTarget::Flushed, effects),
            Report::ClientsLost { frontend, problem, unresponsive } => {
                self.clients_lost(now, frontend, problem, unresponsive, effects)
            }
            Report::ClientsAnswered(id) => self.clients_answered(id),
        }
    }

    fn wake(&mut self, now: Instant, id: FrontendId, source: Option<SocketAddr>, effects: &mut Effects) {
        if let Some(frontend) = self.frontends.get(&id).filter(|frontend| frontend.has_rules()) {
            let input = target::Input::Wake(WokenBy::Client(id, source));
            self.step_target(now, frontend.plan.target, input, effects);
        }
    }

    /// Handles unanswered clients. They end an unwatched target whose endpoints answer neither them nor the gateway.
    fn clients_lost(
        &mut self,
        now: Instant,
        id: FrontendId,
        problem: String,
        unresponsive: Unresponsive,
        effects: &mut Effects,
    ) {
        let Some(frontend) = self.frontends.get_mut(&id) else { return };
        let target = frontend.plan.target;
        let Target { state: State::Active(_), plan, .. } = &self.targets[&target].target else { return };
        log::warn!("frontend {}: {problem}", frontend.plan.name);
        if unresponsive == Unresponsive::Target && plan.unwatched {
            self.step_target(now, target, target::Input::Unresponsive(problem), effects);
        } else {
            frontend.last_error = Some(problem);
        }
    }

    fn clients_answered(&mut self, id: FrontendId) {
        if let Some(frontend) = self.frontends.get_mut(&id)
            && frontend.last_error.take().is_some()
        {
            log::info!("frontend {}: clients get answers again", frontend.plan.name);
        }
    }

    fn shutdown(&mut self, now: Instant, effects: &mut Effects) {
        if self.phase != Phase::Running {
            return;
        }
        self.phase = Phase::Closing;
        self.step_all_frontends(now, || frontend::Input::Stop, effects);
        let targets: Vec<_> = self.targets.keys().copied().collect();
        targets.into_iter().for_each(|id| self.step_target(now, id, target::Input::Drain, effects));
    }

    fn finish_if_done(&mut self, effects: &mut Effects) {
        if self.phase == Phase::Closing && self.open.is_empty() {
            self.phase = Phase::Finished;
            effects.push(Effect::Finished);
        }
    }

    // ---- steps ----

    fn step_target(&mut self, now: Instant, id: TargetId, input: target::Input, effects: &mut Effects) {
        let phase = self.phase;
        let Some(Member { target, frontends: members, pins }) = self.targets.get_mut(&id) else { return };
        let (frontends, rules) = (&self.frontends, &mut self.rules);
        let before = target.state;
        target.step(input, &mut Around { id, now, phase, frontends, members, pins, rules, effects });
        if target.state != before {
            let members = members.clone();
            members.into_iter().for_each(|member| _ = self.publish(member, effects));
        }
        self.index(Subject::Target(id));
    }

    fn step_frontend(&mut self, now: Instant, id: FrontendId, input: frontend::Input, effects: &mut Effects) {
        let phase = self.phase;
        let Some(frontend) = self.frontends.get_mut(&id) else { return };
        let (target, was) = (frontend.plan.target, frontend.state);
        frontend.step(now, id, phase, input, effects);
        let starts_running = frontend.state == frontend::State::Running && was != frontend::State::Running;
        let pins = frontend.pins();
        if !self.publish(id, effects) && starts_running {
            effects.push(Effect::DeleteStaleFlows(id));
        }
        let pinning = self.targets.get_mut(&target).map(|member| &mut member.pins);
        let input = pinning.and_then(|all| match pins {
            true => (all.insert(id) && all.len() == 1).then_some(target::Input::Pinned(id)),
            false => (all.remove(&id) && all.is_empty()).then_some(target::Input::Unpinned),
        });
        if let Some(input) = input {
            self.step_target(now, target, input, effects);
        }
        self.index(Subject::Frontend(id));
    }

    fn step_all_frontends(&mut self, now: Instant, input: impl Fn() -> frontend::Input, effects: &mut Effects) {
        let frontends: Vec<_> = self.frontends.keys().copied().collect();
        frontends.into_iter().for_each(|id| self.step_frontend(now, id, input(), effects));
    }

    /// Derives the rules of a frontend, and the notifications to its handler, from its state and its target's. Returns whether
    /// its flows begin to pass.
    fn publish(&mut self, id: FrontendId, effects: &mut Effects) -> bool {
        let Some(frontend) = self.frontends.get_mut(&id) else { return false };
        let target = &self.targets[&frontend.plan.target].target;
        let path = match target.state {
            _ if !frontend.has_rules() => Path::None,
            state if state.is_routed() => Path::Active,
            State::BackingOff { .. } if frontend.plan.refuses => Path::Refusing,
            _ => Path::Cold,
        };
        if frontend.passing && path != Path::Active {
            frontend.passing = false;
            effects.push(Effect::Notify(id, Change::Inactive));
        }
        if let Some(revision) = self.rules.set_path(id, path) {
            frontend.revision = revision;
        }
        let is_loaded = matches!(target.state, State::Active(_)) && self.rules.has(frontend.revision);
        let passes = path == Path::Active && is_loaded;
        let begins = passes && !frontend.passing;
        if begins {
            frontend.passing = true;
            // An error about unanswered clients belongs to the time before.
            frontend.last_error = None;
            effects.extend([Effect::DeleteStaleFlows(id), Effect::Notify(id, Change::Active)]);
        }
        self.index(Subject::Frontend(id));
        begins
    }

    /// Updates the indexes after a step.
    fn index(&mut self, subject: Subject) {
        let state: &dyn Derived = match subject {
            Subject::Target(id) => &self.targets[&id].target,
            Subject::Frontend(id) => &self.frontends[&id],
        };
        if state.is_closed() {
            self.open.remove(&subject);
        }
        self.deadlines.set(subject, state.deadline());
        self.waiting.set(subject, state.awaits());
    }

    // ---- rules and time ----

    /// Steps all that waited for rules that are in the kernel by now.
    fn resume(&mut self, now: Instant, effects: &mut Effects) {
        while let Some((revision, subject)) = self.waiting.first()
            && self.rules.has(revision)
        {
            match subject {
                Subject::Target(id) => self.step_target(now, id, target::Input::Applied, effects),
                Subject::Frontend(id) => self.step_frontend(now, id, frontend::Input::Applied, effects),
            }
        }
    }

    fn apply_failed(&mut self, now: Instant, error: String, effects: &mut Effects) {
        if self.closing() {
            self.rules.give_up();
            return self.resume(now, effects);
        }
        for (_, subject) in &self.waiting.order {
            let last_error = match subject {
                Subject::Target(id) => self.targets.get_mut(id).map(|member| &mut member.target.last_error),
                Subject::Frontend(id) => self.frontends.get_mut(id).map(|frontend| &mut frontend.last_error),
            };
            last_error.into_iter().for_each(|last| *last = Some(error.clone()));
        }
        if self.rules.error() != Some(&error) {
            log::error!("cannot load the rules, retrying every {:?}: {error}", rules::RETRY);
        }
        self.rules.failed(now, error);
    }

    fn fire_timers(&mut self, now: Instant, effects: &mut Effects) {
        while let Some((at, subject)) = self.deadlines.first()
            && at <= now
        {
            match subject {
                Subject::Target(id) => self.step_target(now, id, target::Input::Time, effects),
                Subject::Frontend(id) => self.step_frontend(now, id, frontend::Input::Time, effects),
            }
        }
    }
}
