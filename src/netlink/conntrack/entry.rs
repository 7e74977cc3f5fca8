//! One conntrack entry, as read from a message; nothing is allocated for it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{GENERIC_HEADER, cta};
use crate::config::Protocol;
use crate::netlink::message::{Attributes, Request};

/// `enum ctattr_tuple`.
const TUPLE_IP: u16 = 1;
pub(super) const TUPLE_PROTO: u16 = 2;
const TUPLE_ZONE: u16 = 3;
/// `enum ctattr_ip`.
const IP_V4_SRC: u16 = 1;
const IP_V4_DST: u16 = 2;
const IP_V6_SRC: u16 = 3;
const IP_V6_DST: u16 = 4;
/// `enum ctattr_l4proto`.
pub(super) const PROTO_NUM: u16 = 1;
const PROTO_SRC_PORT: u16 = 2;
pub(super) const PROTO_DST_PORT: u16 = 3;
/// `enum ctattr_protoinfo` and `ctattr_protoinfo_tcp`.
const PROTOINFO_TCP: u16 = 1;
const PROTOINFO_TCP_STATE: u16 = 1;
/// `enum ctattr_counters`.
const COUNTERS_PACKETS: u16 = 1;
const COUNTERS_BYTES: u16 = 2;
/// `enum ctattr_tstamp`.
const TIMESTAMP_START: u16 = 1;

/// One TCP or UDP flow in the conntrack table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The transport protocol.
    pub protocol: Protocol,
    /// The client's packets, as they were before any translation: with [`zone`](Entry::zone) and protocol, what
    /// identifies the flow.
    pub original: Tuple,
    /// The answers, as they come in: for a DNATed flow its source is the backend.
    pub reply: Tuple,
    /// What happened to the flow.
    pub status: Status,
    /// Seconds until the entry expires if no more packets come, rounded down; `None` in some events and while the flow is
    /// [offloaded](Status::offloaded).
    pub timeout: Option<u32>,
    /// State of the connection; `None` for UDP, in events that are not about it and while the flow is
    /// [offloaded](Status::offloaded).
    pub tcp_state: Option<TcpState>,
    /// The conntrack zone of the original direction; 0 where zones are not used.
    pub zone: u16,
    /// Differs between entries that follow each other under the same tuple; no more than that.
    pub id: u32,
    /// The client's packets so far; `None` unless `net.netfilter.nf_conntrack_acct` is on.
    pub sent: Option<Counters>,
    /// The answers so far; as for [`sent`](Entry::sent).
    pub received: Option<Counters>,
    /// When the flow began, in nanoseconds since 1970; `None` unless `net.netfilter.nf_conntrack_timestamp` is on.
    pub start: Option<u64>,
}

/// One direction of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tuple {
    /// Who sends.
    pub source: SocketAddr,
    /// To whom.
    pub destination: SocketAddr,
}

/// What identifies a flow at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    /// The transport protocol.
    pub protocol: Protocol,
    /// The client's packets, as they were before any translation.
    pub original: Tuple,
    /// The conntrack zone of the original direction.
    pub zone: u16,
}

/// How much went one way (`CTA_COUNTERS_...`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counters {
    /// Packets.
    pub packets: u64,
    /// Bytes, from the network header on.
    pub bytes: u64,
}

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

    /// Whether another program has set the entry's lifetime: an operator, or the owner of the flowtable that the packets pass.
    pub fn held(self) -> bool {
        self.0 & Status::FIXED_TIMEOUT != 0 || self.offloaded()
    }

    /// Whether the packets pass a flowtable. While they do, conntrack does not see them, and netlink shows neither the entry's
    /// timeout nor its TCP state.
    pub fn offloaded(self) -> bool {
        self.0 & (Status::OFFLOAD | Status::HW_OFFLOAD) != 0
    }

    /// Whether the destination was translated.
    pub fn dnat(self) -> bool {
        self.0 & Status::DST_NAT != 0
    }

    /// Whether a packet has come back.
    pub fn answered(self) -> bool {
        self.0 & Status::SEEN_REPLY != 0
    }

    /// Whether packets went both ways for long enough that a full table spares the entry.
    pub fn assured(self) -> bool {
        self.0 & Status::ASSURED != 0
    }
}

/// `enum tcp_conntrack` (`linux/netfilter/nf_conntrack_tcp.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TcpState {
    /// Not known yet.
    None,
    /// The first SYN went by.
    SynSent,
    /// It was answered with SYN-ACK.
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

