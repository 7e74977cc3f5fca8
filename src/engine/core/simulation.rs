//! Drives the core through random orders of events, against a model of everything around it, and checks the rules of its
//! life after every step.
//!
//! `PROXYGW_SIM_STEPS` sets how many steps there are in all (default 300,000), `PROXYGW_SIM_SEED` replays one world.

use std::collections::{BTreeSet, HashSet};
use std::time::{Duration, Instant};

use super::*;

/// Steps of one world before it is brought to rest.
const STEPS_PER_WORLD: u64 = 400;

/// SplitMix64 (Steele, Lea, Flood, 2014): small, seeded, and good enough to pick events.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// What the model knows of a target's backend.
#[derive(Debug, Default, Clone)]
struct Backend {
    /// Started, and not ended yet.
    alive: bool,
    /// The backend has died, and its handler waits to be stopped.
    dead: bool,
    ready: bool,
    stop_asked: bool,
    flows: u32,
    /// The end of the last flow, or when it became active.
    used: Option<Instant>,
    /// What was last said of the end of its use.
    told: Option<Instant>,
    /// When it became active first.
    up: Option<Instant>,
    /// Somebody has asked for a drain of this start.
    drain_asked: bool,
    /// It answers nobody, and goes down for that.
    silent: bool,
}

impl Backend {
    /// A flow that outlives a start does not use the next one before it is active.
    fn flow_ended(&mut self, now: Instant) {
        self.used = self.used.map(|_| now);
    }
}

struct World {
    random: Random,
    now: Instant,
    core: Core,
    plans: Vec<TargetPlan>,
    backends: Vec<Backend>,
    target_of: Vec<TargetId>,
    wanted_active: HashSet<FrontendId>,
    wanted_cold: HashSet<FrontendId>,
    kernel_active: HashSet<FrontendId>,
    kernel_cold: HashSet<FrontendId>,
    refusing: HashSet<FrontendId>,
    /// Frontends that were told that their target is active.
    passing: HashSet<FrontendId>,
    opening: Vec<FrontendId>,
    closing: Vec<FrontendId>,
    /// Targets of which it is to be said when they are not in use.
    watched: BTreeSet<TargetId>,
    /// What has been said of them and not been taken in yet.
    unused: Vec<(TargetId, Option<Instant>)>,
    checks: Vec<TargetId>,
    forgets: Vec<TargetId>,
    shut: bool,
    /// nft has failed during the shutdown, which does not wait for it: the table goes as a whole.
    nft_given_up: bool,
    finished: bool,
}

impl World {
    fn new(seed: u64) -> World {
        let mut random = Random(seed);
        let now = Instant::now();
        let targets = 1 + random.below(3) as usize;
        let plans: Vec<TargetPlan> = (0..targets)
            .map(|id| TargetPlan {
                name: format!("t{id}"),
                idle_timeout: Duration::from_millis(100 + random.below(20_000)),
                ready_deadline: Duration::from_millis(100 + random.below(5_000)),
                min_uptime: Duration::from_millis(random.below(2) * random.below(20_000)),
                max_uptime: random.chance(30).then(|| Duration::from_millis(20_000 + random.below(60_000))),
                external: random.chance(30),
                unwatched: random.chance(30),
            })
            .collect();
        let fronts: Vec<FrontendPlan> = (0..1 + random.below(4) as usize)
            .map(|id| FrontendPlan {
                name: format!("f{id}"),
                target: random.below(targets as u64) as usize,
                keeps_warm: random.chance(20),
                refuses: random.chance(30),
            })
            .collect();
        let target_of = fronts.iter().map(|front| front.target).collect();
        let mut world = World {
            random,
            now,
            core: Core::new(now, plans.clone(), fronts),
            backends: vec![Backend::default(); targets],
            plans,
            target_of,
            wanted_active: HashSet::new(),
            wanted_cold: HashSet::new(),
            kernel_active: HashSet::new(),
            kernel_cold: HashSet::new(),
            refusing: HashSet::new(),
            passing: HashSet::new(),
            opening: Vec::new(),
            closing: Vec::new(),
            watched: BTreeSet::new(),
            unused: Vec::new(),
            checks: Vec::new(),
            forgets: Vec::new(),
            shut: false,
            nft_given_up: false,
            finished: false,
        };
        world.give(Event::Start);
        world
    }

