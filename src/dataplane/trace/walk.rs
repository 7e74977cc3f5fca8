//! Follows one packet through a base chain, and the chains that it leads to.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use serde_json::Value as Json;

use super::packet::Packet;
use super::ruleset::{BaseChain, Ruleset};
use super::value::{Value, bits};

/// Maximum depth of jumps that are followed; the kernel allows 16.
const MAX_DEPTH: usize = 32;

/// Maximum number of rules in one walk; beyond it the verdict is not known.
const MAX_STEPS: usize = 100_000;

/// End of a packet's way through a base chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Goes on to the next chain.
    Accept,
    /// Dropped.
    Drop,
    /// Dropped, and its sender is notified.
    Reject(Refusal),
    /// Its flow gets another destination.
    Dnat(SocketAddr),
    /// Its flow gets another source.
    Snat(IpAddr),
    /// Its flow gets the source address of the outgoing interface.
    Masquerade,
}

/// Notification of a sender whose packet is rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// A TCP reset.
    Reset,
    /// An ICMP error.
    Icmp,
}

/// The way of a packet through a base chain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trace {
    /// The possible verdicts: one, unless something was not known.
    pub verdicts: BTreeSet<Verdict>,
    /// The first statement whose result is not known.
    pub unknown: Option<String>,
    /// The NFLOG group that gets the packet.
    pub logged: Option<u64>,
    /// The timeout policy of its flow.
    pub timeout: Option<String>,
    /// Its chains.
    pub path: Vec<String>,
}

impl Trace {
    /// The verdict.
    ///
    /// # Errors
    /// The statement whose result is not known.
    pub fn verdict(&self) -> Result<Verdict, &str> {
        match (&self.unknown, self.verdicts.first()) {
            (None, Some(verdict)) => Ok(*verdict),
            (unknown, _) => Err(unknown.as_deref().unwrap_or("no verdict")),
        }
    }

    /// Whether the packet is dropped, or rejected, in any case.
    pub fn drops(&self) -> bool {
        self.verdicts.iter().all(|verdict| matches!(verdict, Verdict::Drop | Verdict::Reject(_)))
    }
}

/// Possible ways on from a rule, but for verdicts.
#[derive(Debug, Clone, Copy)]
struct Ways {
    /// To the next rule.
    on: bool,
    /// Back to the rule that has jumped here.
    back: bool,
}

impl Ways {
    const NONE: Ways = Ways { on: false, back: false };
    const ON: Ways = Ways { on: true, back: false };
    const BACK: Ways = Ways { on: false, back: true };
    const ANY: Ways = Ways { on: true, back: true };
}

/// A walk in progress.
struct Walk<'r> {
    rules: &'r Ruleset,
    packet: &'r Packet<'r>,
    steps: usize,
    trace: Trace,
}

impl Ruleset {
    /// Traces a packet through a base chain.
    pub fn trace(&self, chain: &BaseChain, packet: &Packet<'_>) -> Trace {
        let mut walk = Walk { rules: self, packet, steps: 0, trace: Trace::default() };
        if walk.chain(&chain.name, 0) {
            walk.trace.verdicts.insert(if chain.drops { Verdict::Drop } else { Verdict::Accept });
        }
        walk.trace
    }
}