impl TcpState {
    /// Whether the handshake is complete and the connection not over.
    pub fn is_open(self) -> bool {
        matches!(self, TcpState::Established | TcpState::FinWait | TcpState::CloseWait | TcpState::LastAck)
    }

    /// What it is called, as conntrack(8) does.
    pub fn name(self) -> &'static str {
        match self {
            TcpState::None => "NONE",
            TcpState::SynSent => "SYN_SENT",
            TcpState::SynRecv => "SYN_RECV",
            TcpState::Established => "ESTABLISHED",
            TcpState::FinWait => "FIN_WAIT",
            TcpState::CloseWait => "CLOSE_WAIT",
            TcpState::LastAck => "LAST_ACK",
            TcpState::TimeWait => "TIME_WAIT",
            TcpState::Close => "CLOSE",
            TcpState::SynSent2 => "SYN_SENT2",
        }
    }

    fn from_raw(raw: u8) -> Option<TcpState> {
        Some(match raw {
            0 => TcpState::None,
            1 => TcpState::SynSent,
            2 => TcpState::SynRecv,
            3 => TcpState::Established,
            4 => TcpState::FinWait,
            5 => TcpState::CloseWait,
            6 => TcpState::LastAck,
            7 => TcpState::TimeWait,
            8 => TcpState::Close,
            9 => TcpState::SynSent2,
            _ => return None,
        })
    }
}

impl Entry {
    /// What identifies it.
    pub fn key(&self) -> Key {
        Key { protocol: self.protocol, original: self.original, zone: self.zone }
    }

    /// Whether the backend sees another address than the client's.
    pub fn is_masqueraded(&self) -> bool {
        self.reply.destination.ip() != self.original.source.ip()
    }

    /// The entry in a message's payload; `None` if it is of a protocol other than TCP and UDP, or not whole.
    pub fn parse(payload: &[u8]) -> Option<Entry> {
        let (mut original, mut reply, mut status, mut id) = (None, None, None, None);
        let (mut timeout, mut tcp_state, mut start) = (None, None, None);
        let (mut sent, mut received) = (None, None);
        let (mut zone, mut tuple_zone) = (None, None);
        for (kind, value) in Attributes::after(payload, GENERIC_HEADER) {
            match kind {
                cta::TUPLE_ORIG => {
                    tuple_zone = Attributes::nested(value).find(TUPLE_ZONE).and_then(be16);
                    original = Some(Tuple::parse(value)?);
                }
                cta::TUPLE_REPLY => reply = Some(Tuple::parse(value)?.1),
                cta::STATUS => status = Some(Status(be32(value)?)),
                cta::ID => id = Some(be32(value)?),
                cta::ZONE => zone = be16(value),
                cta::TIMEOUT => timeout = be32(value),
                cta::PROTOINFO => tcp_state = parse_tcp_state(value),
                cta::COUNTERS_ORIG => sent = Counters::parse(value),
                cta::COUNTERS_REPLY => received = Counters::parse(value),
                cta::TIMESTAMP => start = Attributes::nested(value).find(TIMESTAMP_START).and_then(be64),
                _ => {}
            }
        }
        let (protocol, original) = original?;
        Some(Entry {
            protocol,
            original,
            reply: reply?,
            status: status?,
            timeout,
            tcp_state,
            // A zone can belong to one direction only; then it is inside that direction's tuple.
            zone: zone.or(tuple_zone).unwrap_or(0),
            id: id?,
            sent,
            received,
            start,
        })
    }
}

