//! Sequences that the simulation reaches too rarely.

use std::time::{Duration, Instant};

use super::*;
use crate::dataplane::flows::Use;

const TARGET: TargetId = TargetId::new(0);
const FRONTEND: FrontendId = FrontendId::new(0);

/// A core with one target and one frontend, at a time that only the test moves.
struct Bench {
    core: Core,
    now: Instant,
}

impl Bench {
    /// The target is active.
    fn new() -> (Bench, Vec<Effect>) {
        let now = Instant::now();
        let target = TargetPlan {
            name: "t".to_owned(),
            idle_timeout: Duration::from_secs(1),
            ready_deadline: Duration::from_secs(1),
            min_uptime: Duration::ZERO,
            max_uptime: None,
            external: false,
            unwatched: false,
        };
        let frontend = FrontendPlan { name: "f".to_owned(), target: TARGET, keeps_warm: false, refuses: false };
        let mut bench = Bench { core: Core::default(), now };
        bench.core.add_target(now, TARGET, target);
        bench.core.add_frontend(FRONTEND, frontend);
        bench.give(Event::Start);
        bench.give(Event::FrontendStarted(FRONTEND));
        bench.apply();
        bench.give(Event::WarmTarget(TARGET));
        bench.give(Event::TargetReady(TARGET));
        let effects = bench.apply();
        assert_eq!(bench.core.target(TARGET).0, TargetState::Active);
        (bench, effects)
    }

    fn give(&mut self, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.core.handle(self.now, event, &mut effects);
        effects
    }

    fn apply(&mut self) -> Vec<Effect> {
        let revision = self.core.rules_due(self.now).expect("rules are due");
        self.give(Event::Applied(revision))
    }

    /// Lets the target be unused for its idle time; returns the time of the check that follows.
    fn begin_check(&mut self, effects: &[Effect]) -> Instant {
        let watch = |effect: &Effect| match effect {
            Effect::WatchFlows { asked, .. } => Some(*asked),
            _ => None,
        };
        let asked = effects.iter().find_map(watch).expect("its flows are watched");
        self.now += Duration::from_secs(1);
        self.give(Event::Flows(Report::Unused { target: TARGET, asked, since: None }));
        match self.apply()[..] {
            [Effect::CheckFlows { asked, .. }] => asked,
            ref effects => panic!("{effects:?}"),
        }
    }
}

#[test]
fn the_result_of_an_earlier_check_does_not_end_a_later_one() {
    let (mut bench, effects) = Bench::new();
    let first = bench.begin_check(&effects);
    bench.give(Event::Wake { frontend: FRONTEND, source: None });
    let effects = bench.apply();
    assert_eq!(bench.core.target(TARGET).0, TargetState::Active);
    let second = bench.begin_check(&effects);
    let unused = |asked| Event::Flows(Report::Checked { target: TARGET, asked, result: Use::Unused { since: None } });
    assert_eq!(bench.give(unused(first)), []);
    assert!(bench.core.life(TARGET).checking);
    assert_eq!(bench.give(unused(second)), [Effect::StopTarget(TARGET)]);
}
