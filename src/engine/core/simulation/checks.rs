//! The rules that the core has to keep, as assertions: on each effect, on each change of a state, and at any time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::super::rules::RETRY;
use super::super::state::{Idle, IdleDrain, Step, Teardown};
use super::super::{Cause, Derived as _, Effect, Event, State, Subject, WokenBy, backoff, frontend};
use super::world::World;
use crate::dataplane::flows::{Report, Scope};
use crate::engine::status::{FrontendState, TargetState};
use crate::ids::{Change, FrontendId, TargetId};

impl World {
    /// Checks an effect before it is performed.
    pub fn check_effect(&self, effect: &Effect) {
        let kernel = &self.kernel;
        match *effect {
            Effect::StartTarget(id) => {
                assert!(!self.backends[&id].alive, "t{id} is started while it lives");
                assert!(!self.shut, "t{id} is started after the shutdown");
            }
            Effect::StopTarget(id) => {
                let routed: Vec<_> = self.members(id).filter(|f| kernel.active.contains(f)).collect();
                assert!(routed.is_empty() || self.nft_given_up, "t{id} is stopped while {routed:?} are routed to it");
                let backend = &self.backends[&id];
                if self.core.life(id).drained == Some(Cause::Idle) {
                    assert_eq!(backend.flows, 0, "t{id} is stopped as idle with flows");
                    let unused = backend.used.map(|used| self.now - used);
                    assert!(unused >= Some(self.plans[&id].idle_timeout), "t{id} is stopped {unused:?} after its use");
                }
            }
            Effect::StopFrontend(id) => {
                let has_rules = kernel.cold.contains(&id) || kernel.active.contains(&id);
                assert!(!has_rules || self.nft_given_up, "f{id} closes with rules");
            }
            Effect::Notify(id, Change::Active) => {
                assert!(kernel.active.contains(&id), "f{id} lets packets go without its DNAT");
            }
            Effect::CheckFlows { target, .. } => {
                let routed = self.members(target).any(|front| kernel.active.contains(&front));
                assert!(!routed, "t{target} is checked while new flows reach it");
            }
            Effect::FlushFlows { target, scope } => {
                let is_unresponsive = self.core.life(target).drained == Some(Cause::Unresponsive);
                assert!((scope == Scope::Unanswered) == is_unresponsive, "the wrong flows of t{target} are deleted");
                assert!(!self.backends[&target].alive, "the flows of t{target} are deleted before its backend is gone");
                let live_on = self.shut && self.plans[&target].external;
                assert!(!live_on, "the flows of t{target} are deleted, and could live on");
            }
            Effect::Finished => {
                assert!(self.shut && !self.finished);
                assert!(self.backends.values().all(|backend| !backend.alive));
            }
            _ => {}
        }
    }

    /// Checks that a result of an old query changes nothing.
    pub fn check_stale(&self, event: &Event, before: &BTreeMap<TargetId, State>) {
        let (id, is_current) = match *event {
            Event::Flows(Report::Checked { target, asked, .. }) => {
                (target, before[&target] == State::IdleDrain(IdleDrain::Verifying { asked }))
            }
            Event::Flows(Report::Unused { target, asked, .. }) => {
                let awaited = |at: Instant| at == asked;
                let is_current = matches!(before[&target], State::Active(Idle::InUse { asked, .. }) if awaited(asked));
                (target, is_current)
            }
            _ => return,
        };
        assert!(
            is_current || self.core.targets[&id].target.state == before[&id],
            "t{id} takes an old result for a new one"
        );
    }

    /// Checks that UDP flows of the time before are deleted when a frontend begins to run, and when its flows begin to pass.
    pub fn check_stale_flows(&self, before: &BTreeSet<(FrontendId, bool)>, effects: &[Effect]) {
        let begun: BTreeSet<_> = self.open_frontends().difference(before).map(|(id, _)| *id).collect();
        let deleted = effects.iter().filter_map(|effect| match effect {
            Effect::DeleteStaleFlows(id) => Some(*id),
            _ => None,
        });
        assert_eq!(deleted.collect::<BTreeSet<_>>(), begun, "frontends whose stale flows are deleted");
    }

