//! The life of one target, as a state machine.
//!
//! ```text
//!  Inactive ──▶ Starting ──▶ Publishing ──▶ Active ──▶ IdleDrain ──▶ Teardown ──▶ Inactive or BackingOff
//!                  │             │           │ ▲          │             ▲
//!                  │             │           │ └──────────┘ a client came, or it is still in use
//!                  └─────────────┴───────────┴──────────────────────────┘ it died, or has to drain
//! ```

use std::time::{Duration, Instant};

use super::around::Around;
use super::backoff::Backoff;
use super::event::Effect;
use super::life::{Cause, Life, Woken, WokenBy};
use super::rules::Revision;
use super::state::{Backend, Derived, Idle, IdleDrain, Phase, State, Step, Teardown, Then};
use crate::dataplane::flows::{Scope, Use};
use crate::engine::status::TargetState;
use crate::ids::FrontendId;

/// The core's part of a target's configuration.
#[derive(Debug, Clone)]
pub struct TargetPlan {
    /// Name, for log lines.
    pub name: String,
    /// Time without flows after which it drains.
    pub idle_timeout: Duration,
    /// Time within which it must become ready.
    pub ready_deadline: Duration,
    /// Minimum time that it stays active, unless it dies or an operator drains it.
    pub min_uptime: Duration,
    /// Time after which it is drained, in use or not.
    pub max_uptime: Option<Duration>,
    /// Whether the backend, and so its flows, may outlive the daemon.
    pub external: bool,
    /// Whether only its clients can notice the end of the backend.
    pub unwatched: bool,
}

/// Something that happens to a target.
#[derive(Debug)]
pub(super) enum Input {
    Wake(WokenBy),
    /// The first frontend begins to pin it.
    Pinned(FrontendId),
    /// No frontend pins it any more.
    Unpinned,
    /// An operator or the end of the daemon drains it.
    Drain,
    Ready,
    Died(String),
    Ended(Option<String>),
    /// It answers neither its clients nor the gateway.
    Unresponsive(String),
    /// The rules that it waits for are in the kernel.
    Applied,
    Unused {
        asked: Instant,
        since: Option<Instant>,
    },
    Checked {
        asked: Instant,
        result: Use,
    },
    Flushed,
    /// Its deadline has passed.
    Time,
}

/// One target.
#[derive(Debug)]
pub(super) struct Target {
    pub plan: TargetPlan,
    pub state: State,
    pub last_error: Option<String>,
    /// Time of the last change of the visible state.
    since: Instant,
    /// Time at which it became active, while it is up.
    up_since: Option<Instant>,
    woken: Option<Woken>,
    /// Cause of its last drain.
    drained: Option<Cause>,
    backoff: Backoff,
}

impl Target {
    pub(super) fn new(plan: TargetPlan, now: Instant) -> Target {
        Target {
            plan,
            state: State::Inactive,
            last_error: None,
            since: now,
            up_since: None,
            woken: None,
            drained: None,
            backoff: Backoff::default(),
        }
    }

    /// Handles an input. The only place where the state changes.
    pub(super) fn step(&mut self, input: Input, around: &mut Around<'_>) {
        let before = self.state;
        self.state = self.next(before, input, around);
        #[cfg(test)]
        super::simulation::transitions::record(before, self.state);
        let after = self.state.visible();
        if after != before.visible() {
            self.since = around.now;
        }
        match after {
            TargetState::Active => _ = self.up_since.get_or_insert(around.now),
            TargetState::Draining => {}
            TargetState::Inactive | TargetState::Warming | TargetState::Closed => self.up_since = None,
        }
    }

