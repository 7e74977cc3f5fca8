//! Drives the core through random orders of events, against a model of everything around it ([`world`]), and checks its
//! rules after every step ([`checks`]).
//!
//! `PROXYGW_SIM_STEPS` sets the number of steps in all (default 1,000,000), `PROXYGW_SIM_SEED` replays one world.

mod checks;
pub(super) mod transitions;
mod world;

use std::time::Duration;

use super::{Event, FrontendId, State, TargetId};
use crate::engine::status::{FrontendState, TargetState};
use world::World;

/// Steps of one world before it is brought to rest.
const STEPS_PER_WORLD: u64 = 400;

impl World {
    /// One random event.
    fn step(&mut self) {
        let target = TargetId::new(self.random.below(self.backends.len() as u64) as u32);
        let front = FrontendId::new(self.random.below(self.frontends.len() as u64) as u32);
        let backend = self.backends[&target];
        let may_die = backend.alive && !backend.dead;
        match self.random.below(22) {
            0 => _ = self.capture(front),
            1 => _ = self.deliver_wake(),
            2 if !self.shut && self.random.chance(10) => self.warm(target),
            3 if self.random.chance(10) => self.drain(target),
            4 if self.random.chance(20) => self.give(Event::StopFrontend(front)),
            5 => self.give(Event::StartFrontend(front)),
            6 | 7 if backend.may_be_ready() => self.ready(target),
            8 if backend.alive && backend.stop_asked => {
                let fails = self.random.chance(50);
                self.end(target, fails);
            }
            9 if may_die && self.random.chance(20) => self.die(target),
            9 if self.core.target(target).0 == TargetState::Active && self.random.chance(10) => {
                let none = self.random.chance(50);
                self.lose_clients(target, none);
            }
            // Its thread has panicked.
            9 if backend.alive && self.random.chance(5) => self.end(target, true),
            10 | 11 => _ = self.apply() || self.deliver_applied(),
            12 if self.random.chance(5) => {
                self.nft_broken_until = Some(self.now + Duration::from_millis(self.random.below(60_000)))
            }
            12 if self.random.chance(20) => self.give(Event::RulesLost),
            12 if self.random.chance(20) => self.change_links(),
            13 if !self.opening.is_empty() => {
                let works = self.random.chance(85);
                self.open(works);
            }
            14 if !self.closing.is_empty() => _ = self.close(),
            14 if self.random.chance(20) && self.core.frontend(front).0 == FrontendState::Running => {
                self.give(Event::FrontendBroke(front, "its handler has panicked".to_owned()));
            }
            15 => {
                let works = self.random.chance(90);
                _ = self.answer_watch(target) || self.answer_check(works) || self.answer_flush();
            }
            16 | 17 => _ = self.deliver_from_flows(),
            18 if self.kernel.active.contains(&front) => self.begin_flow(self.frontends[&front].target),
            19 => self.end_flow(target),
            20 | 21 => {
                let most = if self.random.chance(33) { 5_000 } else { 50 };
                let most = 1 + self.random.below(most);
                self.pass(Duration::from_millis(most));
            }
            _ => {}
        }
    }

    /// Answers one thing that is open; false if nothing is.
    fn answer(&mut self, starts_work: bool) -> bool {
        let targets = self.target_ids();
        if self.open(true)
            || self.close()
            || self.deliver_wake()
            || self.deliver_from_flows()
            || self.answer_check(true)
            || self.answer_flush()
            || targets.iter().any(|id| self.answer_watch(*id))
        {
            return true;
        }
        if let Some(id) = targets.iter().copied().find(|id| self.backends[id].alive && self.backends[id].stop_asked) {
            self.end(id, false);
        } else if let Some(id) = targets.iter().copied().find(|id| starts_work && self.backends[id].may_be_ready()) {
            self.ready(id);
        } else {
            return self.deliver_applied() || self.apply();
        }
        true
    }

