//! One conntrack entry, as read from a message; nothing is allocated for it.

use super::numbers::cta;
use super::status::{Status, TcpState};
use super::tuple::{Key, TUPLE_ZONE, Tuple};
use crate::config::Protocol;
use crate::netlink::message::Attributes;
use crate::netlink::netfilter::HEADER;

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
    /// Direction of the client's packets, before any translation. With [`zone`](Entry::zone) and protocol, it identifies the
    /// flow.
    pub original: Tuple,
    /// Direction of the replies, before their translation: for a DNATed flow its source is the backend.
    pub reply: Tuple,
    /// The status bits.
    pub status: Status,
    /// Seconds until the entry expires if no more packets come, rounded down; `None` in some events and while the flow is
    /// [offloaded](Status::offloaded).
    pub timeout: Option<u32>,
    /// State of the connection; `None` for UDP, in events that are not about it and while the flow is
    /// [offloaded](Status::offloaded).
    pub tcp_state: Option<TcpState>,
    /// The conntrack zone of the original direction; 0 where zones are not used.
    pub zone: u16,
    /// Tells apart entries that follow each other under the same tuple; no more than that.
    pub id: u32,
    /// Traffic of the client; `None` unless `net.netfilter.nf_conntrack_acct` is on.
    pub sent: Option<Counters>,
    /// Traffic of the replies; as for [`sent`](Entry::sent).
    pub received: Option<Counters>,
    /// Start of the flow, in nanoseconds since 1970; `None` unless `net.netfilter.nf_conntrack_timestamp` is on.
    pub start: Option<u64>,
}

/// Traffic in one direction (`CTA_COUNTERS_...`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counters {
    /// Packets.
    pub packets: u64,
    /// Bytes, from the network header on.
    pub bytes: u64,
}

impl Entry {
    /// Identity of the flow.
    pub fn key(&self) -> Key {
        Key { protocol: self.protocol, original: self.original, zone: self.zone }
    }

    /// True if the backend sees another address than the client's.
    pub fn is_masqueraded(&self) -> bool {
        self.reply.destination.ip() != self.original.source.ip()
    }

    /// The entry in a message's payload; `None` unless it is a whole one of TCP or UDP.
    pub fn parse(payload: &[u8]) -> Option<Entry> {
        let attributes = Attributes::after(payload, HEADER);
        let original = attributes.find(cta::TUPLE_ORIG)?;
        // A zone can belong to one direction only; then it is inside that direction's tuple.
        let zone = attributes.be16(cta::ZONE).or_else(|| Attributes::nested(original).be16(TUPLE_ZONE));
        let (protocol, original) = Tuple::parse(original)?;
        let counters = |kind| Counters::parse(&attributes.find_nested(kind)?);
        Some(Entry {
            protocol,
            original,
            reply: Tuple::parse(attributes.find(cta::TUPLE_REPLY)?)?.1,
            status: Status(attributes.be32(cta::STATUS)?),
            timeout: attributes.be32(cta::TIMEOUT),
            tcp_state: tcp_state(&attributes),
            zone: zone.unwrap_or(0),
            id: attributes.be32(cta::ID)?,
            sent: counters(cta::COUNTERS_ORIG),
            received: counters(cta::COUNTERS_REPLY),
            start: attributes.find_nested(cta::TIMESTAMP).and_then(|times| times.be64(TIMESTAMP_START)),
        })
    }
}

impl Counters {
    fn parse(counters: &Attributes<'_>) -> Option<Counters> {
        Some(Counters { packets: counters.be64(COUNTERS_PACKETS)?, bytes: counters.be64(COUNTERS_BYTES)? })
    }
}

fn tcp_state(entry: &Attributes<'_>) -> Option<TcpState> {
    let state = entry.find_nested(cta::PROTOINFO)?.find_nested(PROTOINFO_TCP)?.find(PROTOINFO_TCP_STATE)?;
    TcpState::from_raw(*state.first()?)
}

#[cfg(test)]
mod tests;
