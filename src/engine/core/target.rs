//! One target's life, as a state machine.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::backoff::Backoff;
use super::event::FrontendId;
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
    /// How long it stays active at the least, unless it dies or is told to drain.
    pub min_uptime: Duration,
    /// After how long it is drained, in use or not.
    pub max_uptime: Option<Duration>,
    /// Whether the backend goes on without us, and so may its flows when the daemon ends.
    pub external: bool,
    /// Whether nobody but its clients tells when the backend has ended.
    pub unwatched: bool,
}

/// Where a target is in its life, in full. The states that people see are [`Phase::state`].
#[derive(Debug)]
pub(super) enum Phase {
    /// Nothing of it runs.
    Inactive,
    /// It has been started; `routing` once it is ready and its rules are on their way into the kernel.
    Warming { routing: bool },
    /// Its rules are in. Its idle clock starts at `idle_from` at the earliest; `unused` is since when nothing has used it, as
    /// far as is known: `None` while it is in use.
    Active { idle_from: Instant, unused: Option<Instant> },
    /// It is on its way down.
    Draining(Drain),
    /// The engine has ended.
    Closed,
}

/// A drain: new flows off first, then the backend.
#[derive(Debug)]
pub(super) struct Drain {
    pub cause: Cause,
    pub step: DrainStep,
    /// The backend is gone already.
    pub ended: bool,
}

/// Why a target drains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Nobody uses it: a flow that has slipped in calls the drain off.
    Idle,
    /// An operator or the daemon's end wants it.
    Asked,
    /// The backend has ended by itself.
    Died,
    /// It answers neither its clients nor the gateway.
    Silent,
    /// It was not ready in time.
    NotReady,
    /// It has been up for its `max_uptime`.
    TooOld,
}

/// What has woken a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Woken {
    /// Who.
    pub by: WokenBy,
    /// When.
    pub at: Instant,
}

/// Who has woken a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WokenBy {
    /// A client of a frontend, where it is known which; or an operator who acts for one.
    Client(FrontendId, Option<SocketAddr>),
    /// A frontend that keeps it warm.
    Keeper(FrontendId),
    /// An operator.
    Operator,
}

/// What there is to say about a target at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Life<'a> {
    /// Where it is.
    pub state: TargetState,
    /// Since when.
    pub since: Instant,
    /// Since when it has been up without a break, if it is.
    pub up_since: Option<Instant>,
    /// What has woken it last.
    pub woken: Option<Woken>,
    /// Why it has drained last, or drains.
    pub drained: Option<Cause>,
    /// Why it last failed.
    pub last_error: Option<&'a str>,
    /// While it is inactive: when it may be tried again, if not at once.
    pub retry_at: Option<Instant>,
    /// Whether it is to be warmed as soon as that may be.
    pub wanted: bool,
    /// Whether a running frontend keeps it warm.
    pub kept: bool,
    /// While it drains: whether that can still be called off.
    pub checking: bool,
    /// While it is active: when its idle clock has started at the earliest.
    pub idle_from: Option<Instant>,
}

/// How far a [`Drain`] has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DrainStep {
    /// The rules are being removed.
    Unrouting,
    /// The rules are gone; is there a flow that slipped in before?
    Checking,
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
    /// When it came to its state.
    pub since: Instant,
    /// When it became active, unless it has ended since.
    pub up_since: Option<Instant>,
    pub woken: Option<Woken>,
    /// Why it has drained last.
    pub drained: Option<Cause>,
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
    pub(super) fn new(plan: TargetPlan, now: Instant) -> Target {
        Target {
            plan,
            phase: Phase::Inactive,
            since: now,
            up_since: None,
            woken: None,
            drained: None,
            wanted: false,
            keepers: 0,
            backoff: Backoff::default(),
            last_error: None,
            timer: None,
        }
    }

    /// Goes over to another phase; returns the one before.
    pub(super) fn enter(&mut self, now: Instant, phase: Phase) -> Phase {
        self.since = now;
        match &phase {
            Phase::Active { .. } => _ = self.up_since.get_or_insert(now),
            Phase::Draining(_) => {}
            Phase::Inactive | Phase::Warming { .. } | Phase::Closed => self.up_since = None,
        }
        std::mem::replace(&mut self.phase, phase)
    }

    /// When it drains at the latest, in use or not.
    pub(super) fn too_old_at(&self) -> Option<Instant> {
        Some(self.up_since? + self.plan.max_uptime?)
    }

    /// When it drains if nothing has used it since then.
    pub(super) fn idle_at(&self, unused: Instant) -> Instant {
        let least = self.up_since.map_or(unused, |up| up + self.plan.min_uptime);
        (unused + self.plan.idle_timeout).max(least)
    }

    pub(super) fn life(&self, now: Instant) -> Life<'_> {
        Life {
            state: self.state(),
            since: self.since,
            up_since: self.up_since,
            woken: self.woken,
            drained: match &self.phase {
                Phase::Draining(drain) => Some(drain.cause),
                _ => self.drained,
            },
            last_error: self.last_error.as_deref(),
            retry_at: self.backoff.until(now).filter(|_| matches!(self.phase, Phase::Inactive)),
            wanted: self.wanted,
            kept: self.keepers > 0,
            checking: matches!(&self.phase, Phase::Draining(drain) if drain.step == DrainStep::Checking),
            idle_from: match self.phase {
                Phase::Active { idle_from, .. } => Some(idle_from),
                _ => None,
            },
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
            Phase::Warming { routing } => *routing,
            Phase::Active { .. } => true,
            Phase::Draining(drain) => drain.step == DrainStep::Rerouting,
            Phase::Inactive | Phase::Closed => false,
        }
    }
}