    fn state_at_rest(&self, id: TargetId) -> TargetState {
        if self.core.pins(id).next().is_some() { TargetState::Active } else { TargetState::Inactive }
    }

    /// Nothing new comes, everything works, and time goes on: the state has to settle.
    fn rest(&mut self) {
        self.nft_broken_until = None;
        for id in self.target_ids() {
            while self.backends[&id].flows > 0 {
                self.end_flow(id);
            }
        }
        for _ in 0..10_000 {
            if self.answer(true) {
                continue;
            }
            // A target that is kept warm is renewed again and again.
            let rests = |id: TargetId| {
                let renewed = self.core.pins(id).next().is_some() && self.plans[&id].max_uptime.is_some();
                let settled = self.core.target(id).0 == self.state_at_rest(id);
                settled && (renewed || self.deadline_of(id).is_none())
            };
            let is_retried = |state| matches!(state, super::frontend::State::Stopped { retry_at: Some(_) });
            let rules_rest = self.core.waiting.order.is_empty();
            let fronts_rest = rules_rest && !self.core.frontends.values().any(|front| is_retried(front.state));
            match self.core.next_deadline() {
                Some(_) if fronts_rest && self.target_ids().into_iter().all(rests) => return,
                Some(at) => {
                    self.now = at;
                    self.give(Event::Tick);
                }
                None => return,
            }
        }
        panic!("it does not come to rest: {:?}", self.core);
    }

    fn run(&mut self, steps: u64) {
        for _ in 0..steps {
            self.step();
        }
        self.rest();
        for id in self.target_ids() {
            assert_eq!(self.core.target(id).0, self.state_at_rest(id), "t{id} at rest");
        }
        // It can be woken again, by every frontend, in any history.
        for front in self.frontend_ids() {
            self.give(Event::StartFrontend(front));
        }
        while self.answer(true) {}
        let cold = |world: &World| -> Vec<TargetId> {
            let mut cold: Vec<_> = world.frontends.values().map(|plan| plan.target).collect();
            cold.retain(|id| world.core.target(*id).0 != TargetState::Active);
            cold
        };
        for _ in 0..1000 {
            let cold = cold(self);
            if cold.is_empty() {
                break;
            }
            for front in self.frontend_ids() {
                let life = self.core.life(self.frontends[&front].target);
                if life.state == TargetState::Inactive && !life.wanted {
                    self.capture(front);
                }
            }
            if !self.answer(true) {
                self.now = self.core.next_deadline().expect("a target that was woken becomes active");
                self.give(Event::Tick);
            }
        }
        assert!(cold(self).is_empty(), "{:?} cannot be woken: {:#?}", cold(self), self.core);
        for _ in 0..self.random.below(30) {
            self.step();
        }
        self.shut_down();
        for _ in 0..self.random.below(30) {
            self.step();
        }
        for _ in 0..1000 {
            if self.finished {
                assert!(self.core.targets.values().all(|member| member.target.state == State::Closed));
                assert!(self.kernel.active.is_empty() || self.nft_given_up, "routed at the end");
                return;
            }
            if !self.answer(false) {
                self.now = self.core.next_deadline().expect("the shutdown goes on");
                self.give(Event::Tick);
            }
        }
        panic!("the shutdown does not end: {:?}", self.core);
    }
}

fn variable(name: &str) -> Option<u64> {
    Some(std::env::var(name).ok()?.parse().unwrap_or_else(|_| panic!("{name} is not a number")))
}

#[test]
fn the_rules_hold_in_any_order_of_events() {
    let worlds = variable("PROXYGW_SIM_STEPS").unwrap_or(1_000_000).div_ceil(STEPS_PER_WORLD);
    let seeds = variable("PROXYGW_SIM_SEED").map_or(0..worlds, |seed| seed..seed + 1);
    for seed in seeds {
        let result = std::panic::catch_unwind(|| World::new(seed).run(STEPS_PER_WORLD));
        if let Err(panic) = result {
            eprintln!("replay this world with PROXYGW_SIM_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}
