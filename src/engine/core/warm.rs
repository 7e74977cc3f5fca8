//! How a target comes up: somebody wants it, it starts, it is ready, its rules are in.

use std::net::SocketAddr;
use std::time::Instant;

use super::event::{Change, Effect, FrontendId, TargetId};
use super::target::{DrainStep, Phase, Woken, WokenBy};
use super::{Core, Effects, Subject};

impl Core {
    pub(super) fn wake(&mut self, now: Instant, id: FrontendId, source: Option<SocketAddr>, effects: &mut Effects) {
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
    pub(super) fn want(&mut self, now: Instant, id: TargetId, by: WokenBy, effects: &mut Effects) {
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
    pub(super) fn warm(&mut self, now: Instant, id: TargetId, effects: &mut Effects) {
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

    pub(super) fn target_ready(&mut self, id: TargetId, effects: &mut Effects) {
        if let Phase::Warming { routing } = &mut self.targets[id].phase {
            *routing = true;
            self.route(id, effects);
        }
    }

    /// Wants in the kernel what the state of the target and of its frontends calls for.
    pub(super) fn route(&mut self, id: TargetId, effects: &mut Effects) {
        for frontend in self.fronts[id].clone() {
            self.route_frontend(frontend, effects);
        }
        self.pending.push(Subject::Target(id));
    }

    pub(super) fn route_frontend(&mut self, id: FrontendId, effects: &mut Effects) {
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
    pub(super) fn refuse(&mut self, id: TargetId, on: bool, effects: &mut Effects) -> bool {
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

    pub(super) fn activate(&mut self, now: Instant, id: TargetId, effects: &mut Effects) {
        let target = &mut self.targets[id];
        target.wanted = false;
        target.last_error = None;
        target.enter(now, Phase::Active { idle_from: now, unused: None });
        if target.keepers == 0 {
            effects.push(Effect::WatchFlows(id));
        }
        let at = target.too_old_at();
        self.arm_target(id, at);
        for front in &self.fronts[id] {
            let frontend = &mut self.frontends[*front];
            if !frontend.active {
                continue;
            }
            // Whether its clients are answered is to be seen anew.
            frontend.last_error = None;
            effects.extend([Effect::ForgetStale(*front), Effect::Tell(*front, Change::Active)]);
        }
    }
}