    fn next(&mut self, state: State, input: Input, around: &mut Around<'_>) -> State {
        match input {
            _ if state == State::Closed => state,
            Input::Wake(by) => self.wake(state, by, around),
            Input::Pinned(by) => match state {
                State::Inactive => self.wake(state, WokenBy::Pin(by), around),
                State::Active(_) => {
                    around.effects.push(Effect::ReleaseFlows(around.id));
                    State::Active(Idle::Pinned)
                }
                State::IdleDrain(IdleDrain::Unpublishing(_) | IdleDrain::Verifying { .. }) => {
                    self.note_wake(WokenBy::Pin(by), around);
                    Self::republish(Then::Rest, around)
                }
                // The pin counts when this is over.
                _ => state,
            },
            Input::Unpinned => match state {
                State::Active(Idle::Pinned) => Self::in_use(around.now, around),
                _ => state,
            },
            Input::Drain => self.drain(state, around),
            Input::Ready => match state {
                State::Starting { .. } => State::Publishing(around.rules.touch()),
                _ => state,
            },
            Input::Died(error) => self.died(state, error, Backend::Started, around),
            Input::Ended(error) => self.ended(state, error, around),
            Input::Unresponsive(error) => match state {
                State::Active(_) => {
                    self.backoff.died(around.now, self.uptime(around.now));
                    self.last_error = Some(error);
                    self.tear_down(state, Cause::Unresponsive, Backend::Started, around)
                }
                _ => state,
            },
            Input::Applied => self.applied(state, around),
            Input::Unused { asked, since } => self.unused(state, asked, since, around),
            Input::Checked { asked, result } => match state {
                State::IdleDrain(IdleDrain::Verifying { asked: last }) if last == asked => {
                    // A flow that came and went since the target was reported as unused is use as well.
                    match result {
                        Use::Unused { since } if since.is_none_or(|since| self.idle_at(since) <= around.now) => {
                            self.tear_down(state, Cause::Idle, Backend::Started, around)
                        }
                        _ => Self::republish(Then::Rest, around),
                    }
                }
                _ => state,
            },
            Input::Flushed => match state {
                State::Teardown(teardown) if teardown.step == Step::Flushing => self.torn_down(teardown, around),
                _ => state,
            },
            Input::Time => self.time(state, around),
        }
    }

    // ---- warm-up ----

    fn wake(&mut self, state: State, by: WokenBy, around: &mut Around<'_>) -> State {
        let counts = match state {
            State::Inactive | State::BackingOff { then: Then::Rest, .. } => true,
            State::IdleDrain(drain) => !matches!(drain, IdleDrain::Republishing { then: Then::Start, .. }),
            State::Teardown(teardown) => teardown.then == Then::Rest,
            _ => false,
        };
        if counts {
            self.note_wake(by, around);
        }
        match state {
            State::Inactive => self.start(around),
            State::BackingOff { until, then } => {
                if then == Then::Rest {
                    log::info!("target {}: backing off, next attempt in {:.1?}", self.plan.name, until - around.now);
                }
                State::BackingOff { until, then: Then::Start }
            }
            State::IdleDrain(IdleDrain::Unpublishing(_) | IdleDrain::Verifying { .. }) => {
                Self::republish(Then::Start, around)
            }
            State::IdleDrain(IdleDrain::Republishing { revision, .. }) => {
                State::IdleDrain(IdleDrain::Republishing { revision, then: Then::Start })
            }
            State::Teardown(teardown) => State::Teardown(Teardown { then: Then::Start, ..teardown }),
            // It is on its way up, or there.
            _ => state,
        }
    }

    fn note_wake(&mut self, by: WokenBy, around: &Around<'_>) {
        self.woken = Some(Woken { by, at: around.now });
        let frontend = |id: FrontendId| &around.frontends[&id].plan.name;
        let by = match by {
            WokenBy::Operator => "an operator".to_owned(),
            WokenBy::Client(id, Some(client)) => format!("frontend {} for {client}", frontend(id)),
            WokenBy::Client(id, None) | WokenBy::Pin(id) => format!("frontend {}", frontend(id)),
        };
        log::info!("target {}: woken by {by}", self.plan.name);
    }

    fn start(&mut self, around: &mut Around<'_>) -> State {
        log::info!("target {}: warming", self.plan.name);
        around.effects.push(Effect::StartTarget(around.id));
        State::Starting { deadline: around.now + self.plan.ready_deadline }
    }

