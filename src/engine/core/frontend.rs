//! The life of one frontend, as a state machine.

use std::time::Instant;

use super::backoff::Backoff;
use super::event::{Effect, Effects};
use super::rules::Revision;
use super::state::{Derived, Phase};
use crate::engine::status::FrontendState;
use crate::ids::{FrontendId, TargetId};

/// The core's part of a frontend's configuration.
#[derive(Debug, Clone)]
pub struct FrontendPlan {
    /// Name, for log lines.
    pub name: String,
    /// Target behind it.
    pub target: TargetId,
    /// Whether it pins its target while it runs.
    pub keeps_warm: bool,
    /// Whether its clients are refused while the target backs off.
    pub refuses: bool,
}

/// State of a frontend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// It does nothing. After a failure it starts again at `retry_at`.
    Stopped { retry_at: Option<Instant> },
    /// Its sockets are being opened.
    Opening,
    /// Its rules are on their way into the kernel.
    Publishing,
    /// Clients can come.
    Running,
    /// Its rules are being removed.
    Unpublishing,
    /// Its sockets are being closed.
    Closing,
    /// The engine has ended.
    Closed,
}

/// The state that a frontend is meant to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Intent {
    Run,
    /// An operator has stopped it, or the daemon ends.
    Stop,
}

/// Something that happens to a frontend.
#[derive(Debug)]
pub(super) enum Input {
    Start,
    Stop,
    Opened,
    OpenFailed(String),
    /// Its rules are in the kernel.
    Applied,
    SocketsClosed,
    /// Its handler has failed.
    Broke(String),
    /// Its deadline has passed.
    Time,
}

/// One frontend.
#[derive(Debug)]
pub(super) struct Frontend {
    pub plan: FrontendPlan,
    pub state: State,
    /// Last change of its rules.
    pub revision: Revision,
    /// Whether its handler has been notified that its target is active.
    pub passing: bool,
    pub last_error: Option<String>,
    intent: Intent,
    backoff: Backoff,
}

impl Frontend {
    pub(super) fn new(plan: FrontendPlan) -> Frontend {
        Frontend {
            plan,
            state: State::Stopped { retry_at: None },
            revision: Revision::default(),
            passing: false,
            last_error: None,
            intent: Intent::Stop,
            backoff: Backoff::default(),
        }
    }

    /// Handles an input. The only place where the state changes.
    pub(super) fn step(&mut self, now: Instant, id: FrontendId, phase: Phase, input: Input, effects: &mut Effects) {
        self.intent = match input {
            Input::Start if phase == Phase::Running => Intent::Run,
            Input::Stop => Intent::Stop,
            _ => self.intent,
        };
        self.state = match (self.state, input) {
            (State::Stopped { .. }, Input::Start | Input::Time) if self.intent == Intent::Run => self.open(id, effects),
            (State::Stopped { .. }, Input::Stop) => Self::stopped(phase),
            (State::Opening, Input::Opened) if self.intent == Intent::Run => State::Publishing,
            (State::Opening, Input::Opened) => Self::close(id, effects),
            (State::Opening, Input::OpenFailed(error)) => {
                log::error!("frontend {}: {error}", self.plan.name);
                self.last_error = Some(error);
                match self.intent {
                    Intent::Run => State::Stopped { retry_at: Some(self.backoff.failed(now)) },
                    Intent::Stop => Self::stopped(phase),
                }
            }
            (State::Publishing, Input::Applied) => {
                log::debug!("frontend {}: running", self.plan.name);
                self.last_error = None;
                self.backoff.reset();
                State::Running
            }
            (State::Publishing | State::Running, Input::Stop) => State::Unpublishing,
            (State::Publishing | State::Running, Input::Broke(error)) => {
                log::error!("frontend {}: {error}", self.plan.name);
                self.last_error = Some(error);
                self.backoff.failed(now);
                State::Unpublishing
            }
            (State::Unpublishing, Input::Applied) => Self::close(id, effects),
            (State::Closing, Input::SocketsClosed) => {
                log::debug!("frontend {}: stopped", self.plan.name);
                match (self.intent, self.backoff.until(now)) {
                    (Intent::Stop, _) => Self::stopped(phase),
                    (Intent::Run, None) => self.open(id, effects),
                    (Intent::Run, retry_at) => State::Stopped { retry_at },
                }
            }
            (state, _) => state,
        };
    }

    fn open(&self, id: FrontendId, effects: &mut Effects) -> State {
        effects.push(Effect::StartFrontend(id));
        State::Opening
    }

    fn close(id: FrontendId, effects: &mut Effects) -> State {
        effects.push(Effect::StopFrontend(id));
        State::Closing
    }

    fn stopped(phase: Phase) -> State {
        if phase == Phase::Running { State::Stopped { retry_at: None } } else { State::Closed }
    }

    /// State that users see.
    pub(super) fn visible(&self) -> FrontendState {
        match self.state {
            State::Stopped { .. } => FrontendState::Stopped,
            State::Opening | State::Publishing => FrontendState::Starting,
            State::Running => FrontendState::Running,
            State::Unpublishing | State::Closing => FrontendState::Stopping,
            State::Closed => FrontendState::Closed,
        }
    }

    /// Whether its rules are wanted in the kernel.
    pub(super) fn has_rules(&self) -> bool {
        matches!(self.state, State::Publishing | State::Running)
    }

    /// Whether it pins its target.
    pub(super) fn pins(&self) -> bool {
        self.plan.keeps_warm && self.state == State::Running
    }
}

impl Derived for Frontend {
    fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Stopped { retry_at } => retry_at,
            _ => None,
        }
    }

    fn awaits(&self) -> Option<Revision> {
        matches!(self.state, State::Publishing | State::Unpublishing).then_some(self.revision)
    }

    fn is_closed(&self) -> bool {
        self.state == State::Closed
    }
}
