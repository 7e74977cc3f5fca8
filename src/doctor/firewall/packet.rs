//! What is known of a packet of ours, and whether it matches an expression of a rule (libnftables-json(5)).
//!
//! Three answers: yes, no, and `None` for what nobody can know beforehand, such as the client's address.

use std::net::{IpAddr, SocketAddr};

use serde_json::Value;

use crate::config::Protocol;

/// The first packet of a flow, at one hook.
#[derive(Debug, Clone)]
pub(super) struct Packet<'a> {
    pub protocol: Protocol,
    /// Where it goes to at this hook.
    pub destination: SocketAddr,
    /// Where the client has sent it to, if that is one address.
    pub original: SocketAddr,
    /// Whether it has been translated.
    pub dnat: bool,
    /// The interface that it has come in by.
    pub input: Option<&'a str>,
    /// The interface that it leaves by.
    pub output: Option<&'a str>,
}

/// A value that an expression has for a packet.
#[derive(Debug, Clone, PartialEq)]
enum Known {
    /// The packet has no such field: the rule does not match, whatever is compared.
    Absent,
    Word(String),
    Number(u64),
    Ip(IpAddr),
    /// Bits by their names.
    Flags(Vec<String>),
}

impl Packet<'_> {
    /// Whether the packet matches a `match` statement.
    pub(super) fn matches(&self, statement: &Value) -> Option<bool> {
        let known = self.value(&statement["left"])?;
        if known == Known::Absent {
            return Some(false);
        }
        let right = &statement["right"];
        match (statement["op"].as_str()?, &known) {
            ("==" | "in", _) => contains(right, &known),
            // All bits of a status are compared, and some of them have no name.
            ("!=", Known::Flags(_)) if statement["left"].pointer("/ct/key") == Some(&"status".into()) => None,
            ("!=" | "!", _) => contains(right, &known).map(|found| !found),
            (order, Known::Number(number)) => {
                let bound = right.as_u64()?;
                match order {
                    "<" => Some(*number < bound),
                    ">" => Some(*number > bound),
                    "<=" => Some(*number <= bound),
                    ">=" => Some(*number >= bound),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    /// Whether the packet's key is this element of a verdict map.
    pub(super) fn is_element(&self, key: &Value, element: &Value) -> Option<bool> {
        match self.value(key)? {
            Known::Absent => Some(false),
            known => contains(element, &known),
        }
    }

    fn value(&self, left: &Value) -> Option<Known> {
        let (kind, inner) = left.as_object()?.iter().next()?;
        match kind.as_str() {
            "meta" => self.meta(inner["key"].as_str()?),
            "payload" => self.field(inner["protocol"].as_str()?, inner["field"].as_str()?),
            "ct" => self.ct(inner["key"].as_str()?, inner["dir"].as_str()),
            "&" => {
                let (Known::Flags(bits), mask) = (self.value(&inner[0])?, &inner[1]) else { return None };
                let masked = |bit: &String| contains(mask, &Known::Word(bit.clone())) == Some(true);
                Some(Known::Flags(bits.into_iter().filter(masked).collect()))
            }
            _ => None,
        }
    }

    fn meta(&self, key: &str) -> Option<Known> {
        let ipv4 = self.destination.is_ipv4();
        let interface = |name: Option<&str>| name.map(|name| Known::Word(name.to_owned()));
        match key {
            "l4proto" => Some(Known::Word(self.protocol.name().to_owned())),
            "nfproto" => Some(Known::Word(if ipv4 { "ipv4" } else { "ipv6" }.to_owned())),
            "protocol" => Some(Known::Word(if ipv4 { "ip" } else { "ip6" }.to_owned())),
            "iifname" | "iif" => interface(self.input),
            "oifname" | "oif" => interface(self.output),
            _ => None,
        }
    }

    fn field(&self, protocol: &str, field: &str) -> Option<Known> {
        let ipv4 = self.destination.is_ipv4();
        match (protocol, field) {
            ("ip", _) if !ipv4 => Some(Known::Absent),
            ("ip6", _) if ipv4 => Some(Known::Absent),
            ("ip" | "ip6", "daddr") => Some(Known::Ip(self.destination.ip())),
            ("ip", "protocol") | ("ip6", "nexthdr") => Some(Known::Word(self.protocol.name().to_owned())),
            ("th" | "tcp" | "udp", _) if protocol != "th" && protocol != self.protocol.name() => Some(Known::Absent),
            ("th" | "tcp" | "udp", "dport") => Some(Known::Number(self.destination.port().into())),
            ("tcp", "flags") => Some(Known::Flags(vec!["syn".to_owned()])),
            ("th" | "tcp" | "udp" | "ip" | "ip6", _) => None,
            // Neither ICMP nor anything else.
            _ => Some(Known::Absent),
        }
    }

    fn ct(&self, key: &str, direction: Option<&str>) -> Option<Known> {
        let flag = |name: &str| Some(Known::Flags(vec![name.to_owned()]));
        let original = self.original;
        match (key, direction) {
            ("state", _) => flag("new"),
            // Nothing is known of source translation.
            ("status", _) if self.dnat => flag("dnat"),
            ("status", _) => Some(Known::Flags(Vec::new())),
            ("direction", _) => Some(Known::Word("original".to_owned())),
            ("l3proto", _) => self.meta("nfproto"),
            ("protocol", _) => self.meta("l4proto"),
            ("ip daddr", Some("original")) if original.is_ipv6() => Some(Known::Absent),
            ("ip6 daddr", Some("original")) if original.is_ipv4() => Some(Known::Absent),
            ("ip daddr" | "ip6 daddr" | "daddr", Some("original")) => {
                (!original.ip().is_unspecified()).then(|| Known::Ip(original.ip()))
            }
            ("proto-dst", Some("original")) => Some(Known::Number(original.port().into())),
            _ => None,
        }
    }
}

/// Whether what is compared with, a value or a set of them, contains what is known.
fn contains(right: &Value, known: &Known) -> Option<bool> {
    match right {
        Value::Array(elements) => any(elements, known),
        Value::Object(object) => {
            let (kind, inner) = object.iter().next()?;
            match (kind.as_str(), known) {
                ("set" | "|", _) => {
                    inner.as_array().map_or_else(|| contains(inner, known), |elements| any(elements, known))
                }
                ("elem", _) => contains(&inner["val"], known),
                ("prefix", Known::Ip(ip)) => {
                    Some(is_in(*ip, inner["addr"].as_str()?.parse().ok()?, inner["len"].as_u64()?))
                }
                ("range", Known::Number(number)) => Some((inner[0].as_u64()?..=inner[1].as_u64()?).contains(number)),
                ("range", Known::Ip(ip)) => {
                    let bound = |at: usize| inner[at].as_str()?.parse::<IpAddr>().ok();
                    Some((bound(0)?..=bound(1)?).contains(ip))
                }
                _ => None,
            }
        }
        Value::String(text) if text.starts_with('@') => None,
        Value::String(text) if text == "*" => Some(true),
        Value::String(text) => match known {
            Known::Word(word) => Some(is_word(text, word)),
            Known::Flags(bits) => Some(bits.contains(text)),
            Known::Ip(ip) => text.parse::<IpAddr>().ok().map(|other| other == *ip),
            Known::Number(_) | Known::Absent => None,
        },
        Value::Number(number) => match known {
            Known::Number(known) => Some(number.as_u64() == Some(*known)),
            Known::Flags(bits) if number.as_u64() == Some(0) => Some(bits.is_empty()),
            // A protocol can be written as its number.
            Known::Word(word) if word == "tcp" => Some(number.as_u64() == Some(6)),
            Known::Word(word) if word == "udp" => Some(number.as_u64() == Some(17)),
            _ => None,
        },
        _ => None,
    }
}

fn any(elements: &[Value], known: &Known) -> Option<bool> {
    let mut answer = Some(false);
    for element in elements {
        match contains(element, known) {
            Some(true) => return Some(true),
            Some(false) => {}
            None => answer = None,
        }
    }
    answer
}

/// Names of interfaces can end in a star.
fn is_word(pattern: &str, word: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == word, |start| word.starts_with(start))
}

fn is_in(ip: IpAddr, network: IpAddr, length: u64) -> bool {
    let bits = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => (u128::from(u32::from(ip)) << 96, 32),
        IpAddr::V6(ip) => (u128::from(ip), 128),
    };
    let ((ip, width), (network, other)) = (bits(ip), bits(network));
    let mask = u32::try_from(length).ok().and_then(|length| u128::MAX.checked_shl(128 - length)).unwrap_or(0);
    width == other && length <= width && (ip ^ network) & mask == 0
}