    fn applied(&mut self, state: State, around: &mut Around<'_>) -> State {
        match state {
            State::Publishing(_) => {
                log::info!("target {}: active after {:.1?}", self.plan.name, around.now - self.since);
                self.activate(around)
            }
            State::IdleDrain(IdleDrain::Republishing { .. }) => {
                log::info!("target {}: active again, because it was needed while it was draining", self.plan.name);
                self.activate(around)
            }
            State::IdleDrain(IdleDrain::Unpublishing(_)) => {
                let asked = around.now;
                around.effects.push(Effect::CheckFlows { target: around.id, asked });
                State::IdleDrain(IdleDrain::Verifying { asked })
            }
            State::Teardown(teardown) => match teardown.step {
                Step::Unpublishing { backend, .. } => self.stop(teardown, backend, around),
                Step::Stopping | Step::Flushing => state,
            },
            _ => state,
        }
    }

    fn activate(&mut self, around: &mut Around<'_>) -> State {
        self.last_error = None;
        match around.pinned_by() {
            Some(_) => State::Active(Idle::Pinned),
            None => Self::in_use(around.now, around),
        }
    }

    /// Active, and to be reported when it is out of use.
    fn in_use(from: Instant, around: &mut Around<'_>) -> State {
        let asked = around.now;
        around.effects.push(Effect::WatchFlows { target: around.id, asked });
        State::Active(Idle::InUse { from, asked })
    }

    fn republish(then: Then, around: &mut Around<'_>) -> State {
        State::IdleDrain(IdleDrain::Republishing { revision: around.rules.touch(), then })
    }

    // ---- drain ----

    fn unused(&mut self, state: State, asked: Instant, since: Option<Instant>, around: &mut Around<'_>) -> State {
        match state {
            State::Active(Idle::InUse { from, asked: last }) if last == asked => {
                let since = since.map_or(from, |since| since.max(from));
                if self.idle_at(since) > around.now {
                    return State::Active(Idle::Since(since));
                }
                log::info!("target {}: draining because it is idle", self.plan.name);
                around.effects.push(Effect::ReleaseFlows(around.id));
                State::IdleDrain(IdleDrain::Unpublishing(around.rules.touch()))
            }
            _ => state,
        }
    }

    fn drain(&mut self, state: State, around: &mut Around<'_>) -> State {
        match state {
            State::Inactive | State::BackingOff { .. } if around.phase != Phase::Running => State::Closed,
            State::BackingOff { until, .. } => State::BackingOff { until, then: Then::Rest },
            State::Teardown(teardown) => {
                let cause = if teardown.cause == Cause::Idle { Cause::Asked } else { teardown.cause };
                State::Teardown(Teardown { cause, then: Then::Rest, ..teardown })
            }
            _ => self.tear_down(state, Cause::Asked, Backend::Started, around),
        }
    }

    fn died(&mut self, state: State, error: String, backend: Backend, around: &mut Around<'_>) -> State {
        match state {
            State::Starting { .. } | State::Publishing(_) => _ = self.backoff.failed(around.now),
            State::Active(_) => self.backoff.died(around.now, self.uptime(around.now)),
            State::IdleDrain(_) => {}
            State::Teardown(teardown) if teardown.cause == Cause::Idle => {
                self.last_error = Some(error);
                return State::Teardown(Teardown { cause: Cause::Died, ..teardown });
            }
            _ => return state,
        }
        log::warn!("target {}: {error}", self.plan.name);
        self.last_error = Some(error);
        self.tear_down(state, Cause::Died, backend, around)
    }

    fn ended(&mut self, state: State, error: Option<String>, around: &mut Around<'_>) -> State {
        let State::Teardown(teardown) = state else {
            let error = error.unwrap_or_else(|| "the backend has ended".to_owned());
            return self.died(state, error, Backend::Ended, around);
        };
        match (teardown.cause, &mut self.last_error, error) {
            // The handler knows what was missing.
            (Cause::NotReady, Some(last), Some(error)) => {
                *last = format!("{last}: {error}");
                log::warn!("target {}: {last}", self.plan.name);
            }
            (Cause::Idle | Cause::Asked | Cause::TooOld, last, Some(error)) => *last = Some(error),
            _ => {}
        }
        match teardown.step {
            Step::Stopping => self.flush(teardown, around),
            Step::Unpublishing { revision, .. } => {
                let step = Step::Unpublishing { revision, backend: Backend::Ended };
                State::Teardown(Teardown { step, ..teardown })
            }
            Step::Flushing => state,
        }
    }

