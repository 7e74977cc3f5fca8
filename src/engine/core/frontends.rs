//! The lives of the frontends: their sockets, their rules, and what they do to their targets.

use std::time::Instant;

use super::event::{Change, Effect, FrontendId, TargetId};
use super::target::{Phase, WokenBy};
use super::{Core, Effects, Subject, frontend};

impl Core {
    pub(super) fn start_frontend(&mut self, id: FrontendId, effects: &mut Effects) {
        let frontend = &mut self.frontends[id];
        frontend.wanted = !self.closing;
        if frontend.wanted && frontend.phase == frontend::Phase::Stopped {
            frontend.phase = frontend::Phase::Opening;
            effects.push(Effect::StartFrontend(id));
            self.arm_frontend(id, None);
        }
    }

    pub(super) fn frontend_started(&mut self, now: Instant, id: FrontendId, effects: &mut Effects) {
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

    pub(super) fn frontend_failed(&mut self, now: Instant, id: FrontendId, error: String) {
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

    /// Its clients are not answered. A backend of which nobody else would say so has ended, if it answers nobody.
    pub(super) fn clients_lost(
        &mut self,
        now: Instant,
        id: FrontendId,
        problem: String,
        none: bool,
        effects: &mut Effects,
    ) {
        let frontend = &mut self.frontends[id];
        let id = frontend.plan.target;
        let target = &self.targets[id];
        if !matches!(target.phase, Phase::Active { .. }) {
            return;
        }
        log::warn!("frontend {}: {problem}", frontend.plan.name);
        if none && target.plan.unwatched {
            self.target_silent(now, id, problem, effects);
        } else {
            frontend.last_error = Some(problem);
        }
    }

    pub(super) fn clients_answered(&mut self, id: FrontendId) {
        let frontend = &mut self.frontends[id];
        if frontend.last_error.take().is_some() {
            log::info!("frontend {}: a client gets an answer again", frontend.plan.name);
        }
    }

    pub(super) fn frontend_running(&mut self, now: Instant, id: FrontendId, effects: &mut Effects) {
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

    pub(super) fn stop_frontend(&mut self, now: Instant, id: FrontendId, effects: &mut Effects) {
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
    pub(super) fn keep(&mut self, id: TargetId, effects: &mut Effects) {
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
    pub(super) fn let_go(&mut self, now: Instant, id: TargetId, effects: &mut Effects) {
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

    /// It goes down in order, and is tried again later.
    pub(super) fn frontend_broke(&mut self, now: Instant, id: FrontendId, error: String, effects: &mut Effects) {
        let wanted = self.frontends[id].wanted;
        log::error!("frontend {}: {error}", self.frontends[id].plan.name);
        self.stop_frontend(now, id, effects);
        let frontend = &mut self.frontends[id];
        frontend.wanted = wanted;
        frontend.last_error = Some(error);
        frontend.backoff.failed(now);
    }

    pub(super) fn frontend_stopped(&mut self, now: Instant, id: FrontendId, effects: &mut Effects) {
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
            match frontend.backoff.until(now) {
                Some(until) => self.arm_frontend(id, Some(until)),
                None => self.start_frontend(id, effects),
            }
        }
    }
}
