//! One frontend's life, as a state machine.

use std::time::Instant;

use super::backoff::Backoff;
use super::event::TargetId;
use crate::engine::status::FrontendState;

/// What the core must know of a frontend's configuration.
#[derive(Debug, Clone)]
pub struct FrontendPlan {
    /// For log lines.
    pub name: String,
    /// The target behind it.
    pub target: TargetId,
    /// Whether it keeps its target warm for as long as it runs.
    pub keeps_warm: bool,
    /// Whether its clients are refused while the target backs off.
    pub refuses: bool,
}

/// Where a frontend is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Stopped,
    /// Its sockets are being opened.
    Opening,
    /// Its rules are on their way into the kernel.
    Ruling,
    Running,
    /// Its rules are being removed.
    Unruling,
    /// Its sockets are being closed.
    Closing,
    Closed,
}

/// One frontend.
#[derive(Debug)]
pub(super) struct Frontend {
    pub plan: FrontendPlan,
    pub phase: Phase,
    /// Whether it is meant to run: false after an operator's stop, and at the end.
    pub wanted: bool,
    /// Whether a DNAT of its flows is wanted of the kernel.
    pub active: bool,
    /// Whether its clients are wanted to be refused.
    pub refusing: bool,
    pub backoff: Backoff,
    pub last_error: Option<String>,
    /// What its entry in the core's timers says.
    pub timer: Option<Instant>,
}

impl Frontend {
    pub(super) fn new(plan: FrontendPlan) -> Frontend {
        Frontend {
            plan,
            phase: Phase::Stopped,
            wanted: false,
            active: false,
            refusing: false,
            backoff: Backoff::default(),
            last_error: None,
            timer: None,
        }
    }

    pub(super) fn state(&self) -> FrontendState {
        match self.phase {
            Phase::Stopped => FrontendState::Stopped,
            Phase::Opening | Phase::Ruling => FrontendState::Starting,
            Phase::Running => FrontendState::Running,
            Phase::Unruling | Phase::Closing => FrontendState::Stopping,
            Phase::Closed => FrontendState::Closed,
        }
    }

    /// Whether its rules are wanted in the kernel.
    pub(super) fn ruled(&self) -> bool {
        matches!(self.phase, Phase::Ruling | Phase::Running)
    }
}
