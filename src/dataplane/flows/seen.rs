//! The definition of use: what a conntrack entry shows about the use of its target. Pure. This is its only place; a changed
//! definition (of counting, of how the last packet is dated) changes [`Seen::new`] and nothing else.
//!
//! A flow counts as use while its entry lives and it was answered: for TCP, from the end of the handshake until both sides
//! have closed or one has reset; for UDP, from the first answer on. A flow that was not answered does not count; while it is
//! young enough to be answered yet ([`UNANSWERED`]), it can keep a drain from stopping the backend. The middle of an unknown
//! connection, which conntrack takes for an established one, is such a flow too.
//!
//! A flow that passes a flowtable counts while it does so, if it was answered. The kernel shows neither its TCP state nor its
//! age, so it is queried again every [`OFFLOADED`] until the kernel hands it back to conntrack: when it ends, or some time
//! after its last packet (`nf_flowtable_tcp_timeout` and `nf_flowtable_udp_timeout`, 30 s by default).

use std::time::{Duration, Instant};

use crate::config::Protocol;
use crate::dataplane::plan::Timeouts;
use crate::netlink::conntrack::{Entry, TcpState};

/// Time after its last packet for which a flow that was not answered can keep a drain from stopping the backend. It is long
/// enough for a SYN that is sent again twice.
pub(super) const UNANSWERED: Duration = Duration::from_secs(5);

/// Recheck interval of a flow that passes a flowtable.
pub(super) const OFFLOADED: Duration = Duration::from_secs(5);

/// Time of a query: the kernel made its result between the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Window {
    pub asked: Instant,
    pub answered: Instant,
}

impl Window {
    /// The window of an event, which is not dated: it is taken for new.
    pub(super) fn at(now: Instant) -> Window {
        Window { asked: now, answered: now }
    }
}

/// A time that is known up to an interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Interval {
    pub earliest: Instant,
    pub latest: Instant,
}

/// What an entry shows about the use of its target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// It counts, at least until then if no more packets come; in a flowtable, until it must be queried again.
    Counted { until: Instant },
    /// It counted until it was closed. Events do not date the close.
    Closed(Interval),
    /// It was not answered, but may be yet.
    Unanswered,
    /// It never counted: not answered, or refused.
    NotCounted,
    /// An event that does not show the TCP state of a flow, which lives at least until then.
    Unclear { until: Instant },
}

impl Seen {
    pub(super) fn new(entry: &Entry, timeouts: Timeouts, window: Window) -> Seen {
        let answered = entry.status.answered();
        let counts = match (entry.protocol, entry.tcp_state) {
            (Protocol::Udp, _) => answered,
            (Protocol::Tcp, Some(TcpState::TimeWait)) => return Seen::Closed(closed(entry, timeouts, window)),
            // Reset: before the handshake was complete it is a refusal.
            (Protocol::Tcp, Some(TcpState::Close)) if entry.status.assured() => {
                return Seen::Closed(closed(entry, timeouts, window));
            }
            (Protocol::Tcp, Some(state)) => state.is_open() && answered,
            // A flowtable takes only connections whose handshake is complete.
            (Protocol::Tcp, None) if entry.status.offloaded() => answered,
            (Protocol::Tcp, None) => return Seen::Unclear { until: window.asked + left(entry) },
        };
        if counts {
            Seen::Counted { until: window.asked + left(entry) }
        } else if may_be_answered(entry, timeouts) {
            Seen::Unanswered
        } else {
            Seen::NotCounted
        }
    }
}

fn left(entry: &Entry) -> Duration {
    if entry.status.offloaded() {
        return OFFLOADED;
    }
    Duration::from_secs(entry.timeout.unwrap_or(0).into())
}

/// The kernel counts whole seconds.
fn may_be_answered(entry: &Entry, timeouts: Timeouts) -> bool {
    let lives = match (entry.protocol, entry.tcp_state) {
        (Protocol::Udp, _) | (Protocol::Tcp, Some(TcpState::Established | TcpState::CloseWait)) => timeouts.silent,
        (Protocol::Tcp, Some(TcpState::SynRecv)) => timeouts.syn_received(),
        (Protocol::Tcp, Some(TcpState::Close | TcpState::TimeWait)) => return false,
        (Protocol::Tcp, _) => timeouts.syn_sent(),
    };
    let idle_for = lives.saturating_sub(entry.timeout.unwrap_or(0)).saturating_sub(1);
    u64::from(idle_for) < UNANSWERED.as_secs()
}

