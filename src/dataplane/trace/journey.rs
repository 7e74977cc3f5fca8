//! The way of a new flow's first packet through all hooks of a gateway, for tests: "where does this packet go?".
//!
//! Used by unit tests, and by `tests/tracer.rs`, which holds it against the kernel.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use super::{Interface, Packet, Prefix, Protocol, Refusal, Ruleset, Segment, Verdict};

/// A gateway: one table, and addresses with their prefixes by interface. Addresses that no prefix contains are reached by
/// the first interface.
pub struct Gateway<'a> {
    pub rules: Ruleset,
    pub links: Vec<(Interface<'a>, Vec<(IpAddr, u8)>)>,
}

/// Origin of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client<'a> {
    /// A process on the gateway.
    Here,
    /// Another host, by this interface.
    Outside(Interface<'a>),
}

/// A packet as its sender sends it.
#[derive(Debug, Clone, Copy)]
pub struct Sent<'a> {
    pub client: Client<'a>,
    pub protocol: Protocol,
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub segment: Segment,
}

/// End of the packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It reaches its destination, or a socket of the gateway, untranslated.
    Passes,
    /// It reaches another destination.
    Translated {
        to: SocketAddr,
        source: Source,
    },
    /// NFLOG has it, and nothing else has.
    Held {
        group: u64,
    },
    Dropped,
    Refused(Refusal),
    /// A statement is not known.
    Unknown(String),
}

/// The source address that the destination sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    Client,
    Masqueraded,
    Other(IpAddr),
}

/// The packet's end, and its way.
#[derive(Debug, Clone)]
pub struct Journey {
    pub outcome: Outcome,
    /// The timeout policy of its flow.
    pub timeout: Option<String>,
    /// Its chains.
    pub path: Vec<String>,
}

impl fmt::Display for Journey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.outcome {
            Outcome::Passes => write!(f, "passes"),
            Outcome::Translated { to, source: Source::Client } => write!(f, "to {to}"),
            Outcome::Translated { to, source: Source::Masqueraded } => write!(f, "to {to} masqueraded"),
            Outcome::Translated { to, source: Source::Other(ip) } => write!(f, "to {to} from {ip}"),
            Outcome::Held { group } => write!(f, "held by {group}"),
            Outcome::Dropped => write!(f, "dropped"),
            Outcome::Refused(Refusal::Reset) => write!(f, "refused by a reset"),
            Outcome::Refused(Refusal::Icmp) => write!(f, "refused by ICMP"),
            Outcome::Unknown(statement) => write!(f, "unknown: {statement}"),
        }
    }
}

/// Chains of a hook that a packet meets.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Chains {
    All,
    /// Its source has been decided on.
    Filters,
}

impl Gateway<'_> {
    pub fn trace(&self, sent: Sent<'_>) -> Journey {
        let mut way = Way { gateway: self, logged: None, timeout: None, path: Vec::new(), source: Source::Client };
        let outcome = match way.walk(sent) {
            Err(Outcome::Dropped) if way.logged.is_some() => Outcome::Held { group: way.logged.unwrap_or_default() },
            Ok(outcome) | Err(outcome) => outcome,
        };
        Journey { outcome, timeout: way.timeout, path: way.path }
    }

    fn type_of(&self, ip: IpAddr) -> &'static str {
        let addresses = || self.links.iter().flat_map(|(_, addresses)| addresses);
        let is_last = |(own, length): &(IpAddr, u8)| match (own, ip) {
            (IpAddr::V4(own), IpAddr::V4(ip)) if *length < 31 => u32::from(ip) == u32::from(*own) | u32::MAX >> length,
            _ => false,
        };
        let is_anycast = |(own, length): &(IpAddr, u8)| own.is_ipv6() && Prefix::around(*own, *length).address == ip;
        match ip {
            ip if ip.is_loopback() || addresses().any(|(own, _)| *own == ip) => "local",
            ip if ip.is_multicast() => "multicast",
            _ if addresses().any(is_last) => "broadcast",
            _ if addresses().any(is_anycast) => "anycast",
            _ => "unicast",
        }
    }

    /// Whether the kernel drops packets from outside with this source, when it routes them or before. `route_localnet` is on.
    fn is_martian(&self, source: IpAddr) -> bool {
        match source {
            IpAddr::V4(ip) if ip.is_loopback() => false,
            IpAddr::V4(ip) => ip.is_unspecified() || ["local", "multicast"].contains(&self.type_of(source)),
            IpAddr::V6(ip) => ip.is_loopback() || ip.is_multicast(),
        }
    }

    fn route(&self, to: IpAddr) -> Interface<'_> {
        if self.type_of(to) == "local" {
            return Interface::LOOPBACK;
        }
        let contains = |(own, length): &(IpAddr, u8)| {
            own.is_ipv4() == to.is_ipv4() && Prefix::around(*own, *length) == Prefix::around(to, *length)
        };
        let link = self.links.iter().find(|(_, addresses)| addresses.iter().any(contains));
        link.unwrap_or(&self.links[0]).0
    }
}

