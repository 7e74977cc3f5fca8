//! Values of expressions, and comparisons with them. Three results: yes, no, and `None` for what is not known.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::Value as Json;

use crate::config::Prefix;

/// The value of an expression for a packet.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    /// The packet has no such field: the rule does not match, whatever is compared.
    Absent,
    Word(String),
    Number(u64),
    Ip(IpAddr),
    Interface {
        name: String,
        index: u32,
    },
    /// Bits by their names.
    Flags(BTreeSet<String>),
    /// Several values, some of which may not be known.
    Concat(Vec<Option<Value>>),
}

impl Value {
    pub(super) fn word(word: &str) -> Value {
        Value::Word(word.to_owned())
    }

    pub(super) fn flags(names: &[&str]) -> Value {
        Value::Flags(names.iter().copied().map(str::to_owned).collect())
    }

    /// A literal of JSON: an address, a number or a name.
    pub(super) fn literal(json: &Json) -> Option<Value> {
        match json {
            Json::Number(number) => number.as_u64().map(Value::Number),
            Json::String(text) => Some(text.parse().map_or_else(|_| Value::word(text), Value::Ip)),
            _ => None,
        }
    }

    /// Whether an element, a range or a list of them contains the value.
    pub(super) fn is_in(&self, right: &Json) -> Option<bool> {
        match right {
            Json::Array(elements) => self.is_one_of(elements),
            Json::Object(object) => {
                let (kind, inner) = object.iter().next()?;
                match (kind.as_str(), self) {
                    ("set" | "|", _) => self.is_in(inner),
                    ("elem", _) => self.is_in(&inner["val"]),
                    ("concat", Value::Concat(values)) => {
                        let parts = inner.as_array().filter(|parts| parts.len() == values.len())?;
                        all(values.iter().zip(parts).map(|(value, part)| value.as_ref()?.is_in(part)))
                    }
                    ("prefix", Value::Ip(ip)) => {
                        let length = u8::try_from(inner["len"].as_u64()?).ok()?;
                        let address: IpAddr = inner["addr"].as_str()?.parse().ok()?;
                        let valid = length <= if address.is_ipv4() { 32 } else { 128 };
                        let around = |ip| Prefix::around(ip, length);
                        Some(valid && ip.is_ipv4() == address.is_ipv4() && around(*ip) == around(address))
                    }
                    ("range", Value::Number(number)) => {
                        Some((inner[0].as_u64()?..=inner[1].as_u64()?).contains(number))
                    }
                    ("range", Value::Ip(ip)) => {
                        let bound = |at: usize| inner[at].as_str()?.parse::<IpAddr>().ok();
                        Some((bound(0)?..=bound(1)?).contains(ip))
                    }
                    _ => None,
                }
            }
            Json::String(text) if text.starts_with('@') => None,
            Json::String(text) if text == "*" => Some(true),
            Json::String(text) => match self {
                Value::Word(word) => Some(text == word),
                // A name can end in a star, and nft lists the index of an interface that is not there.
                Value::Interface { name, index } => Some(match text.strip_suffix('*') {
                    Some(start) => name.starts_with(start),
                    None => text == name || *text == index.to_string(),
                }),
                Value::Flags(bits) => Some(bits.contains(text)),
                Value::Ip(ip) => text.parse::<IpAddr>().ok().map(|other| other == *ip),
                _ => None,
            },
            Json::Number(number) => match self {
                Value::Number(known) => Some(number.as_u64() == Some(*known)),
                Value::Interface { index, .. } => Some(number.as_u64() == Some((*index).into())),
                Value::Flags(bits) if number.as_u64() == Some(0) => Some(bits.is_empty()),
                // A protocol can be written as its number.
                Value::Word(word) if word == "tcp" => Some(number.as_u64() == Some(6)),
                Value::Word(word) if word == "udp" => Some(number.as_u64() == Some(17)),
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether any of these elements contains the value.
    pub(super) fn is_one_of(&self, elements: &[Json]) -> Option<bool> {
        all(elements.iter().map(|element| self.is_in(element).map(|is| !is))).map(|none| !none)
    }

    /// Whether two values are in an order, such as `<`.
    pub(super) fn is_ordered(&self, order: &str, right: &Json) -> Option<bool> {
        let Value::Number(left) = self else { return None };
        let found = left.cmp(&right.as_u64()?);
        match order {
            "<" => Some(found.is_lt()),
            ">" => Some(found.is_gt()),
            "<=" => Some(found.is_le()),
            ">=" => Some(found.is_ge()),
            _ => None,
        }
    }
}

/// The names of bits: one, a list of them, or several joined by `|`.
pub(super) fn bits(json: &Json) -> Option<BTreeSet<String>> {
    match json {
        Json::String(name) => Some([name.clone()].into()),
        Json::Array(names) => names.iter().map(bits).try_fold(BTreeSet::new(), |all, names| Some(&all | &names?)),
        Json::Object(object) => bits(object.get("|")?),
        Json::Number(number) if number.as_u64() == Some(0) => Some(BTreeSet::new()),
        _ => None,
    }
}

fn all(results: impl Iterator<Item = Option<bool>>) -> Option<bool> {
    let mut all = Some(true);
    for result in results {
        match result {
            Some(false) => return Some(false),
            Some(true) => {}
            None => all = None,
        }
    }
    all
}
