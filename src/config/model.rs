//! The configuration as the rest of the program sees it: checked, typed, and free of YAML.
//!
//! Everything here is plain data, and valid once the whole file is.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::{Access, Address, Route};

/// The `log` section.
#[derive(Debug, Clone, PartialEq)]
pub struct Log {
    /// `log.output`.
    pub output: LogOutput,
    /// `log.level`.
    pub level: log::LevelFilter,
}

/// Output of the log.
#[derive(Debug, Clone, PartialEq)]
pub enum LogOutput {
    /// Standard output.
    Stdout,
    /// Standard error, the default.
    Stderr,
    /// A file, created if missing and appended to.
    File(PathBuf),
}

/// A transport protocol that can be routed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// Name in the configuration, the status and nft.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        }
    }

    /// The IANA protocol number.
    pub fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A `namespace:name` reference to a kind that a plugin registers, such as `static:cmd`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Kind {
    /// The plugin's namespace, as `plugins.yaml` gives it.
    pub namespace: String,
    /// The kind's name within it.
    pub name: String,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.namespace, self.name)
    }
}

/// One element of `targets`.
#[derive(Debug, Clone, PartialEq)]
pub struct TargetSpec {
    /// Unique among the targets.
    pub name: String,
    /// Kind that runs it.
    pub kind: Kind,
    /// Time from the end of the last flow until the target drains.
    pub idle_timeout: Duration,
    /// Minimum time that it stays active, unless it ends on its own or an operator drains it.
    pub min_uptime: Duration,
    /// Maximum time that it stays active, in use or not.
    pub max_uptime: Option<Duration>,
    /// Its addresses; at least one, with unique names.
    pub endpoints: Vec<Endpoint>,
    /// Condition for being ready.
    pub readiness: Readiness,
}

/// One element of a target's `endpoints`.
#[derive(Debug, Clone, PartialEq)]
pub struct Endpoint {
    /// Unique within its target.
    pub name: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// Addresses that it listens on: one, or one of each family.
    pub addresses: Vec<Address>,
}

/// A target's `readiness`: what must be true before it is routed to.
#[derive(Debug, Clone, PartialEq)]
pub struct Readiness {
    /// Probe of each address of each endpoint.
    pub probe: Probe,
    /// Maximum time from the start until the target is ready.
    pub deadline: Duration,
}

/// Probe of an endpoint.
#[derive(Debug, Clone, PartialEq)]
pub enum Probe {
    /// [`Probe::Bound`] for an endpoint on this host, [`Probe::Connect`] for a remote TCP endpoint, [`Probe::None`] for a
    /// remote UDP endpoint.
    Auto,
    /// A socket of this host is bound to the address, as the kernel lists it; there is no connection.
    Bound,
    /// The endpoint accepts a TCP connection.
    Connect,
    /// The endpoint answers `GET path` with a status below 400.
    Http {
        /// The path of the request, with its leading slash.
        path: String,
    },
    /// Ready as soon as it has been started.
    None,
}

/// One element of `frontends`.
#[derive(Debug, Clone, PartialEq)]
pub struct FrontendSpec {
    /// Unique among the frontends.
    pub name: String,
    /// Kind that runs it.
    pub kind: Kind,
    /// Protocol of its clients.
    pub protocol: Protocol,
    /// Addresses that clients connect to; at least one. The endpoint has an address of the family and the number of ports of
    /// each. An unspecified address stands for every address of this host.
    pub listen: Vec<Address>,
    /// Time that an idle flow lives.
    pub flow_timeout: Duration,
    /// Name of the target.
    pub target: String,
    /// The target's endpoint that it leads to.
    pub endpoint: Endpoint,
    /// Clients that may reach it.
    pub access: Access,
    /// Source address that the endpoint sees.
    pub masquerade: Masquerade,
}

/// Choice between the client's address and the gateway's, as the endpoint sees it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Masquerade {
    /// The gateway's where replies to the client's would not come back through the gateway.
    #[default]
    Auto,
    /// The gateway's, except for endpoints on this host.
    Always,
    /// The client's.
    Never,
}

impl Endpoint {
    /// Routes from these listens, each to the address of its own family.
    pub fn routes(&self, listens: &[Address]) -> impl Iterator<Item = Route> {
        let to = |listen: &Address| self.addresses.iter().find(|address| address.is_ipv4() == listen.is_ipv4());
        listens.iter().filter_map(move |listen| Some(Route { listen: *listen, endpoint: *to(listen)? }))
    }
}