    /// Takes a started target down: new flows off first, then the backend.
    fn tear_down(&mut self, state: State, cause: Cause, backend: Backend, around: &mut Around<'_>) -> State {
        if matches!(state, State::Starting { .. } | State::Publishing(_) | State::Active(_)) {
            let why = match cause {
                Cause::Idle => " because it is idle",
                Cause::Asked => " as requested",
                Cause::Died => "",
                Cause::Unresponsive => " because its clients get no answer",
                Cause::NotReady => " because it was not ready in time",
                Cause::TooOld => " because it has been up for its max_uptime",
            };
            log::info!("target {}: draining{why}", self.plan.name);
        }
        let is_warming = matches!(state, State::Starting { .. } | State::Publishing(_));
        if is_warming && matches!(cause, Cause::Died | Cause::NotReady) {
            around.notify_failed(|_| true);
        }
        let revision = match state {
            State::Inactive | State::BackingOff { .. } | State::Teardown(_) | State::Closed => return state,
            State::Starting { .. } | State::IdleDrain(IdleDrain::Verifying { .. }) => None,
            State::IdleDrain(IdleDrain::Unpublishing(revision)) => Some(revision),
            State::Active(Idle::InUse { .. } | Idle::Since(_)) => {
                around.effects.push(Effect::ReleaseFlows(around.id));
                Some(around.rules.touch())
            }
            State::Publishing(_) | State::Active(Idle::Pinned) | State::IdleDrain(IdleDrain::Republishing { .. }) => {
                Some(around.rules.touch())
            }
        };
        // Clients that came during a drain do not pay for its end.
        let then = match state {
            State::IdleDrain(IdleDrain::Republishing { then, .. }) if cause != Cause::Asked => then,
            _ => Then::Rest,
        };
        let teardown = |step| Teardown { cause, step, then };
        match revision {
            Some(revision) => State::Teardown(teardown(Step::Unpublishing { revision, backend })),
            None => self.stop(teardown(Step::Stopping), backend, around),
        }
    }

    /// Stops the backend of a target whose rules are gone.
    fn stop(&mut self, teardown: Teardown, backend: Backend, around: &mut Around<'_>) -> State {
        match backend {
            Backend::Started => {
                around.effects.push(Effect::StopTarget(around.id));
                State::Teardown(Teardown { step: Step::Stopping, ..teardown })
            }
            Backend::Ended => self.flush(teardown, around),
        }
    }

    /// Deletes the conntrack entries of a target whose backend is gone, so that a client's next packet takes the cold path.
    fn flush(&mut self, teardown: Teardown, around: &mut Around<'_>) -> State {
        if around.phase != Phase::Running && self.plan.external {
            return self.torn_down(teardown, around);
        }
        // The clients of a backend that takes no new flows may still be served.
        let scope = if teardown.cause == Cause::Unresponsive { Scope::Unanswered } else { Scope::All };
        around.effects.push(Effect::FlushFlows { target: around.id, scope });
        State::Teardown(Teardown { step: Step::Flushing, ..teardown })
    }

    fn torn_down(&mut self, teardown: Teardown, around: &mut Around<'_>) -> State {
        log::info!("target {}: inactive after draining for {:.1?}", self.plan.name, around.now - self.since);
        self.drained = Some(teardown.cause);
        if matches!(teardown.cause, Cause::Idle | Cause::Asked | Cause::TooOld) {
            self.backoff.reset();
        }
        if around.phase != Phase::Running {
            return State::Closed;
        }
        if let Some(until) = self.backoff.until(around.now) {
            // Clients that came during the teardown learn it like those before and after them.
            around.notify_failed(|frontend| frontend.plan.refuses);
            let then = if around.all_refuse() { Then::Rest } else { teardown.then };
            return State::BackingOff { until, then };
        }
        self.rest(teardown.then, around)
    }

