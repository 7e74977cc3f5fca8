//! The phases of the engine, and the states of a target, each with what belongs to it.

use std::time::Instant;

use super::life::Cause;
use super::rules::Revision;
use crate::engine::status::TargetState;

/// Phase of the engine's life.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    #[default]
    Running,
    /// Everything is being stopped.
    Closing,
    /// Everything has ended.
    Finished,
}

/// What follows from the state of a target or a frontend.
pub(super) trait Derived {
    /// Time at which the state changes on its own.
    fn deadline(&self) -> Option<Instant>;

    /// Revision of the rules that it waits for.
    fn awaits(&self) -> Option<Revision>;

    /// Whether it has ended for good.
    fn is_closed(&self) -> bool;
}

/// State of a target, with what belongs to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Nothing of it runs.
    Inactive,
    /// Nothing of it runs, and it has failed: it may start at `until`.
    BackingOff { until: Instant, then: Then },
    /// It has been started.
    Starting { deadline: Instant },
    /// It is ready, and its rules are on their way into the kernel.
    Publishing(Revision),
    /// Its rules are in the kernel.
    Active(Idle),
    /// It was out of use for its idle time. The only drain that can be cancelled.
    IdleDrain(IdleDrain),
    /// It goes down, and may start again afterwards.
    Teardown(Teardown),
    /// The engine has ended.
    Closed,
}

/// Use of an active target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Idle {
    /// A frontend pins it.
    Pinned,
    /// In use, as far as is known. The flows were queried at `asked`; its idle time starts at `from` at the earliest.
    InUse { from: Instant, asked: Instant },
    /// Nothing has used it since then.
    Since(Instant),
}

/// Step of a drain that can be cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum IdleDrain {
    /// Its rules are being removed.
    Unpublishing(Revision),
    /// Its rules are gone. The flows thread received a query at `asked` for a flow that began before.
    Verifying { asked: Instant },
    /// A client or a flow needs it: its rules are being put back. `then` applies if it goes down instead.
    Republishing { revision: Revision, then: Then },
}

/// A drain that goes on to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Teardown {
    pub cause: Cause,
    pub step: Step,
    pub then: Then,
}

/// What follows the end of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    Rest,
    /// It was woken in the meantime.
    Start,
}

/// Step of a [`Teardown`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// New flows are being turned away from it.
    Unpublishing { revision: Revision, backend: Backend },
    /// The backend is being stopped. Its flows keep their translation, so that it can close them.
    Stopping,
    /// The backend is gone, and its conntrack entries are being deleted.
    Flushing,
}

/// The backend of a target that is being torn down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Backend {
    /// It has to be stopped.
    Started,
    /// Nothing of it is left.
    Ended,
}

impl State {
    /// State that users see.
    pub(super) fn visible(self) -> TargetState {
        match self {
            State::Inactive | State::BackingOff { .. } => TargetState::Inactive,
            State::Starting { .. } | State::Publishing(_) => TargetState::Warming,
            State::Active(_) => TargetState::Active,
            State::IdleDrain(_) | State::Teardown(_) => TargetState::Draining,
            State::Closed => TargetState::Closed,
        }
    }

    /// Whether new flows are to be translated to the target.
    pub(super) fn is_routed(self) -> bool {
        matches!(self, State::Publishing(_) | State::Active(_) | State::IdleDrain(IdleDrain::Republishing { .. }))
    }

    /// Revision of the rules that the target waits for.
    pub(super) fn awaits(self) -> Option<Revision> {
        match self {
            State::Publishing(revision)
            | State::IdleDrain(IdleDrain::Unpublishing(revision) | IdleDrain::Republishing { revision, .. }) => {
                Some(revision)
            }
            State::Teardown(Teardown { step: Step::Unpublishing { revision, .. }, .. }) => Some(revision),
            _ => None,
        }
    }
}
