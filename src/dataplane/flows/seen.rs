//! What a conntrack entry says about the use of its target. Pure.
//!
//! A flow counts as use while its entry lives and it was answered: for TCP, from the end of the handshake until both sides
//! have closed or one has reset; for UDP, from the first answer on. What was not answered counts for a moment only, see
//! [`UNANSWERED`]; that is also the middle of a connection that nobody knows, which conntrack takes for an established one.
//!
//! A flow that passes a flowtable counts as use while it does so, if it was answered. The kernel shows neither its TCP state
//! nor its age, so it is queried again every [`OFFLOADED`] until the kernel hands it back to conntrack: when it ends, or some
//! time after its last packet (`nf_flowtable_tcp_timeout` and `nf_flowtable_udp_timeout`, 30 s by default).

use std::time::{Duration, Instant};

use crate::config::Protocol;
use crate::dataplane::plan::Timeouts;
use crate::netlink::conntrack::{Entry, TcpState};

/// For how long after its last packet a flow that was not answered can keep a drain from stopping the backend. It is long
/// enough for a SYN that is sent again twice.
pub(super) const UNANSWERED: Duration = Duration::from_secs(5);

/// Recheck interval of a flow that passes a flowtable.
pub(super) const OFFLOADED: Duration = Duration::from_secs(5);

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
            (Protocol::Tcp, Some(state)) if state.is_open() && entry.status.answered() => Seen::Open,
            (Protocol::Tcp, Some(TcpState::TimeWait)) => Seen::Over,
            // Reset: before the handshake was complete it is a refusal.
            (Protocol::Tcp, Some(TcpState::Close)) if entry.status.assured() => Seen::Over,
            (Protocol::Tcp, Some(_)) => Seen::Idle,
            // A flowtable takes only connections whose handshake is complete.
            (Protocol::Tcp, None) if entry.status.offloaded() && entry.status.answered() => Seen::Open,
            (Protocol::Tcp, None) if entry.status.offloaded() => Seen::Idle,
            // An event that is not about the state.
            (Protocol::Tcp, None) => return None,
        })
    }
}

/// Minimum lifetime of the entry if no more packets come; of one in a flowtable, until it must be queried again.
pub(super) fn left(entry: &Entry) -> Duration {
    if entry.status.offloaded() {
        return OFFLOADED;
    }
    Duration::from_secs(entry.timeout.unwrap_or(0).into())
}