impl Walk<'_> {
    /// Walks through a chain. Returns whether the packet can come back from it.
    fn chain(&mut self, name: &str, depth: usize) -> bool {
        self.trace.path.push(name.to_owned());
        let mut back = false;
        let rules = self.rules;
        for rule in rules.chains.get(name).map(Vec::as_slice).unwrap_or_default() {
            self.steps += 1;
            if depth > MAX_DEPTH || self.steps > MAX_STEPS {
                return self.anything("too many rules").back;
            }
            let ways = self.rule(rule, depth);
            back |= ways.back;
            if !ways.on {
                return back;
            }
        }
        true
    }

    /// Every verdict is possible.
    fn anything(&mut self, statement: impl ToString) -> Ways {
        self.trace.unknown.get_or_insert_with(|| statement.to_string());
        self.trace.verdicts.extend([Verdict::Accept, Verdict::Drop]);
        Ways::ANY
    }

    fn rule(&mut self, rule: &Json, depth: usize) -> Ways {
        let mut certain = true;
        for statement in rule.as_array().into_iter().flatten() {
            let Some((kind, inner)) = statement.as_object().and_then(|object| object.iter().next()) else { continue };
            let matched = match kind.as_str() {
                "match" => self.matches(inner),
                // Matches that depend on more than the packet.
                "limit" | "quota" | "ct count" | "meter" | "xt" => None,
                "counter" | "ct helper" | "notrack" | "flow" | "last" | "set" | "map" => Some(true),
                // Marks are not known anyway.
                "mangle" if inner["key"].get("meta").or(inner["key"].get("ct")).is_some() => Some(true),
                "log" => {
                    self.trace.logged = inner["group"].as_u64();
                    Some(true)
                }
                "ct timeout" => {
                    self.trace.timeout = inner.as_str().map(str::to_owned);
                    Some(true)
                }
                _ => match self.terminal(kind, inner, depth) {
                    Some(ways) => return Ways { on: ways.on || !certain, ..ways },
                    None => Some(false),
                },
            };
            match matched {
                Some(true) => {}
                Some(false) => return Ways::ON,
                None => {
                    certain = false;
                    self.trace.unknown.get_or_insert_with(|| statement.to_string());
                }
            }
        }
        Ways::ON
    }

    /// Carries out a statement that ends its rule; `None` if a map has no value for the packet, so that the rule does not
    /// match.
    fn terminal(&mut self, kind: &str, inner: &Json, depth: usize) -> Option<Ways> {
        let target = || inner["target"].as_str().unwrap_or_default();
        let verdict = match kind {
            "accept" => Ok(Verdict::Accept),
            "drop" => Ok(Verdict::Drop),
            "reject" if inner["type"] == "tcp reset" => Ok(Verdict::Reject(Refusal::Reset)),
            "reject" => Ok(Verdict::Reject(Refusal::Icmp)),
            "masquerade" => Ok(Verdict::Masquerade),
            "return" => return Some(Ways::BACK),
            "continue" => return Some(Ways::ON),
            "goto" => return Some(Ways { on: false, back: self.chain(target(), depth + 1) }),
            "jump" => return Some(Ways { on: self.chain(target(), depth + 1), back: false }),
            "vmap" => return Some(self.verdict_map(inner, depth)),
            "dnat" => self.translation(inner)?.map(Verdict::Dnat),
            "snat" => self.translation(inner)?.map(|to| Verdict::Snat(to.ip())),
            _ => Err(()),
        };
        Some(match verdict {
            Ok(verdict) => {
                self.trace.verdicts.insert(verdict);
                Ways::NONE
            }
            Err(()) => self.anything(format_args!("{kind} {inner}")),
        })
    }

    /// The new address of a flow; without a port, the packet keeps its own. A packet of another family does not match.
    fn translation(&self, nat: &Json) -> Option<Result<SocketAddr, ()>> {
        let to = |expression: &Json| match self.value(expression) {
            Some(Value::Absent) => None,
            value => Some(value),
        };
        let port = match nat.get("port") {
            Some(port) => to(port)?,
            None => Some(Value::Number(self.packet.destination.port().into())),
        };
        let (Some(Value::Ip(ip)), Some(Value::Number(port))) = (to(&nat["addr"])?, port) else { return Some(Err(())) };
        if ip.is_ipv4() != self.packet.destination.is_ipv4() {
            return None;
        }
        Some(u16::try_from(port).map(|port| SocketAddr::new(ip, port)).map_err(|_| ()))
    }

    /// Carries out the verdict of the packet's element. A map that is not known could do anything.
    fn verdict_map(&mut self, vmap: &Json, depth: usize) -> Ways {
        let Some(elements) = self.rules.elements(&vmap["data"]) else { return self.anything(vmap) };
        let key = self.value(&vmap["key"]);
        let mut all = Ways::NONE;
        for element in elements {
            let matched = key.as_ref().and_then(|key| key.is_in(&element[0]));
            let Some((kind, inner)) = element[1].as_object().and_then(|verdict| verdict.iter().next()) else {
                continue;
            };
            if matched == Some(false) || key == Some(Value::Absent) {
                continue;
            }
            let ways = self.terminal(kind, inner, depth).unwrap_or(Ways::ON);
            all = Ways { on: all.on || ways.on, back: all.back || ways.back };
            if matched == Some(true) {
                return all;
            }
            self.trace.unknown.get_or_insert_with(|| vmap.to_string());
        }
        Ways { on: true, ..all }
    }

    /// Whether the packet matches.
    fn matches(&self, statement: &Json) -> Option<bool> {
        let (left, right) = (&statement["left"], &statement["right"]);
        let value = self.value(left)?;
        if value == Value::Absent {
            return Some(false);
        }
        let contained = || match self.rules.elements(right) {
            Some(elements) => value.is_one_of(elements),
            None => value.is_in(right),
        };
        let is_set = right.get("set").is_some() || right.as_str().is_some_and(|name| name.starts_with('@'));
        match (statement["op"].as_str()?, &value) {
            // All bits are compared: of a whole status, some have no name.
            ("==" | "!=", Value::Flags(_)) if left.pointer("/ct/key") == Some(&"status".into()) => None,
            ("==", Value::Flags(names)) if !is_set => Some(*names == bits(right)?),
            ("!=", Value::Flags(names)) if !is_set => Some(*names != bits(right)?),
            ("==" | "in", _) => contained(),
            ("!=" | "!", _) => contained().map(|is| !is),
            (order, _) => value.is_ordered(order, right),
        }
    }

    /// The value of an expression; `None` if it is not known.
    fn value(&self, expression: &Json) -> Option<Value> {
        let Some((kind, inner)) = expression.as_object().and_then(|object| object.iter().next()) else {
            return Value::literal(expression);
        };
        match kind.as_str() {
            "meta" => self.packet.meta(inner["key"].as_str()?),
            "payload" => self.packet.field(inner["protocol"].as_str()?, inner["field"].as_str()?),
            "ct" => self.packet.ct(inner["key"].as_str()?, inner["dir"].as_str()),
            "fib" => self.packet.fib(inner),
            "&" => match self.value(&inner[0])? {
                Value::Flags(names) => Some(Value::Flags(&names & &bits(&inner[1])?)),
                Value::Absent => Some(Value::Absent),
                _ => None,
            },
            "concat" => {
                let parts: Vec<_> = inner.as_array()?.iter().map(|part| self.value(part)).collect();
                Some(if parts.contains(&Some(Value::Absent)) { Value::Absent } else { Value::Concat(parts) })
            }
            "map" => {
                let key = self.value(&inner["key"])?;
                for pair in self.rules.elements(&inner["data"])? {
                    if key != Value::Absent && key.is_in(&pair[0])? {
                        return Value::literal(&pair[1]);
                    }
                }
                Some(Value::Absent)
            }
            _ => None,
        }
    }
}