    /// Checks what an event has done to a target.
    pub fn check_move(&mut self, id: TargetId, before: TargetState, event: &Event, effects: &[Effect]) {
        use TargetState::{Active, Closed, Draining, Inactive, Warming};
        let (after, last_error) = self.core.target(id);
        let has_error = last_error.is_some();
        let cause = self.core.life(id).drained;
        let failed: Vec<_> =
            self.members(id).filter(|f| effects.contains(&Effect::Notify(*f, Change::Failed))).collect();
        match (before, after) {
            (Warming | Draining, Active) => {
                let now = self.now;
                let backend = self.backend(id);
                backend.owed = false;
                assert!(!backend.drain_asked, "t{id} is active again after a drain was requested");
                backend.used = Some(now);
                backend.up.get_or_insert(now);
            }
            (Warming | Active, Draining) => {
                self.check_cause(id, cause.expect("a drain has a cause"), before);
                let fails = before == Warming && matches!(cause, Some(Cause::Died | Cause::NotReady));
                self.backend(id).failed = fails.then_some(self.now).or(self.backends[&id].failed);
                let expected: Vec<_> = self.members(id).filter(|_| fails).collect();
                assert_eq!(failed, expected, "clients of t{id} that learn of its failure");
                assert!(has_error || !matches!(cause, Some(Cause::Died | Cause::NotReady | Cause::Unresponsive)));
            }
            (_, Inactive) if before != Inactive => {
                let all_refuse =
                    self.members(id).next().is_some() && self.members(id).all(|front| self.frontends[&front].refuses);
                self.backend(id).owed &= !all_refuse;
                let backs_off = self.core.life(id).retry_at.is_some();
                let lately = self.backends[&id].failed.is_some_and(|at| self.now < at + backoff::FIRST);
                if lately && matches!(cause, Some(Cause::Died | Cause::NotReady)) {
                    assert!(backs_off && has_error, "t{id} has failed and may start again at once");
                }
                let wanted = self.core.wanted();
                let refused = |f: &FrontendId| self.frontends[f].refuses && backs_off;
                let expected: Vec<_> = self.members(id).filter(refused).collect();
                assert_eq!(failed, expected, "refused clients of t{id} that learn of its failure");
                assert!(
                    expected.iter().all(|f| wanted.refusing.contains(f) || !wanted.cold.contains(f)),
                    "the refusal of t{id} does not start"
                );
            }
            (Draining, Warming) => {
                let is_pinned = self.core.pins(id).next().is_some();
                assert!(self.backends[&id].owed || is_pinned, "t{id} starts again, and is not needed");
                self.backend(id).owed = false;
            }
            (Inactive, Warming) => {
                self.backend(id).owed = false;
                let woken = self.core.life(id).woken.expect("it was woken").by;
                match event {
                    Event::Wake { frontend, source } => assert_eq!(woken, WokenBy::Client(*frontend, *source)),
                    Event::WarmTarget(_) => assert_eq!(woken, WokenBy::Operator),
                    Event::Applied(_) => assert!(matches!(woken, WokenBy::Pin(_))),
                    _ => {}
                }
            }
            _ => {}
        }
        if matches!(after, Inactive | Closed) {
            assert!(!self.backends[&id].alive, "t{id} is {after:?} and its backend lives");
        }
    }

