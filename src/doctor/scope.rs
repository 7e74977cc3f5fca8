//! The part of the configuration that the doctor checks: a path per frontend, address and endpoint.

use std::collections::HashMap;
use std::net::SocketAddr;

use super::host::Host;
use crate::assemble::Setup;
use crate::config::{Config, FrontendSpec, Prefix, Protocol};
use crate::dataplane::plan::{ColdPath, Plan, Timeouts};

/// Maximum number of client networks of a frontend.
const MAX_NETWORKS: usize = 16;

/// All that is checked.
#[derive(Debug, Clone)]
pub struct Scope {
    /// One for each address of each frontend and each address of its endpoint.
    pub paths: Vec<Path>,
    /// The rules.
    pub plan: Plan,
}

/// A path from clients to a backend.
#[derive(Debug, Clone)]
pub struct Path {
    /// Name of the frontend.
    pub frontend: String,
    /// Protocol of the frontend and the endpoint.
    pub protocol: Protocol,
    /// Address that clients connect to; of a range of ports the first.
    pub listen: SocketAddr,
    /// Name of the endpoint: `target:endpoint`.
    pub endpoint: String,
    /// Address of the endpoint; of a range of ports the first.
    pub address: SocketAddr,
    /// Timeouts of its flows' entries.
    pub timeouts: Timeouts,
    /// The endpoint is on this host.
    pub local: bool,
    /// The backend runs independently of the daemon.
    pub external: bool,
    /// Handling of clients while the target is not active.
    pub cold: ColdPath,
    /// The first client networks, if the frontend names some.
    pub allow: Vec<Prefix>,
    /// The interfaces that clients come in by, if the frontend names some.
    pub interfaces: Vec<String>,
}

impl Path {
    /// Name of the endpoint in messages.
    pub fn endpoint_label(&self) -> String {
        format!("endpoint {} {}", self.endpoint, self.address)
    }

    /// Name of the frontend in messages.
    pub fn frontend_label(&self) -> String {
        format!("frontend {} {}", self.frontend, self.listen)
    }

    /// Returns true if a socket of the daemon answers cold clients.
    pub fn answers_cold(&self) -> bool {
        self.cold == ColdPath::Local
    }

    /// The NFLOG group that holds first packets, if they are held.
    pub fn holds(&self) -> Option<u16> {
        match self.cold {
            ColdPath::Hold(options) => Some(options.group),
            ColdPath::Local | ColdPath::Drop => None,
        }
    }

    /// Returns true if clients on other hosts can connect: not to an address of the loopback interface.
    pub fn is_public(&self) -> bool {
        !self.listen.ip().is_loopback()
    }
}

impl Scope {
    /// The paths and rules of a configuration.
    pub fn new(setup: &Setup) -> Scope {
        let mut paths = Vec::new();
        for (spec, frontend) in setup.config.frontends.iter().zip(&setup.frontends) {
            let external = setup.targets[spec.target].external();
            let endpoint = setup.config.endpoint_of(spec);
            for listen in spec.listen.iter().map(|listen| listen.first()) {
                let addresses = endpoint.addresses.iter().map(|address| address.first());
                paths.extend(addresses.filter(|address| address.is_ipv4() == listen.is_ipv4()).map(|address| Path {
                    frontend: spec.name.clone(),
                    protocol: spec.protocol,
                    listen,
                    endpoint: label(&setup.config, spec),
                    address,
                    timeouts: Timeouts::new(spec.flow_timeout),
                    local: address.ip().is_loopback(),
                    external,
                    cold: frontend.cold,
                    allow: spec.access.allow.iter().take(MAX_NETWORKS).copied().collect(),
                    interfaces: spec.access.interfaces.clone(),
                }));
            }
        }
        let plan = Plan::new(&setup.config, setup.frontends.iter().map(|frontend| frontend.cold));
        Scope { paths, plan }
    }

    /// Looks up which endpoints are on this host. After an error, an endpoint stays as its address shows.
    pub(super) fn locate(&mut self, host: &dyn Host) {
        let mut known = HashMap::new();
        for path in &mut self.paths {
            let look_up = || host.route(path.address.ip()).map(|route| route.is_some_and(|route| route.local));
            path.local = *known.entry(path.address.ip()).or_insert_with(|| look_up().unwrap_or(path.local));
        }
    }

    /// The paths to backends on other hosts.
    pub fn remote(&self) -> impl Iterator<Item = &Path> {
        self.paths.iter().filter(|path| !path.local)
    }
}

fn label(config: &Config, frontend: &FrontendSpec) -> String {
    format!("{}:{}", config.targets[frontend.target].name, config.endpoint_of(frontend).name)
}
