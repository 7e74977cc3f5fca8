//! How a target goes down: out of use, or told to, or dead. New flows off first, then the backend.

use std::time::Instant;

use super::event::{Change, Effect, TargetId};
use super::target::{Cause, Drain, DrainStep, Phase, Woken, WokenBy};
use super::{Core, Effects};

impl Core {
    /// No flow keeps the target in use: it drains, or will be looked at again when its idle time is over.
    pub(super) fn unused(&mut self, now: Instant, id: TargetId, since: Option<Instant>, effects: &mut Effects) {
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
    pub(super) fn checked(&mut self, now: Instant, id: TargetId, used: bool, effects: &mut Effects) {
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

    pub(super) fn target_died(&mut self, now: Instant, id: TargetId, error: String, effects: &mut Effects) {
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

    /// An active target's backend answers nobody. It goes down like one that has died, but those whose flows it has once
    /// answered keep them: maybe it only takes no new ones.
    pub(super) fn target_silent(&mut self, now: Instant, id: TargetId, error: String, effects: &mut Effects) {
        let target = &mut self.targets[id];
        target.backoff.died(now, now - target.up_since.unwrap_or(now));
        target.last_error = Some(error);
        self.drain(now, id, Cause::Silent, effects);
    }

    pub(super) fn target_ended(&mut self, now: Instant, id: TargetId, error: Option<String>, effects: &mut Effects) {
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

    pub(super) fn drain_asked(&mut self, now: Instant, id: TargetId, effects: &mut Effects) {
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
    pub(super) fn drain(&mut self, now: Instant, id: TargetId, cause: Cause, effects: &mut Effects) {
        let target = &mut self.targets[id];
        let was_routed = target.routed();
        let why = match cause {
            Cause::Idle => " since it is idle",
            Cause::Asked => " since it was asked to",
            Cause::Died => "",
            Cause::Silent => " since nobody gets an answer",
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
    pub(super) fn stop(&mut self, now: Instant, id: TargetId, effects: &mut Effects) {
        let Phase::Draining(drain) = &mut self.targets[id].phase else { return };
        if drain.ended {
            return self.forget(now, id, effects);
        }
        drain.step = DrainStep::Stopping;
        effects.push(Effect::StopTarget(id));
    }

    /// Deletes the conntrack entries of a draining target whose backend is gone, so that a client's next packet takes the
    /// cold path.
    pub(super) fn forget(&mut self, now: Instant, id: TargetId, effects: &mut Effects) {
        let target = &mut self.targets[id];
        let Phase::Draining(drain) = &mut target.phase else { return };
        if self.closing && target.plan.external {
            return self.drained(now, id, effects);
        }
        drain.step = DrainStep::Forgetting;
        let answered = drain.cause != Cause::Silent;
        effects.push(Effect::ForgetFlows { target: id, answered });
    }

    pub(super) fn flows_forgotten(&mut self, now: Instant, id: TargetId, effects: &mut Effects) {
        if matches!(&self.targets[id].phase, Phase::Draining(drain) if drain.step == DrainStep::Forgetting) {
            self.drained(now, id, effects);
        }
    }

    pub(super) fn drained(&mut self, now: Instant, id: TargetId, effects: &mut Effects) {
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
}
