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

/// Where log lines go.
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
    /// The name that the configuration, the status and nft use.
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
    /// Which plugin's handler runs it.
    pub kind: Kind,
    /// How long after its last flow has ended the target drains.
    pub idle_timeout: Duration,
    /// Minimum time that it stays active, unless it dies or an operator drains it.
    pub min_uptime: Duration,
    /// After how long it is drained, in use or not.
    pub max_uptime: Option<Duration>,
    /// Where it can be reached; at least one, with unique names.
    pub endpoints: Vec<Endpoint>,
    /// When it counts as ready.
    pub readiness: Readiness,
}

/// One element of a target's `endpoints`.
#[derive(Debug, Clone, PartialEq)]
pub struct Endpoint {
    /// Unique within its target.
    pub name: String,
    /// What it speaks.
    pub protocol: Protocol,
    /// Where it listens: one address, or one of each family.
    pub addresses: Vec<Address>,
}

/// A target's `readiness`: what must be true before it is routed to.
#[derive(Debug, Clone, PartialEq)]
pub struct Readiness {
    /// What is asked at each address of each endpoint.
    pub probe: Probe,
    /// How long the target may take from its start until it is ready.
    pub deadline: Duration,
}

/// How an endpoint is asked whether it is ready.
#[derive(Debug, Clone, PartialEq)]
pub enum Probe {
    /// [`Probe::Bound`] for an endpoint on this host, [`Probe::Connect`] for a TCP endpoint elsewhere, nothing for a
    /// UDP endpoint elsewhere.
    Auto,
    /// A socket of this host is bound to the address (asked of the kernel, without connecting).
    Bound,
    /// The endpoint accepts a TCP connection.
    Connect,
    /// The endpoint answers `GET path` with a status below 400.
    Http {
        /// The path that is asked for, with its leading slash.
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
    /// Which plugin's handler runs it.
    pub kind: Kind,
    /// What its clients speak.
    pub protocol: Protocol,
    /// What clients connect to: at least one address, each with a counterpart of its family and its number of ports at the
    /// endpoint. An unspecified address stands for every address of this host.
    pub listen: Vec<Address>,
    /// How long a silent flow lives.
    pub flow_timeout: Duration,
    /// Name of the target.
    pub target: String,
    /// The target's endpoint that it leads to.
    pub endpoint: Endpoint,
    /// Who may reach it.
    pub access: Access,
    /// Whose source address the endpoint sees.
    pub masquerade: Masquerade,
}

/// When the endpoint sees this gateway's address instead of the client's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Masquerade {
    /// Where the client's could not work.
    #[default]
    Auto,
    /// At all times, but for endpoints on this host.
    Always,
    /// Never.
    Never,
}

impl Endpoint {
    /// Where each of these listens leads: to the address of its own family.
    pub fn routes(&self, listens: &[Address]) -> impl Iterator<Item = Route> {
        let to = |listen: &Address| self.addresses.iter().find(|address| address.is_ipv4() == listen.is_ipv4());
        listens.iter().filter_map(move |listen| Some(Route { listen: *listen, endpoint: *to(listen)? }))
    }
}