    /// Checks that a drain has happened for its cause.
    fn check_cause(&self, id: TargetId, cause: Cause, before: TargetState) {
        let (backend, plan) = (&self.backends[&id], &self.plans[&id]);
        let is_pinned = self.core.pins(id).next().is_some();
        let since = |at: Option<Instant>| at.map(|at| self.now - at).unwrap_or_default();
        match cause {
            Cause::Idle => {
                assert_eq!(before, TargetState::Active);
                assert!(!is_pinned, "t{id} is pinned, and drains as idle");
                assert!(since(backend.up) >= plan.min_uptime, "t{id} drains before its min_uptime");
                assert!(since(backend.up) >= plan.idle_timeout, "t{id} drains before its idle_timeout");
            }
            Cause::Asked => assert!(backend.drain_asked || self.shut, "no drain of t{id} was requested"),
            Cause::Died => assert!(backend.dead || !backend.alive, "t{id} has not died"),
            Cause::Unresponsive => assert!(backend.unresponsive && plan.unwatched, "t{id} answers"),
            Cause::NotReady => {
                assert!(!backend.ready && since(backend.started) >= plan.ready_deadline, "t{id} had more time")
            }
            Cause::TooOld => assert!(plan.max_uptime.is_some_and(|max| since(backend.up) >= max), "t{id} is not old"),
        }
    }

    /// Checks the rules that hold at any time.
    pub fn check(&self) {
        for id in self.target_ids() {
            self.check_target(id);
            self.check_progress(id);
        }
        let wanted = self.core.wanted();
        let wildcards = self.wildcards.iter().flat_map(|(id, all)| all.iter().map(|endpoint| (*id, *endpoint)));
        assert_eq!(wanted.wildcards, wildcards.collect());
        assert_eq!(wanted.on_link, self.on_link);
        let are_all_loaded = self.kernel == *wanted || self.rules_move();
        assert!(are_all_loaded, "something wanted is not in the kernel, and does not get there");
        for (id, front) in &self.core.frontends {
            let target = &self.core.targets[&front.plan.target].target;
            let backend = &self.backends[&front.plan.target];
            let id = *id;
            let has_wanted = wanted.active.contains(&id);
            let is_routable = backend.alive && backend.ready && !backend.dead;
            assert!(!has_wanted || is_routable, "f{id} is to be routed to a backend that is not ready");
            assert!(!self.kernel.active.contains(&id) || has_wanted || self.rules_move(), "f{id} stays routed");
            let is_running = front.visible() == FrontendState::Running;
            let is_passing = self.passing.contains(&id);
            assert!(!is_passing || has_wanted, "f{id} lets packets go");
            if is_running && target.state.visible() == TargetState::Active {
                assert!(self.kernel.active.contains(&id), "f{id} runs, its target is active, and it is not routed");
                assert!(is_passing, "f{id} holds packets back");
            }
            assert!(!is_running || self.kernel.cold.contains(&id), "f{id} runs without rules");
            if wanted.refusing.contains(&id) {
                assert!(!backend.alive, "the clients of f{id} are refused while its target lives");
                assert!(front.plan.refuses, "the clients of f{id} are refused against its configuration");
                let until = self.core.life(front.plan.target).retry_at;
                assert!(until.is_some_and(|at| at > self.now), "the refusal of f{id} does not end");
            }
            match front.state {
                frontend::State::Opening => assert!(self.opening.contains(&id)),
                frontend::State::Closing => assert!(self.closing.contains(&id)),
                frontend::State::Publishing | frontend::State::Unpublishing => {
                    assert!(self.rules_move(), "f{id} waits")
                }
                frontend::State::Stopped { retry_at } => {
                    assert!(!self.shut, "f{id} is not closed");
                    assert_eq!(self.enabled.contains(&id), retry_at.is_some(), "f{id} starts again");
                }
                frontend::State::Running | frontend::State::Closed => {}
            }
        }
        let deadline = self.core.next_deadline();
        let is_due = deadline.is_some_and(|at| at <= self.now);
        assert!(!is_due || self.core.rules_due(self.now).is_some(), "a deadline has passed and was not heeded");
    }

    fn check_target(&self, id: TargetId) {
        let (state, error) = self.core.target(id);
        let backend = &self.backends[&id];
        if state == TargetState::Active {
            assert!(backend.alive && backend.ready && !backend.dead && error.is_none());
            let too_old = self.plans[&id].max_uptime.zip(backend.up).map(|(max, up)| up + max);
            assert!(too_old.is_none_or(|at| at > self.now), "t{id} is older than its max_uptime");
            assert!(!backend.drain_asked, "t{id} is active after a drain was requested");
        }
        let index = self.core.deadlines.keys.get(&Subject::Target(id)).copied();
        assert_eq!(index, self.deadline_of(id), "the index of t{id}");
    }

