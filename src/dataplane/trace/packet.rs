//! The fields of a packet that rules can match.

use std::net::{IpAddr, SocketAddr};

use serde_json::Value as Json;

use super::value::Value;
use crate::config::Protocol;
use crate::ids::Family;
use crate::netlink::link::Link;

/// An interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interface<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its index.
    pub index: u32,
}

impl Interface<'_> {
    /// None: the incoming interface in `output`, the outgoing one in `prerouting` and `input`.
    pub const NONE: Interface<'static> = Interface { name: "", index: 0 };

    /// The loopback interface.
    pub const LOOPBACK: Interface<'static> = Interface { name: "lo", index: 1 };
}

impl<'a> From<&'a Link> for Interface<'a> {
    fn from(link: &'a Link) -> Interface<'a> {
        Interface { name: &link.name, index: link.index }
    }
}

impl From<Interface<'_>> for Value {
    fn from(Interface { name, index }: Interface<'_>) -> Value {
        Value::Interface { name: name.to_owned(), index }
    }
}

/// A packet of a new flow, at one hook. A field that is `None` is not known.
#[derive(Debug, Clone)]
pub struct Packet<'a> {
    /// Its protocol.
    pub protocol: Protocol,
    /// Its source.
    pub source: Option<SocketAddr>,
    /// Its destination at this hook.
    pub destination: SocketAddr,
    /// Its destination before a DNAT, if there was one. An unspecified address is not known.
    pub translated_from: Option<SocketAddr>,
    /// The interface by which it came.
    pub input: Option<Interface<'a>>,
    /// The interface by which it leaves.
    pub output: Option<Interface<'a>>,
    /// Its place in a TCP connection.
    pub segment: Segment,
    /// The type of its source in the routing tables, such as `local` or `unicast`.
    pub source_type: Option<&'a str>,
    /// The same of its destination.
    pub destination_type: Option<&'a str>,
}

/// Place of a packet in a TCP connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Segment {
    /// The first SYN.
    First,
    /// In the middle of a connection that conntrack does not know.
    Middle,
}

impl Packet<'_> {
    /// Value of a `meta` expression.
    pub(super) fn meta(&self, key: &str) -> Option<Value> {
        let family = Family::of(self.destination.ip());
        match key {
            "l4proto" => Some(Value::word(self.protocol.name())),
            "nfproto" => Some(Value::word(if family == Family::V4 { "ipv4" } else { "ipv6" })),
            "protocol" => Some(Value::word(if family == Family::V4 { "ip" } else { "ip6" })),
            "iifname" | "iif" => self.input.map(Value::from),
            "oifname" | "oif" => self.output.map(Value::from),
            _ => None,
        }
    }

    /// Value of a field of a header.
    pub(super) fn field(&self, protocol: &str, field: &str) -> Option<Value> {
        let family = Family::of(self.destination.ip());
        match (protocol, field) {
            ("ip", _) if family != Family::V4 => Some(Value::Absent),
            ("ip6", _) if family != Family::V6 => Some(Value::Absent),
            ("ip" | "ip6", "daddr") => Some(Value::Ip(self.destination.ip())),
            ("ip" | "ip6", "saddr") => Some(Value::Ip(self.source?.ip())),
            ("ip", "protocol") | ("ip6", "nexthdr") => Some(Value::word(self.protocol.name())),
            ("th" | "tcp" | "udp", _) if protocol != "th" && protocol != self.protocol.name() => Some(Value::Absent),
            ("th" | "tcp" | "udp", "dport") => Some(Value::Number(self.destination.port().into())),
            ("th" | "tcp" | "udp", "sport") => Some(Value::Number(self.source?.port().into())),
            ("tcp", "flags") if self.segment == Segment::First => Some(Value::flags(&["syn"])),
            ("tcp", "flags") => Some(Value::flags(&["ack"])),
            ("th" | "tcp" | "udp" | "ip" | "ip6", _) => None,
            // Neither ICMP nor anything else.
            _ => Some(Value::Absent),
        }
    }

    /// Value of a `ct` expression.
    pub(super) fn ct(&self, key: &str, direction: Option<&str>) -> Option<Value> {
        let original = self.translated_from.unwrap_or(self.destination);
        let address = |ip: IpAddr| (!ip.is_unspecified()).then_some(Value::Ip(ip));
        match (key, direction) {
            ("state", _) => Some(Value::flags(&["new"])),
            // Source translation follows later.
            ("status", _) => Some(Value::flags(if self.translated_from.is_some() { &["dnat"] } else { &[] })),
            ("direction", _) => Some(Value::word("original")),
            ("l3proto", _) => self.meta("nfproto"),
            ("protocol", _) => self.meta("l4proto"),
            ("ip daddr", Some("original")) if original.is_ipv6() => Some(Value::Absent),
            ("ip6 daddr", Some("original")) if original.is_ipv4() => Some(Value::Absent),
            ("ip daddr" | "ip6 daddr" | "daddr", Some("original")) => address(original.ip()),
            ("proto-dst", Some("original")) => Some(Value::Number(original.port().into())),
            _ => None,
        }
    }

    /// Value of a `fib` expression.
    pub(super) fn fib(&self, fib: &Json) -> Option<Value> {
        let flags = &fib["flags"];
        let of = match flags.as_array().map(Vec::as_slice) {
            Some([flag]) => flag.as_str()?,
            Some(_) => return None,
            None => flags.as_str()?,
        };
        match (fib["result"].as_str()?, of) {
            ("type", "saddr") => self.source_type.map(Value::word),
            ("type", "daddr") => self.destination_type.map(Value::word),
            _ => None,
        }
    }
}
