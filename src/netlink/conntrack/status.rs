//! Status of a flow: conntrack's bits, and the state of a TCP connection.

/// The bits of `enum ip_conntrack_status` (`linux/netfilter/nf_conntrack_common.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status(pub u32);

impl Status {
    /// `IPS_SEEN_REPLY`.
    pub const SEEN_REPLY: u32 = 1 << 1;
    /// `IPS_ASSURED`.
    pub const ASSURED: u32 = 1 << 2;
    /// `IPS_DST_NAT`.
    pub const DST_NAT: u32 = 1 << 5;
    /// `IPS_FIXED_TIMEOUT`.
    pub const FIXED_TIMEOUT: u32 = 1 << 10;
    /// `IPS_OFFLOAD`: a flowtable of the kernel forwards the packets.
    pub const OFFLOAD: u32 = 1 << 14;
    /// `IPS_HW_OFFLOAD`: a network card forwards the packets.
    pub const HW_OFFLOAD: u32 = 1 << 15;

    /// True if another program has set the entry's lifetime: an operator, or the owner of the flowtable.
    pub fn held(self) -> bool {
        self.has(Status::FIXED_TIMEOUT) || self.offloaded()
    }

    /// True if the packets pass a flowtable. While they do, conntrack does not see them, and netlink shows neither the entry's
    /// timeout nor its TCP state.
    pub fn offloaded(self) -> bool {
        self.has(Status::OFFLOAD | Status::HW_OFFLOAD)
    }

    /// True if the destination was translated.
    pub fn dnat(self) -> bool {
        self.has(Status::DST_NAT)
    }

    /// True if a reply was seen.
    pub fn answered(self) -> bool {
        self.has(Status::SEEN_REPLY)
    }

    /// True if packets went both ways for long enough that a full table spares the entry.
    pub fn assured(self) -> bool {
        self.has(Status::ASSURED)
    }

    fn has(self, bits: u32) -> bool {
        self.0 & bits != 0
    }
}

/// `enum tcp_conntrack` (`linux/netfilter/nf_conntrack_tcp.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TcpState {
    /// Not known yet.
    None,
    /// A SYN was seen.
    SynSent,
    /// A SYN-ACK was seen.
    SynRecv,
    /// The handshake is complete.
    Established,
    /// One side has closed.
    FinWait,
    /// That was acknowledged.
    CloseWait,
    /// The other side has closed too.
    LastAck,
    /// Closed on both sides.
    TimeWait,
    /// Reset.
    Close,
    /// A SYN from each side.
    SynSent2,
}

/// The states in the kernel's order, by conntrack(8)'s names.
const STATES: [(TcpState, &str); 10] = [
    (TcpState::None, "NONE"),
    (TcpState::SynSent, "SYN_SENT"),
    (TcpState::SynRecv, "SYN_RECV"),
    (TcpState::Established, "ESTABLISHED"),
    (TcpState::FinWait, "FIN_WAIT"),
    (TcpState::CloseWait, "CLOSE_WAIT"),
    (TcpState::LastAck, "LAST_ACK"),
    (TcpState::TimeWait, "TIME_WAIT"),
    (TcpState::Close, "CLOSE"),
    (TcpState::SynSent2, "SYN_SENT2"),
];

impl TcpState {
    /// True if the handshake is complete and the connection not over.
    pub fn is_open(self) -> bool {
        matches!(self, TcpState::Established | TcpState::FinWait | TcpState::CloseWait | TcpState::LastAck)
    }

    /// Name that conntrack(8) prints.
    pub fn name(self) -> &'static str {
        STATES[self as usize].1
    }

    pub(super) fn from_raw(raw: u8) -> Option<TcpState> {
        STATES.get(usize::from(raw)).map(|(state, _)| *state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_query_reads_its_own_bits() {
        let queries = [Status::held, Status::offloaded, Status::dnat, Status::answered, Status::assured];
        let read = |bits| queries.map(|query| query(Status(bits)));
        assert_eq!(read(0), [false; 5]);
        assert_eq!(read(!0), [true; 5]);
        assert_eq!(read(Status::FIXED_TIMEOUT), [true, false, false, false, false]);
        assert_eq!(read(Status::OFFLOAD), [true, true, false, false, false]);
        assert_eq!(read(Status::HW_OFFLOAD), [true, true, false, false, false]);
        assert_eq!(read(Status::DST_NAT), [false, false, true, false, false]);
        assert_eq!(read(Status::SEEN_REPLY), [false, false, false, true, false]);
        assert_eq!(read(Status::ASSURED), [false, false, false, false, true]);
    }

    #[test]
    fn tcp_states_have_the_numbers_of_the_kernel() {
        for (number, (state, name)) in (0..).zip(STATES) {
            assert_eq!(state as u8, number);
            assert_eq!(TcpState::from_raw(number), Some(state));
            assert_eq!(state.name(), name);
            assert_eq!(state.is_open(), (3..=6).contains(&number), "{name}");
        }
        assert_eq!(TcpState::from_raw(10), None);
    }
}