    /// Inactive, unless it is needed.
    fn rest(&mut self, then: Then, around: &mut Around<'_>) -> State {
        match (then, around.pinned_by()) {
            (Then::Start, _) => self.start(around),
            (Then::Rest, Some(pin)) => {
                self.note_wake(WokenBy::Pin(pin), around);
                self.start(around)
            }
            (Then::Rest, None) => State::Inactive,
        }
    }

    // ---- time ----

    fn time(&mut self, state: State, around: &mut Around<'_>) -> State {
        match state {
            State::BackingOff { then, .. } => self.rest(then, around),
            State::Starting { .. } => {
                self.last_error = Some(format!("not ready within {:?}", self.plan.ready_deadline));
                self.backoff.failed(around.now);
                self.tear_down(state, Cause::NotReady, Backend::Started, around)
            }
            State::Active(_) if self.too_old_at().is_some_and(|at| at <= around.now) => {
                self.tear_down(state, Cause::TooOld, Backend::Started, around)
            }
            // Its idle time is over, unless a flow has come in the meantime.
            State::Active(Idle::Since(since)) => Self::in_use(since, around),
            _ => state,
        }
    }

    /// Time at which it drains, in use or not.
    fn too_old_at(&self) -> Option<Instant> {
        self.up_since?.checked_add(self.plan.max_uptime?)
    }

    /// Time at which it drains if it has been unused since then.
    fn idle_at(&self, unused: Instant) -> Instant {
        let least = self.up_since.map_or(unused, |up| up + self.plan.min_uptime);
        (unused + self.plan.idle_timeout).max(least)
    }

    fn uptime(&self, now: Instant) -> Duration {
        self.up_since.map_or(Duration::ZERO, |up| now - up)
    }

    /// See [`Core::drains_at`](super::Core::drains_at).
    pub(super) fn drains_at(&self, flows: u32, ended: Option<Instant>) -> Option<Instant> {
        let idle = match self.state {
            State::Active(Idle::Pinned) => None,
            State::Active(Idle::InUse { from, .. } | Idle::Since(from)) => (flows == 0).then_some(from),
            _ => return None,
        };
        let idle = idle.map(|from| self.idle_at(ended.map_or(from, |at| at.max(from))));
        idle.into_iter().chain(self.too_old_at()).min()
    }

    // ---- queries ----

    pub(super) fn life(&self, is_pinned: bool) -> Life<'_> {
        Life {
            state: self.state.visible(),
            since: self.since,
            up_since: self.up_since,
            woken: self.woken,
            drained: match self.state {
                State::IdleDrain(_) => Some(Cause::Idle),
                State::Teardown(teardown) => Some(teardown.cause),
                _ => self.drained,
            },
            last_error: self.last_error.as_deref(),
            retry_at: match self.state {
                State::BackingOff { until, .. } => Some(until),
                _ => None,
            },
            wanted: match self.state {
                State::BackingOff { then, .. } => then == Then::Start || is_pinned,
                State::Teardown(teardown) => teardown.then == Then::Start || is_pinned,
                _ => false,
            },
            is_pinned,
            checking: matches!(self.state, State::IdleDrain(IdleDrain::Verifying { .. })),
        }
    }
}

impl Derived for Target {
    fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::BackingOff { until, .. } => Some(until),
            State::Starting { deadline } => Some(deadline),
            State::Active(Idle::Since(since)) => Some(self.idle_at(since)).into_iter().chain(self.too_old_at()).min(),
            State::Active(_) => self.too_old_at(),
            // A result of nft, the backend or the flows thread will come; each has a bound of its own.
            State::Publishing(_) | State::IdleDrain(_) | State::Teardown(_) => None,
            State::Inactive | State::Closed => None,
        }
    }

    fn awaits(&self) -> Option<Revision> {
        self.state.awaits()
    }

    fn is_closed(&self) -> bool {
        self.state == State::Closed
    }
}