impl Tuple {
    pub(in crate::netlink) fn parse(value: &[u8]) -> Option<(Protocol, Tuple)> {
        let (mut source, mut destination) = (None, None);
        let (mut protocol, mut source_port, mut destination_port) = (None, None, None);
        for (kind, value) in Attributes::nested(value) {
            match kind {
                TUPLE_IP => {
                    for (kind, value) in Attributes::nested(value) {
                        match kind {
                            IP_V4_SRC | IP_V6_SRC => source = ip(value),
                            IP_V4_DST | IP_V6_DST => destination = ip(value),
                            _ => {}
                        }
                    }
                }
                TUPLE_PROTO => {
                    for (kind, value) in Attributes::nested(value) {
                        match kind {
                            PROTO_NUM => protocol = parse_protocol(value),
                            PROTO_SRC_PORT => source_port = be16(value),
                            PROTO_DST_PORT => destination_port = be16(value),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        let source = SocketAddr::new(source?, source_port?);
        let destination = SocketAddr::new(destination?, destination_port?);
        Some((protocol?, Tuple { source, destination }))
    }

    /// Appends the tuple as an attribute of this type.
    pub(in crate::netlink) fn put(&self, request: Request, kind: u16, protocol: Protocol) -> Request {
        request.nested(kind, |tuple| {
            let put_ip = |nest: Request, ip: IpAddr, v4: u16, v6: u16| match ip {
                IpAddr::V4(ip) => nest.attribute(v4, &ip.octets()),
                IpAddr::V6(ip) => nest.attribute(v6, &ip.octets()),
            };
            tuple
                .nested(TUPLE_IP, |nest| {
                    let nest = put_ip(nest, self.source.ip(), IP_V4_SRC, IP_V6_SRC);
                    put_ip(nest, self.destination.ip(), IP_V4_DST, IP_V6_DST)
                })
                .nested(TUPLE_PROTO, |nest| {
                    nest.attribute(PROTO_NUM, &[protocol.number()])
                        .attribute(PROTO_SRC_PORT, &self.source.port().to_be_bytes())
                        .attribute(PROTO_DST_PORT, &self.destination.port().to_be_bytes())
                })
        })
    }
}

impl Counters {
    fn parse(value: &[u8]) -> Option<Counters> {
        let find = |kind| Attributes::nested(value).find(kind).and_then(be64);
        Some(Counters { packets: find(COUNTERS_PACKETS)?, bytes: find(COUNTERS_BYTES)? })
    }
}

fn parse_tcp_state(value: &[u8]) -> Option<TcpState> {
    let state = Attributes::nested(Attributes::nested(value).find(PROTOINFO_TCP)?).find(PROTOINFO_TCP_STATE)?;
    TcpState::from_raw(*state.first()?)
}

fn parse_protocol(value: &[u8]) -> Option<Protocol> {
    let number = *value.first()?;
    [Protocol::Tcp, Protocol::Udp].into_iter().find(|protocol| protocol.number() == number)
}

fn ip(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => Some(IpAddr::V4(Ipv4Addr::from(*value.first_chunk()?))),
        16 => Some(IpAddr::V6(Ipv6Addr::from(*value.first_chunk()?))),
        _ => None,
    }
}

fn be16(value: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(value.try_into().ok()?))
}

fn be32(value: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(value.try_into().ok()?))
}

fn be64(value: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(value.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A DNATed TCP connection, as Linux 6.18 dumped it.
    const TCP: &str = "020000003400018014000180080001000a090002080002000a0900011c0002800500010006000000060002\
        00b512000006000300005000003400028014000180080001000a090001080002000a0900021c00028005000100060000000600020\
        01f90000006000300b512000008000300000001ae080008000000000008000c009321986508000b0000000001080007000006977f\
        300004802c0001800500010003000000050002000a000000050003000a00000006000400230000000600050023000000";

    /// A UDP flow in zone 7 with counters and its start, as Linux 6.18 dumped it.
    const UDP: &str = "020000003400018014000180080001000a090002080002000a0900011c0002800500010011000000060002\
        008c13000006000300232800003400028014000180080001000a090001080002000a0900021c00028005000100110000000600020\
        023280000060003008c1300000600120000070000080003000000018a080008000000000008000c00e3c4c8fb08000b0000000001\
        080007000000001d1c0009800c00010000000000000000010c000200000000000000001d1c000a800c00010000000000000000010\
        c000200000000000000001d100014800c00010018ea980fcdca7bef";

    fn bytes(hex: &str) -> Vec<u8> {
        let digit = |digit: u8| char::from(digit).to_digit(16).expect("a digit") as u8;
        hex.as_bytes().chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
    }

    #[test]
    fn a_tcp_entry() {
        let entry = Entry::parse(&bytes(TCP)).expect("whole");
        assert_eq!(entry.protocol, Protocol::Tcp);
        assert_eq!(entry.original.source, "10.9.0.2:46354".parse().expect("an address"));
        assert_eq!(entry.original.destination, "10.9.0.1:80".parse().expect("an address"));
        assert_eq!(entry.reply.source, "10.9.0.1:8080".parse().expect("an address"));
        assert_eq!(entry.reply.destination, entry.original.source);
        assert!(entry.status.dnat() && entry.status.answered() && entry.status.assured());
        assert_eq!((entry.timeout, entry.tcp_state, entry.zone), (Some(431_999), Some(TcpState::Established), 0));
        assert_eq!((entry.sent, entry.received, entry.start), (None, None, None));
    }

    /// [`TCP`] as kernels dump it while it passes a flowtable: with the bit, and without CTA_TIMEOUT and CTA_PROTOINFO
    /// (`ctnetlink_dump_extinfo` and `ctnetlink_fill_info` leave them out).
    #[test]
    fn an_entry_in_a_flowtable_has_neither_timeout_nor_state() {
        let whole = bytes(TCP);
        for bits in [Status::OFFLOAD, Status::OFFLOAD | Status::HW_OFFLOAD] {
            let mut shown = whole[..GENERIC_HEADER].to_vec();
            for (kind, value) in Attributes::after(&whole, GENERIC_HEADER) {
                let nested = matches!(kind, cta::TUPLE_ORIG | cta::TUPLE_REPLY);
                let value = match kind {
                    cta::TIMEOUT | cta::PROTOINFO => continue,
                    cta::STATUS => (be32(value).expect("a number") | bits).to_be_bytes().to_vec(),
                    _ => value.to_vec(),
                };
                assert_eq!(value.len() % 4, 0, "no padding is needed");
                shown.extend((value.len() as u16 + 4).to_ne_bytes());
                shown.extend((kind | if nested { 0x8000 } else { 0 }).to_ne_bytes());
                shown.extend(value);
            }
            let entry = Entry::parse(&shown).expect("whole");
            assert!(entry.status.offloaded() && entry.status.held() && entry.status.answered() && entry.status.dnat());
            assert_eq!((entry.timeout, entry.tcp_state), (None, None));
            assert_eq!(entry.key(), Entry::parse(&whole).expect("whole").key());
        }
        assert!(!Entry::parse(&whole).expect("whole").status.offloaded());
    }

    #[test]
    fn a_udp_entry() {
        let entry = Entry::parse(&bytes(UDP)).expect("whole");
        assert_eq!((entry.protocol, entry.zone, entry.tcp_state), (Protocol::Udp, 7, None));
        assert!(!entry.status.dnat() && entry.status.answered() && !entry.status.assured());
        assert_eq!(entry.sent, Some(Counters { packets: 1, bytes: 29 }));
        assert_eq!(entry.received, entry.sent);
        assert_eq!(entry.start, Some(0x18ea_980f_cdca_7bef));
    }

    #[test]
    fn what_is_cut_short_is_no_entry_or_the_same_with_less() {
        for whole in [bytes(TCP), bytes(UDP)] {
            let entry = Entry::parse(&whole).expect("whole");
            let mut complete = 0;
            for end in 0..whole.len() {
                let Some(cut) = Entry::parse(&whole[..end]) else { continue };
                assert_eq!((cut.original, cut.reply, cut.id), (entry.original, entry.reply, entry.id), "{end}");
                complete += 1;
            }
            assert!(complete < whole.len() / 2);
        }
    }

    #[test]
    fn garbled_messages_are_read_without_a_panic() {
        let mut state = 1u32;
        let mut random = move || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as usize
        };
        for _ in 0..20_000 {
            let mut garbled = bytes(if random() % 2 == 0 { TCP } else { UDP });
            for _ in 0..1 + random() % 4 {
                let at = random() % garbled.len();
                garbled[at] = random() as u8;
            }
            let _ = Entry::parse(&garbled);
        }
    }

    #[test]
    fn other_protocols_are_no_entries() {
        for number in [1, 33, 58, 132, 136] {
            let mut other = bytes(UDP);
            let at = other.iter().position(|&byte| byte == 17).expect("the protocol");
            other[at] = number;
            assert_eq!(Entry::parse(&other), None, "{number}");
        }
    }

    #[test]
    fn a_tuple_is_written_as_it_is_read() {
        for (source, destination) in [("10.0.0.1:5", "192.0.2.3:80"), ("[fd00::1]:7", "[2001:db8::2]:443")] {
            let (source, destination) = (source.parse().expect("one"), destination.parse().expect("one"));
            let tuple = Tuple { source, destination };
            let mut request = tuple.put(Request::new(0, &[0; GENERIC_HEADER]), cta::TUPLE_ORIG, Protocol::Udp);
            let bytes = request.finish(neli::consts::nl::NlmF::empty(), 0);
            let value = Attributes::after(bytes, 16 + GENERIC_HEADER).find(cta::TUPLE_ORIG).expect("the tuple");
            assert_eq!(Tuple::parse(value), Some((Protocol::Udp, tuple)));
        }
    }
}