    pub fn deadline_of(&self, id: TargetId) -> Option<Instant> {
        self.core.targets[&id].target.deadline()
    }

    /// Whether the rules are on their way: loaded, due, or to be tried again in time.
    fn rules_move(&self) -> bool {
        let retried =
            self.nft_failed.is_some_and(|at| self.core.next_deadline().is_some_and(|next| next <= at + RETRY));
        self.in_flight.is_some() || self.core.rules_due(self.now).is_some() || retried || self.nft_given_up
    }

    /// A target that is neither at rest nor in use waits for a result that will come, or has a deadline.
    fn check_progress(&self, id: TargetId) {
        let backend = &self.backends[&id];
        let is_coming = |event: &dyn Fn(&Event) -> bool| self.from_flows.iter().any(event);
        let is_pinned = self.core.pins(id).next().is_some();
        match self.core.targets[&id].target.state {
            State::Inactive => assert!(self.shut || !is_pinned && !backend.owed, "t{id} is needed and inactive"),
            State::BackingOff { until, .. } => {
                assert_eq!(self.core.life(id).wanted, backend.owed || is_pinned, "t{id} starts after its backoff");
                assert!(until - self.now <= backoff::MAX, "t{id} backs off for too long");
                assert_eq!(self.deadline_of(id), Some(until));
            }
            State::Starting { deadline } => {
                assert!(backend.alive && !backend.stop_asked, "t{id} was not started");
                assert_eq!(Some(deadline), backend.started.map(|at| at + self.plans[&id].ready_deadline));
                assert_eq!(self.deadline_of(id), Some(deadline));
            }
            State::Active(Idle::Pinned) => assert!(is_pinned, "t{id} is not pinned"),
            State::Active(Idle::InUse { asked, .. }) => {
                let report = |event: &Event| matches!(event, Event::Flows(Report::Unused { target, asked: at, .. }) if (*target, *at) == (id, asked));
                let is_watched = self.watches.get(&id) == Some(&asked);
                assert!(!is_pinned && (is_watched || is_coming(&report)), "t{id} is not watched");
            }
            State::Active(Idle::Since(_)) => assert!(!is_pinned && self.deadline_of(id).is_some()),
            State::IdleDrain(IdleDrain::Verifying { asked }) => {
                let result = |event: &Event| matches!(event, Event::Flows(Report::Checked { target, asked: at, .. }) if (*target, *at) == (id, asked));
                let is_checked = self.checks.get(&id) == Some(&asked);
                assert!(!is_pinned && (is_checked || is_coming(&result)), "t{id} is not checked");
            }
            State::Teardown(Teardown { step: Step::Stopping, .. }) => {
                assert!(backend.alive && backend.stop_asked, "t{id} is not stopped")
            }
            State::Teardown(Teardown { step: Step::Flushing, .. }) => {
                let result = |event: &Event| *event == Event::Flows(Report::Flushed(id));
                assert!(self.flushes.contains(&id) || is_coming(&result), "the flows of t{id} are not flushed");
            }
            State::Publishing(_) | State::IdleDrain(_) | State::Teardown(_) => {
                assert!(self.rules_move(), "t{id} waits")
            }
            State::Closed => {}
        }
    }

    /// After a failure of nft, those who wait for it have its error.
    pub fn check_failure_is_shown(&self) {
        if self.shut {
            return;
        }
        let targets = self.core.targets.values().map(|member| &member.target);
        let mut targets = targets.filter(|target| target.awaits().is_some());
        assert!(targets.all(|target| target.last_error.is_some()));
        let mut fronts = self.core.frontends.values().filter(|front| front.awaits().is_some());
        assert!(fronts.all(|front| front.last_error.is_some()));
    }
}