/// Whether a flow that was not answered is young enough to be answered yet. The kernel counts whole seconds.
pub(super) fn may_be_answered(entry: &Entry, timeouts: Timeouts) -> bool {
    let lives = match (entry.protocol, entry.tcp_state) {
        (Protocol::Udp, _) | (Protocol::Tcp, Some(TcpState::Established | TcpState::CloseWait)) => timeouts.silent,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::conntrack::{Status, Tuple};

    fn entry(tcp_state: Option<TcpState>, status: u32, timeout: u32) -> Entry {
        let at = "192.0.2.1:80".parse().expect("an address");
        let tuple = Tuple { source: at, destination: at };
        Entry {
            protocol: Protocol::Tcp,
            original: tuple,
            reply: tuple,
            status: Status(status | Status::DST_NAT),
            timeout: Some(timeout),
            tcp_state,
            zone: 0,
            id: 1,
            sent: None,
            received: None,
            start: None,
        }
    }

    fn udp(status: u32, timeout: u32) -> Entry {
        Entry { protocol: Protocol::Udp, ..entry(None, status, timeout) }
    }

    const ANSWERED: u32 = Status::SEEN_REPLY;
    const ASSURED: u32 = Status::SEEN_REPLY | Status::ASSURED;

    #[test]
    fn a_tcp_flow_is_use_from_the_handshake_to_the_last_fin() {
        use TcpState as T;
        let seen = |state, status| Seen::new(&entry(Some(state), status, 9));
        for state in [T::None, T::SynSent, T::SynSent2, T::SynRecv] {
            assert_eq!(seen(state, ANSWERED), Some(Seen::Idle), "{state:?}");
        }
        for state in [T::Established, T::FinWait, T::CloseWait, T::LastAck] {
            assert_eq!(seen(state, ASSURED), Some(Seen::Open), "{state:?}");
            // A stray that conntrack takes for the middle of a connection.
            assert_eq!(seen(state, 0), Some(Seen::Idle), "{state:?}");
        }
        assert_eq!(seen(T::TimeWait, ASSURED), Some(Seen::Over));
        assert_eq!(seen(T::Close, ASSURED), Some(Seen::Over));
        // A refusal.
        assert_eq!(seen(T::Close, ANSWERED), Some(Seen::Idle));
        assert_eq!(Seen::new(&entry(None, ASSURED, 9)), None);
    }

    #[test]
    fn a_flow_in_a_flowtable_is_use_if_it_was_answered() {
        for bit in [Status::OFFLOAD, Status::HW_OFFLOAD, Status::OFFLOAD | Status::HW_OFFLOAD] {
            // Dumps and lookups show neither timeout nor state.
            let shown = |protocol, status| Entry { protocol, timeout: None, ..entry(None, status | bit, 0) };
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                assert_eq!(Seen::new(&shown(protocol, ASSURED)), Some(Seen::Open), "{protocol} {bit:#x}");
                assert_eq!(Seen::new(&shown(protocol, ANSWERED)), Some(Seen::Open), "{protocol} {bit:#x}");
                assert_eq!(Seen::new(&shown(protocol, 0)), Some(Seen::Idle), "{protocol} {bit:#x}");
                assert_eq!(left(&shown(protocol, ASSURED)), OFFLOADED);
            }
            // Events show the state, and a timeout of a day, which means nothing.
            let event = |state| entry(Some(state), ASSURED | bit, 86_400);
            assert_eq!(Seen::new(&event(TcpState::Established)), Some(Seen::Open));
            assert_eq!(left(&event(TcpState::Established)), OFFLOADED);
            assert_eq!(Seen::new(&event(TcpState::TimeWait)), Some(Seen::Over));
        }
        // Handed back.
        assert_eq!(Seen::new(&entry(Some(TcpState::Established), ASSURED, 86_399)), Some(Seen::Open));
    }

    #[test]
    fn a_udp_flow_is_use_from_its_first_answer_on() {
        assert_eq!(Seen::new(&udp(0, 9)), Some(Seen::Idle));
        assert_eq!(Seen::new(&udp(ANSWERED, 9)), Some(Seen::Open));
    }

    #[test]
    fn what_was_not_answered_may_be_so_for_a_moment_only() {
        let timeouts = Timeouts { silent: 600 };
        let may = |entry: Entry| may_be_answered(&entry, timeouts);
        // The kernel says 599 of 600 right away, 594 when a little more than five seconds have passed.
        for (left, young) in [(600, true), (599, true), (595, true), (594, false), (0, false)] {
            assert_eq!(may(udp(0, left)), young, "{left}");
        }
        for (state, whole) in [(TcpState::SynSent, 120), (TcpState::SynRecv, 60), (TcpState::SynSent2, 120)] {
            assert!(may(entry(Some(state), 0, whole - 1)) && may(entry(Some(state), 0, whole - 5)), "{state:?}");
            assert!(!may(entry(Some(state), 0, whole - 6)), "{state:?}");
        }
        assert!(may(entry(Some(TcpState::Established), 0, 599)) && !may(entry(Some(TcpState::Established), 0, 590)));
        assert!(may(entry(Some(TcpState::CloseWait), 0, 599)) && !may(entry(Some(TcpState::CloseWait), 0, 590)));
        assert!(!may(entry(Some(TcpState::Close), ANSWERED, 119)));
    }

    #[test]
    fn the_moment_of_a_close_lies_within_the_kernels_second() {
        let timeouts = Timeouts { silent: 600 };
        let now = Instant::now() + Duration::from_secs(1000);
        for ago in [0, 1, 999, 1000, 1001, 30_500, 119_999] {
            let closed = now - Duration::from_millis(ago);
            let left = (closed + Duration::from_secs(120) - now).as_secs() as u32;
            let answered = now + Duration::from_millis(3);
            let (from, to) = closed_between(&entry(Some(TcpState::TimeWait), ASSURED, left), timeouts, (now, answered));
            assert!(from <= closed && closed <= to && to <= answered, "{ago}");
            assert!(to - from <= Duration::from_millis(1003), "{ago}");
        }
    }
}