    fn fronts(&self, target: TargetId) -> impl Iterator<Item = FrontendId> + '_ {
        (0..self.target_of.len()).filter(move |id| self.target_of[*id] == target)
    }

    /// Hands the core an event, does what it wants done in the model, and checks.
    fn give(&mut self, event: Event) {
        let states: Vec<_> = (0..self.backends.len()).map(|id| self.core.target(id).0).collect();
        let mut effects = Vec::new();
        self.core.handle(self.now, event, &mut effects);
        for effect in effects {
            self.perform(effect);
        }
        for (id, before) in states.into_iter().enumerate() {
            self.check_move(id, before);
        }
        self.check();
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::StartTarget(id) => {
                let backend = &mut self.backends[id];
                assert!(!backend.alive, "t{id} is started while it lives");
                assert!(!self.shut, "t{id} is started after the shutdown");
                *backend = Backend { alive: true, flows: backend.flows, ..Backend::default() };
            }
            Effect::StopTarget(id) => {
                let routed: Vec<_> = self.fronts(id).filter(|f| self.kernel_active.contains(f)).collect();
                assert!(routed.is_empty() || self.nft_given_up, "t{id} is stopped while {routed:?} are routed to it");
                let backend = &self.backends[id];
                let told = backend.dead
                    || backend.drain_asked
                    || backend.silent
                    || self.core.life(self.now, id).drained == Some(Cause::TooOld)
                    || self.shut;
                let idle = backend.ready && !told && backend.used.is_some();
                assert!(!idle || backend.flows == 0, "t{id} is stopped with {} flows", backend.flows);
                if let (true, Some(used)) = (idle, backend.used) {
                    let timeout = self.plans[id].idle_timeout;
                    assert!(self.now >= used + timeout, "t{id} is stopped {:?} after its last use", self.now - used);
                }
                self.backends[id].stop_asked = true;
            }
            Effect::StartFrontend(id) => self.opening.push(id),
            Effect::StopFrontend(id) => {
                let ruled = self.kernel_cold.contains(&id) || self.kernel_active.contains(&id);
                assert!(!ruled || self.nft_given_up, "f{id} closes with rules");
                self.closing.push(id);
            }
            Effect::SetCold(id, on) => set(&mut self.wanted_cold, id, on),
            Effect::SetActive(id, on) => {
                let backend = &self.backends[self.target_of[id]];
                assert!(
                    !on || backend.alive && backend.ready && !backend.dead,
                    "f{id} is to be routed to a backend that is not ready"
                );
                set(&mut self.wanted_active, id, on);
            }
            Effect::SetRefusing(id, on) => {
                let failed = !self.backends[self.target_of[id]].alive;
                assert!(!on || failed, "the clients of f{id} are refused while its target lives");
                set(&mut self.refusing, id, on);
            }
            Effect::Tell(id, Change::Active) => {
                assert!(self.kernel_active.contains(&id), "f{id} lets packets go without its DNAT");
                self.passing.insert(id);
            }
            Effect::Tell(id, _) => _ = self.passing.remove(&id),
            Effect::WatchFlows(id) => _ = self.watched.insert(id),
            Effect::ReleaseFlows(id) => _ = self.watched.remove(&id),
            Effect::CheckFlows(id) => {
                let routed = self.fronts(id).any(|front| self.kernel_active.contains(&front));
                assert!(!routed, "t{id} is checked while new flows reach it");
                self.checks.push(id);
            }
            Effect::ForgetFlows { target: id, answered } => {
                self.watched.remove(&id);
                assert!(answered != self.backends[id].silent, "t{id} forgets the wrong flows");
                // What was said before comes before the answer, when it means nothing.
                self.unused.retain(|(target, _)| *target != id);
                assert!(!self.backends[id].alive, "the flows of t{id} are deleted before its backend is gone");
                self.forgets.push(id);
            }
            Effect::ForgetStale(_) => {}
            Effect::Finished => {
                assert!(self.shut && !self.finished);
                assert!(self.backends.iter().all(|backend| !backend.alive));
                self.finished = true;
            }
        }
    }

    /// A drain that begins by itself is neither early nor during use.
    fn check_move(&mut self, id: TargetId, before: TargetState) {
        let after = self.core.target(id).0;
        let backend = &mut self.backends[id];
        if before != TargetState::Active && after == TargetState::Active {
            backend.used = Some(self.now);
            backend.up.get_or_insert(self.now);
        }
        if before == TargetState::Active
            && after == TargetState::Draining
            && backend.alive
            && !backend.dead
            && !backend.drain_asked
            && !backend.silent
            && !self.shut
        {
            let up = backend.up.expect("an active target is up");
            let plan = &self.plans[id];
            if plan.max_uptime.is_some_and(|most| self.now >= up + most) {
                return;
            }
            assert!(self.now >= up + plan.min_uptime, "t{id} drains before its min_uptime");
            let told = backend.told.expect("nobody drains of whom nothing is told");
            assert!(self.now >= told + plan.idle_timeout, "t{id} drains {:?} after its last use", self.now - told);
        }
        if after == TargetState::Inactive || after == TargetState::Closed {
            assert!(!backend.alive, "t{id} is {after:?} and its backend lives");
        }
    }

    /// What is true at any time.
    fn check(&self) {
        for (id, backend) in self.backends.iter().enumerate() {
            let (state, error) = self.core.target(id);
            for front in self.fronts(id) {
                let routed = self.kernel_active.contains(&front);
                let running = self.core.frontend(front).0 == FrontendState::Running;
                if state == TargetState::Active && running {
                    assert!(routed, "t{id} is active and f{front} is not routed to it");
                }
                if routed && !matches!(state, TargetState::Active | TargetState::Draining) {
                    assert!(
                        self.wanted_active != self.kernel_active,
                        "t{id} is {state:?} and f{front} is routed to it"
                    );
                }
                if routed && (!backend.alive || backend.dead) {
                    assert!(!self.wanted_active.contains(&front), "f{front} stays routed to a dead backend");
                }
                let passing = self.passing.contains(&front);
                assert!(!passing || self.wanted_active.contains(&front), "f{front} lets packets go");
                assert!(!running || state != TargetState::Active || passing, "f{front} holds packets back");
                let refusing = self.refusing.contains(&front);
                assert!(!refusing || matches!(state, TargetState::Inactive | TargetState::Closed), "f{front} refuses");
                if running {
                    assert!(self.kernel_cold.contains(&front), "f{front} runs without rules");
                }
            }
            if state == TargetState::Active {
                assert!(backend.alive && backend.ready && !backend.dead && error.is_none());
            }
        }
        assert!(self.core.next_deadline().is_none_or(|at| at > self.now), "a deadline has passed and was not heeded");
    }

    fn apply(&mut self, works: bool) {
        if works {
            self.kernel_active = self.wanted_active.clone();
            self.kernel_cold = self.wanted_cold.clone();
            self.give(Event::Applied);
        } else {
            self.nft_given_up |= self.shut;
            self.give(Event::ApplyFailed("nft failed".to_owned()));
        }
    }

    fn dirty(&self) -> bool {
        self.kernel_active != self.wanted_active || self.kernel_cold != self.wanted_cold
    }

    /// The flows' thread says that a watched target is not in use, if it is not; false if there is nothing to say.
    fn notice(&mut self, id: TargetId) -> bool {
        if self.backends[id].flows > 0 || !self.watched.remove(&id) {
            return false;
        }
        self.unused.push((id, self.backends[id].used));
        self.backends[id].told = self.backends[id].used;
        true
    }

    /// What the flows' thread has said is taken in, maybe late.
    fn take_unused(&mut self) -> bool {
        let Some((target, since)) = self.unused.pop() else { return false };
        self.give(Event::Unused { target, since });
        true
    }

    fn take_check(&mut self, works: bool) -> bool {
        let Some(target) = self.checks.pop() else { return false };
        let backend = &self.backends[target];
        self.give(Event::Checked { target, used: !works || backend.flows > 0, since: backend.used });
        true
    }

    /// Lets some time pass, but no further than the next deadline, as the shell does.
    fn pass(&mut self, most: Duration) {
        let then = self.now + most;
        self.now = self.core.next_deadline().map_or(then, |at| at.min(then)).max(self.now);
        self.give(Event::Tick);
    }

    /// One random thing.
    fn step(&mut self) {
        let target = self.random.below(self.backends.len() as u64) as usize;
        let front = self.random.below(self.target_of.len() as u64) as usize;
        match self.random.below(20) {
            0 | 1 => self.give(Event::Wake { frontend: front, source: None }),
            2 if self.random.chance(10) => self.give(Event::WarmTarget(target)),
            3 if self.random.chance(10) => {
                self.backends[target].drain_asked = true;
                self.give(Event::DrainTarget(target));
            }
            4 if self.random.chance(20) => self.give(Event::StopFrontend(front)),
            5 => self.give(Event::StartFrontend(front)),
            6 | 7
                if self.backends[target].alive
                    && !self.backends[target].ready
                    && !self.backends[target].stop_asked
                    && !self.backends[target].dead =>
            {
                self.backends[target].ready = true;
                self.give(Event::TargetReady(target));
            }
            8 if self.backends[target].alive && self.backends[target].stop_asked => {
                self.end(target, self.random.0.is_multiple_of(2));
            }
            8 if self.backends[target].alive && !self.backends[target].dead && self.random.chance(20) => {
                self.backends[target].dead = true;
                self.backends[target].flows = 0;
                self.give(Event::TargetDied(target, "exit status: 1".to_owned()));
            }
            8 if self.core.target(target).0 == TargetState::Active
                && self.plans[target].unwatched
                && self.fronts(target).next().is_some()
                && self.random.chance(20) =>
            {
                self.backends[target].silent = true;
                self.lost(target, true);
            }
            8 if self.random.chance(20) => {
                let none = self.core.target(target).0 != TargetState::Active || !self.plans[target].unwatched;
                self.lost(target, none);
            }
            // Its thread has panicked.
            8 if self.backends[target].alive && self.random.chance(5) => self.end(target, true),
            9 | 10 => self.apply(self.random.0 % 100 < 90),
            11 if !self.opening.is_empty() => {
                let id = self.opening.swap_remove(0);
                let works = self.random.chance(85);
                self.give(if works { Event::FrontendStarted(id) } else { Event::FrontendFailed(id, "in use".into()) });
            }
            12 if !self.closing.is_empty() => {
                let id = self.closing.swap_remove(0);
                self.give(Event::FrontendStopped(id));
            }
            12 if self.random.chance(20) && self.core.frontend(front).0 == FrontendState::Running => {
                self.give(Event::FrontendBroke(front, "its handler has panicked".to_owned()));
            }
            13 => {
                self.notice(target);
                if self.random.chance(60) {
                    self.take_unused();
                }
                if self.random.chance(60) {
                    let works = self.random.chance(90);
                    self.take_check(works);
                }
            }
            14 if !self.forgets.is_empty() => {
                let id = self.forgets.swap_remove(0);
                self.give(Event::FlowsForgotten(id));
            }
            15 if self.kernel_active.contains(&front) && !self.backends[self.target_of[front]].dead => {
                self.backends[self.target_of[front]].flows += 1
            }
            16 | 17 if self.backends[target].flows > 0 => {
                self.backends[target].flows -= 1;
                self.backends[target].flow_ended(self.now);
            }
            18 | 19 => {
                let most = 1 + self.random.below(if self.random.0.is_multiple_of(3) { 5_000 } else { 50 });
                self.pass(Duration::from_millis(most));
            }
            _ => {}
        }
    }

    /// The clients of a frontend get no answer.
    fn lost(&mut self, target: TargetId, none: bool) {
        let Some(frontend) = self.fronts(target).next() else { return };
        self.give(Event::ClientsLost { frontend, problem: "no answer".to_owned(), none });
    }

    fn end(&mut self, target: TargetId, fails: bool) {
        self.backends[target].alive = false;
        if !self.backends[target].silent {
            self.backends[target].flows = 0;
        }
        self.give(Event::TargetEnded(target, fails.then(|| "exit status: 1".to_owned())));
    }

    /// Answers whatever is open; false if nothing is.
    fn answer(&mut self, starts_work: bool) -> bool {
        if let Some(id) = self.opening.pop() {
            self.give(Event::FrontendStarted(id));
        } else if let Some(id) = self.closing.pop() {
            self.give(Event::FrontendStopped(id));
        } else if let Some(id) = self.forgets.pop() {
            self.give(Event::FlowsForgotten(id));
        } else if self.take_unused() || self.take_check(true) || (0..self.backends.len()).any(|id| self.notice(id)) {
            // That was it.
        } else if let Some(id) =
            (0..self.backends.len()).find(|id| self.backends[*id].alive && self.backends[*id].stop_asked)
        {
            self.end(id, false);
        } else if let Some(id) = (0..self.backends.len())
            .find(|id| starts_work && self.backends[*id].alive && !self.backends[*id].ready && !self.backends[*id].dead)
        {
            self.backends[id].ready = true;
            self.give(Event::TargetReady(id));
        } else if self.dirty() || !self.core.pending.is_empty() {
            self.apply(true);
        } else {
            return false;
        }
        true
    }

    fn state_at_rest(&self, id: TargetId) -> TargetState {
        if self.core.keepers(id).next().is_some() { TargetState::Active } else { TargetState::Inactive }
    }

    /// Nothing new comes, everything works, and time goes on: where does it settle?
    fn rest(&mut self) {
        for backend in &mut self.backends {
            if backend.flows > 0 {
                backend.flows = 0;
                backend.flow_ended(self.now);
            }
        }
        for _ in 0..10_000 {
            if self.answer(true) {
                continue;
            }
            // What is kept warm is renewed again and again.
            let renewed = |id| self.core.keepers(id).next().is_some() && self.plans[id].max_uptime.is_some();
            let rests = |id: TargetId| {
                let settled = self.core.target(id).0 == self.state_at_rest(id);
                settled && (renewed(id) || self.core.targets[id].timer.is_none())
            };
            let fronts_rest = self.core.frontends.iter().all(|front| front.timer.is_none());
            match self.core.next_deadline() {
                Some(_) if fronts_rest && (0..self.backends.len()).all(rests) => return,
                Some(at) => {
                    self.now = at;
                    self.give(Event::Tick);
                }
                None => return,
            }
        }
        panic!("it does not come to rest");
    }

    fn run(&mut self, steps: u64) {
        for _ in 0..steps {
            self.step();
        }
        self.rest();
        for id in 0..self.backends.len() {
            assert_eq!(self.core.target(id).0, self.state_at_rest(id), "t{id} at rest");
        }
        // Whatever has happened, it can be woken again.
        for front in 0..self.target_of.len() {
            self.give(Event::StartFrontend(front));
        }
        while self.answer(true) {}
        for front in 0..self.target_of.len() {
            self.give(Event::Wake { frontend: front, source: None });
        }
        let mut cold: HashSet<_> = self.target_of.iter().copied().collect();
        while !cold.is_empty() {
            cold.retain(|id| self.core.target(*id).0 != TargetState::Active);
            if !self.answer(true) && !cold.is_empty() {
                self.now = self.core.next_deadline().expect("a target that is woken becomes active");
                self.give(Event::Tick);
            }
        }
        for _ in 0..self.random.below(30) {
            self.step();
        }
        self.shut = true;
        self.give(Event::Shutdown);
        for _ in 0..self.random.below(30) {
            self.step();
        }
        for _ in 0..1000 {
            if self.finished {
                assert!(self.kernel_active.is_empty() || self.nft_given_up, "routed at the end");
                return;
            }
            assert!(self.answer(false), "the shutdown hangs");
        }
        panic!("the shutdown does not end");
    }
}

fn set(all: &mut HashSet<FrontendId>, id: FrontendId, on: bool) {
    if on {
        all.insert(id);
    } else {
        all.remove(&id);
    }
}

fn variable(name: &str) -> Option<u64> {
    Some(std::env::var(name).ok()?.parse().unwrap_or_else(|_| panic!("{name} is not a number")))
}

#[test]
fn the_rules_hold_in_any_order_of_events() {
    let worlds = variable("PROXYGW_SIM_STEPS").unwrap_or(300_000).div_ceil(STEPS_PER_WORLD);
    let seeds = variable("PROXYGW_SIM_SEED").map_or(0..worlds, |seed| seed..seed + 1);
    for seed in seeds {
        let result = std::panic::catch_unwind(|| World::new(seed).run(STEPS_PER_WORLD));
        if let Err(panic) = result {
            eprintln!("replay this world with PROXYGW_SIM_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}