/// A way in progress.
struct Way<'g> {
    gateway: &'g Gateway<'g>,
    logged: Option<u64>,
    timeout: Option<String>,
    path: Vec<String>,
    source: Source,
}

impl Way<'_> {
    /// Every hook of the packet. It ends early where it is dropped.
    fn walk(&mut self, sent: Sent<'_>) -> Result<Outcome, Outcome> {
        let gateway = self.gateway;
        let here = sent.client == Client::Here;
        let mut packet = Packet {
            protocol: sent.protocol,
            source: Some(sent.source),
            destination: sent.destination,
            translated_from: None,
            input: Some(if let Client::Outside(link) = sent.client { link } else { Interface::NONE }),
            output: Some(if here { gateway.route(sent.destination.ip()) } else { Interface::NONE }),
            segment: sent.segment,
            source_type: Some(gateway.type_of(sent.source.ip())),
            destination_type: Some(gateway.type_of(sent.destination.ip())),
        };
        if let Some(Verdict::Dnat(to)) = self.hook(if here { "output" } else { "prerouting" }, &packet, Chains::All)? {
            packet = Packet {
                destination: to,
                translated_from: Some(sent.destination),
                destination_type: Some(gateway.type_of(to.ip())),
                ..packet
            };
        }
        if !here && gateway.is_martian(sent.source.ip()) {
            return Err(Outcome::Dropped);
        }
        let is_local = packet.destination_type == Some("local");
        if here || !is_local {
            packet.output = Some(gateway.route(packet.destination.ip()));
            self.translate_source("postrouting", &packet, Chains::All)?;
        }
        if is_local {
            let input = if here { Some(Interface::LOOPBACK) } else { packet.input };
            let packet = Packet { input, output: Some(Interface::NONE), ..packet.clone() };
            self.translate_source("input", &packet, if here { Chains::Filters } else { Chains::All })?;
        }
        Ok(match packet.translated_from {
            Some(_) => Outcome::Translated { to: packet.destination, source: self.source },
            None => Outcome::Passes,
        })
    }

    fn translate_source(&mut self, hook: &str, packet: &Packet<'_>, chains: Chains) -> Result<(), Outcome> {
        match self.hook(hook, packet, chains)? {
            Some(Verdict::Snat(ip)) => self.source = Source::Other(ip),
            Some(Verdict::Masquerade) => self.source = Source::Masqueraded,
            _ => {}
        }
        Ok(())
    }

    /// One hook. The first chain that translates the flow is the last that could.
    fn hook(&mut self, hook: &str, packet: &Packet<'_>, chains: Chains) -> Result<Option<Verdict>, Outcome> {
        let mut translation = None;
        for base in self.gateway.rules.base_chains().iter().filter(|base| base.hook == hook) {
            if base.kind == "nat" && (translation.is_some() || chains == Chains::Filters) {
                continue;
            }
            let trace = self.gateway.rules.trace(base, packet);
            self.logged = trace.logged.or(self.logged);
            self.path.extend(trace.path.iter().cloned());
            self.timeout = trace.timeout.clone().or(self.timeout.take());
            match trace.verdict() {
                Err(unknown) => return Err(Outcome::Unknown(unknown.to_owned())),
                Ok(Verdict::Accept) => {}
                Ok(Verdict::Drop) => return Err(Outcome::Dropped),
                Ok(Verdict::Reject(refusal)) => return Err(Outcome::Refused(refusal)),
                Ok(verdict) => translation = Some(verdict),
            }
        }
        Ok(translation)
    }
}
