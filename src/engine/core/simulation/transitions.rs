//! The transitions between states of a target that the simulation reaches are those in the picture of the documents, and no
//! others.

use std::cell::RefCell;
use std::collections::BTreeSet;

use super::super::state::{IdleDrain, State, Step};
use super::World;

/// The picture. Each of its arrows has a title, `From → To`.
const PICTURE: &str = include_str!("../../../../docs/pictures/target-states.svg");

/// Number of worlds that run in any case.
const MIN_WORLDS: u64 = 1_500;

/// Number of worlds after which a transition counts as impossible.
const MAX_WORLDS: u64 = 30_000;

thread_local! {
    static SEEN: RefCell<BTreeSet<(&'static str, &'static str)>> = const { RefCell::new(BTreeSet::new()) };
}

/// Records a step of a target.
pub(in super::super) fn record(before: State, after: State) {
    let (before, after) = (name(before), name(after));
    if before != after {
        SEEN.with_borrow_mut(|seen| _ = seen.insert((before, after)));
    }
}

/// Name of a state in the picture.
fn name(state: State) -> &'static str {
    match state {
        State::Inactive => "Inactive",
        State::BackingOff { .. } => "BackingOff",
        State::Starting { .. } => "Starting",
        State::Publishing(_) => "Publishing",
        State::Active(_) => "Active",
        State::IdleDrain(IdleDrain::Unpublishing(_)) => "IdleDrain::Unpublishing",
        State::IdleDrain(IdleDrain::Verifying { .. }) => "IdleDrain::Verifying",
        State::IdleDrain(IdleDrain::Republishing { .. }) => "IdleDrain::Republishing",
        State::Teardown(teardown) => match teardown.step {
            Step::Unpublishing { .. } => "Teardown::Unpublishing",
            Step::Stopping => "Teardown::Stopping",
            Step::Flushing => "Teardown::Flushing",
        },
        State::Closed => "Closed",
    }
}

/// A world that ends at any moment, also while a target backs off or drains.
fn run_world(seed: u64) {
    let mut world = World::new(seed);
    for _ in 0..world.random.below(1200) {
        world.step();
    }
    world.shut_down();
    for _ in 0..60 {
        world.step();
    }
}

#[test]
fn the_picture_shows_every_transition() {
    let titles = PICTURE.split("<title>").skip(1).filter_map(|rest| rest.split("</title>").next());
    let drawn: BTreeSet<_> = titles.filter_map(|title| title.split_once(" → ")).collect();
    SEEN.with_borrow_mut(BTreeSet::clear);
    for seed in 0..MAX_WORLDS {
        run_world(seed);
        if seed >= MIN_WORLDS && SEEN.with_borrow(|seen| drawn.is_subset(seen)) {
            break;
        }
    }
    let seen = SEEN.with_borrow_mut(std::mem::take);
    let missing: Vec<_> = seen.difference(&drawn).collect();
    let unreached: Vec<_> = drawn.difference(&seen).collect();
    assert!(
        missing.is_empty() && unreached.is_empty(),
        "not drawn: {missing:#?}, drawn but not reached: {unreached:#?}"
    );
}
