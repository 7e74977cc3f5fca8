//! One target's life, as a state machine.

use std::time::{Duration, Instant};

use super::backoff::Backoff;
use super::idle::Idle;
use crate::engine::status::TargetState;

/// What the core must know of a target's configuration.
#[derive(Debug, Clone)]
pub struct TargetPlan {
    /// For log lines.
    pub name: String,
    /// How long it stays active without flows.
    pub idle_timeout: Duration,
    /// How long it may take to become ready.
    pub ready_deadline: Duration,
    /// For how long conntrack shows a flow to it that has ended, at the least.
    pub trace: Duration,
    /// Whether the backend goes on without us, and so may its flows when the daemon ends.
    pub external: bool,
}

/// Where a target is in its life, in full. The states that people see are [`Phase::state`].
#[derive(Debug)]
pub(super) enum Phase {
    /// Nothing of it runs.
    Inactive,
    /// It has been started; `routing` once it is ready and its rules are on their way into the kernel.
    Warming { since: Instant, routing: bool },
    /// Its rules are in.
    Active { since: Instant, idle: Idle },
    /// It is on its way down.
    Draining(Drain),
    /// The engine has ended.
    Closed,
}

/// A drain: new flows off first, then the backend.
#[derive(Debug)]
pub(super) struct Drain {
    pub since: Instant,
    pub cause: Cause,
    pub step: DrainStep,
    /// The backend is gone already.
    pub ended: bool,
}

/// Why a target drains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// Nobody uses it: a flow that has slipped in calls the drain off.
    Idle,
    /// An operator or the daemon's end wants it.
    Asked,
    /// The backend has ended by itself.
    Died,
    /// It was not ready in time.
    NotReady,
}

/// How far a [`Drain`] has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DrainStep {
    /// The rules are being removed.
    Unrouting,
    /// The rules are gone since then; is there a flow that slipped in before?
    Checking(Instant),
    /// There is, or a client has come: the rules are being put back.
    Rerouting,
    /// The backend is being stopped. Its flows keep their NAT so that it can say goodbye to its clients.
    Stopping,
    /// The backend is gone, and its conntrack entries are being deleted.
    Forgetting,
}

/// One target.
#[derive(Debug)]
pub(super) struct Target {
    pub plan: TargetPlan,
    pub phase: Phase,
    /// A wake has come that is not answered yet.
    pub wanted: bool,
    /// How many running frontends keep it warm.
    pub keepers: usize,
    pub backoff: Backoff,
    pub last_error: Option<String>,
    /// What its entry in the core's timers says.
    pub timer: Option<Instant>,
}

impl Target {
    pub(super) fn new(plan: TargetPlan) -> Target {
        Target {
            plan,
            phase: Phase::Inactive,
            wanted: false,
            keepers: 0,
            backoff: Backoff::default(),
            last_error: None,
            timer: None,
        }
    }

    pub(super) fn state(&self) -> TargetState {
        match self.phase {
            Phase::Inactive => TargetState::Inactive,
            Phase::Warming { .. } => TargetState::Warming,
            Phase::Active { .. } => TargetState::Active,
            Phase::Draining(_) => TargetState::Draining,
            Phase::Closed => TargetState::Closed,
        }
    }

    /// Whether new flows are to be DNATed to it.
    pub(super) fn routed(&self) -> bool {
        match &self.phase {
            Phase::Warming { routing, .. } => *routing,
            Phase::Active { .. } => true,
            Phase::Draining(drain) => drain.step == DrainStep::Rerouting,
            Phase::Inactive | Phase::Closed => false,
        }
    }
}