/// Time of the close. The kernel rounds down to whole seconds.
fn closed(entry: &Entry, timeouts: Timeouts, Window { asked, answered }: Window) -> Interval {
    let passed = Duration::from_secs(timeouts.closed().saturating_sub(entry.timeout.unwrap_or(0)).into());
    // In the machine's first minutes that time may lie before its start: then the start is as good.
    let back = |from: Instant| from.checked_sub(passed).unwrap_or(from);
    Interval { earliest: back(asked), latest: (back(answered) + Duration::from_secs(1)).min(answered) }
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

    const TIMEOUTS: Timeouts = Timeouts { silent: 600 };

    fn seen(entry: &Entry) -> Seen {
        Seen::new(entry, TIMEOUTS, Window::at(Instant::now()))
    }

    fn counts(entry: &Entry) -> bool {
        matches!(seen(entry), Seen::Counted { .. })
    }

    fn is_closed(entry: &Entry) -> bool {
        matches!(seen(entry), Seen::Closed(_))
    }

    #[test]
    fn a_tcp_flow_counts_from_the_handshake_to_the_last_fin() {
        use TcpState as T;
        let of = |state, status| entry(Some(state), status, 9);
        for state in [T::None, T::SynSent, T::SynSent2, T::SynRecv] {
            assert_eq!(seen(&of(state, ANSWERED)), Seen::NotCounted, "{state:?}");
        }
        for state in [T::Established, T::FinWait, T::CloseWait, T::LastAck] {
            assert!(counts(&of(state, ASSURED)), "{state:?}");
            // A stray packet that conntrack takes for the middle of a connection.
            assert_eq!(seen(&of(state, 0)), Seen::NotCounted, "{state:?}");
        }
        assert!(is_closed(&of(T::TimeWait, ASSURED)));
        assert!(is_closed(&of(T::Close, ASSURED)));
        // A refusal.
        assert_eq!(seen(&of(T::Close, ANSWERED)), Seen::NotCounted);
        assert!(matches!(seen(&entry(None, ASSURED, 9)), Seen::Unclear { .. }));
    }

    #[test]
    fn a_counted_flow_lives_for_what_its_entry_has_left() {
        let now = Instant::now();
        let window = Window { asked: now, answered: now + Duration::from_secs(1) };
        let until = now + Duration::from_secs(9);
        assert_eq!(Seen::new(&udp(ANSWERED, 9), TIMEOUTS, window), Seen::Counted { until });
        assert_eq!(Seen::new(&entry(None, ANSWERED, 9), TIMEOUTS, window), Seen::Unclear { until });
        let untimed = Entry { timeout: None, ..udp(ANSWERED, 0) };
        assert_eq!(Seen::new(&untimed, TIMEOUTS, window), Seen::Counted { until: now });
    }

    #[test]
    fn a_flow_in_a_flowtable_counts_if_it_was_answered() {
        let now = Instant::now();
        let rechecked = Seen::Counted { until: now + OFFLOADED };
        let seen = |entry: &Entry| Seen::new(entry, TIMEOUTS, Window::at(now));
        for bit in [Status::OFFLOAD, Status::HW_OFFLOAD, Status::OFFLOAD | Status::HW_OFFLOAD] {
            // Dumps and lookups show neither timeout nor state.
            let shown = |protocol, status| Entry { protocol, timeout: None, ..entry(None, status | bit, 0) };
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                assert_eq!(seen(&shown(protocol, ASSURED)), rechecked, "{protocol} {bit:#x}");
                assert_eq!(seen(&shown(protocol, ANSWERED)), rechecked, "{protocol} {bit:#x}");
                assert_eq!(seen(&shown(protocol, 0)), Seen::NotCounted, "{protocol} {bit:#x}");
            }
            // Events show the state, and a timeout of a day, which means nothing.
            let event = |state| entry(Some(state), ASSURED | bit, 86_400);
            assert_eq!(seen(&event(TcpState::Established)), rechecked);
            assert!(is_closed(&event(TcpState::TimeWait)));
        }
        // Handed back.
        assert!(counts(&entry(Some(TcpState::Established), ASSURED, 86_399)));
    }

    #[test]
    fn a_udp_flow_counts_from_its_first_answer_on() {
        assert_eq!(seen(&udp(0, 9)), Seen::NotCounted);
        assert!(counts(&udp(ANSWERED, 9)));
    }

    #[test]
    fn a_flow_may_be_answered_for_a_moment_only() {
        let may = |entry: Entry| seen(&entry) == Seen::Unanswered;
        // The kernel shows 599 of 600 right away, 594 when a little more than five seconds have passed.
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
    fn a_close_is_dated_within_the_kernels_second() {
        let now = Instant::now() + Duration::from_secs(1000);
        for ago in [0, 1, 999, 1000, 1001, 30_500, 119_999] {
            let closed = now - Duration::from_millis(ago);
            let left = (closed + Duration::from_secs(120) - now).as_secs() as u32;
            let window = Window { asked: now, answered: now + Duration::from_millis(3) };
            let seen = Seen::new(&entry(Some(TcpState::TimeWait), ASSURED, left), TIMEOUTS, window);
            let Seen::Closed(Interval { earliest, latest }) = seen else { panic!("{seen:?}") };
            assert!(earliest <= closed && closed <= latest && latest <= window.answered, "{ago}");
            assert!(latest - earliest <= Duration::from_millis(1003), "{ago}");
        }
    }
}
