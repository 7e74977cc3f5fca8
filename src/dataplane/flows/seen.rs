//! What a conntrack entry says about the use of its target. Pure.
//!
//! A flow counts as use while its entry lives and it was answered: for TCP, from the end of the handshake until both sides
//! have closed or one has reset; for UDP, from the first answer on. What was not answered counts for a moment only, see
//! [`UNANSWERED`].

use std::time::{Duration, Instant};

use crate::config::Protocol;
use crate::dataplane::plan::Timeouts;
use crate::netlink::conntrack::{Entry, TcpState};

/// For how long after its last packet a flow that was not answered can keep a drain from stopping the backend. It is long
/// enough for a SYN that is sent again twice.
pub(super) const UNANSWERED: Duration = Duration::from_secs(5);

/// What an entry is to its target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// It is in use.
    Open,
    /// It was in use, and is not any more.
    Over,
    /// It was never in use: not answered yet, refused, or not known to be anything else.
    Idle,
}

impl Seen {
    pub(super) fn new(entry: &Entry) -> Option<Seen> {
        Some(match (entry.protocol, entry.tcp_state) {
            (Protocol::Udp, _) if entry.status.answered() => Seen::Open,
            (Protocol::Udp, _) => Seen::Idle,
            (Protocol::Tcp, Some(state)) if state.is_open() => Seen::Open,
            (Protocol::Tcp, Some(TcpState::TimeWait)) => Seen::Over,
            // Reset: before the handshake was complete it is a refusal.
            (Protocol::Tcp, Some(TcpState::Close)) if entry.status.assured() => Seen::Over,
            (Protocol::Tcp, Some(_)) => Seen::Idle,
            // An event that is not about the state.
            (Protocol::Tcp, None) => return None,
        })
    }
}

/// How long the entry lives at the least if no more packets come.
pub(super) fn left(entry: &Entry) -> Duration {
    Duration::from_secs(entry.timeout.unwrap_or(0).into())
}

/// Whether a flow that was not answered is young enough to be answered yet. The kernel counts whole seconds.
pub(super) fn may_be_answered(entry: &Entry, timeouts: Timeouts) -> bool {
    let lives = match (entry.protocol, entry.tcp_state) {
        (Protocol::Udp, _) => timeouts.silent,
        (Protocol::Tcp, Some(TcpState::SynRecv)) => timeouts.syn_received(),
        (Protocol::Tcp, Some(TcpState::Close | TcpState::TimeWait)) => return false,
        (Protocol::Tcp, _) => timeouts.syn_sent(),
    };
    let silent_for = lives.saturating_sub(entry.timeout.unwrap_or(0)).saturating_sub(1);
    u64::from(silent_for) < UNANSWERED.as_secs()
}

/// When a connection that is over was closed: not before the first, not after the second. The kernel has answered between `at`
/// and `answered`, in whole seconds cut off.
pub(super) fn closed_between(
    entry: &Entry,
    timeouts: Timeouts,
    (at, answered): (Instant, Instant),
) -> (Instant, Instant) {
    let passed = Duration::from_secs(timeouts.closed().saturating_sub(entry.timeout.unwrap_or(0)).into());
    // In the machine's first minutes there may be no such moment: then at its beginning, which is as good.
    let back = |from: Instant| from.checked_sub(passed).unwrap_or(from);
    (back(at), (back(answered) + Duration::from_secs(1)).min(answered))
}
