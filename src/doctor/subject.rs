//! What of the configuration the doctor looks at: one path per frontend and address. The one place that knows how addresses
//! are configured.

use std::collections::HashMap;
use std::net::SocketAddr;

use crate::assemble::Setup;
use crate::config::{Config, Endpoint, FrontendSpec, Prefix, Protocol};
use crate::dataplane::plan::ColdPath;
use crate::dataplane::plan::{Plan, Timeouts};
use crate::netlink::route::Routes;

/// How many of a frontend's client networks are looked at.
const MOST_NETWORKS: usize = 16;

/// All that is looked at.
#[derive(Debug, Clone)]
pub struct Subject {
    /// One for each address of each frontend and each address of its endpoint.
    pub paths: Vec<Path>,
    /// The rules.
    pub plan: Plan,
}

/// A way from a client to a backend.
#[derive(Debug, Clone)]
pub struct Path {
    /// The frontend's name.
    pub frontend: String,
    /// What is spoken.
    pub protocol: Protocol,
    /// What clients connect to.
    pub listen: SocketAddr,
    /// The endpoint as `target:endpoint`.
    pub endpoint: String,
    /// Where the endpoint is.
    pub address: SocketAddr,
    /// How long its flows' entries live.
    pub timeouts: Timeouts,
    /// Whether the endpoint is on this host.
    pub local: bool,
    /// Whether the backend runs whether the daemon does or not.
    pub external: bool,
    /// What happens to clients while the target is not active.
    pub cold: ColdPath,
    /// Networks that clients come from, if they are named: the first few.
    pub allow: Vec<Prefix>,
    /// Interfaces that clients come by, if they are named.
    pub interfaces: Vec<String>,
}

impl Path {
    /// The endpoint, as messages name it.
    pub fn endpoint_label(&self) -> String {
        format!("endpoint {} {}", self.endpoint, self.address)
    }

    /// The frontend, as messages name it.
    pub fn frontend_label(&self) -> String {
        format!("frontend {} {}", self.frontend, self.listen)
    }

    /// Whether a socket of the daemon answers cold clients.
    pub fn answers_cold(&self) -> bool {
        self.cold == ColdPath::Local
    }

    /// Whether first packets are held, and by which NFLOG group.
    pub fn holds(&self) -> Option<u16> {
        match self.cold {
            ColdPath::Hold(options) => Some(options.group),
            ColdPath::Local | ColdPath::Drop => None,
        }
    }

    /// Whether clients on other hosts can come: not to an address of the loopback interface.
    pub fn is_public(&self) -> bool {
        !self.listen.ip().is_loopback()
    }
}

impl Subject {
    /// What a configuration means to the host.
    pub fn new(setup: &Setup) -> Subject {
        let mut paths = Vec::new();
        for (spec, frontend) in setup.config.frontends.iter().zip(&setup.frontends) {
            let external = setup.targets[spec.target].external();
            let endpoint = setup.config.endpoint_of(spec);
            for listen in listens(spec) {
                for address in addresses(endpoint).filter(|address| address.is_ipv4() == listen.is_ipv4()) {
                    paths.push(Path {
                        frontend: spec.name.clone(),
                        protocol: spec.protocol,
                        listen,
                        endpoint: label(&setup.config, spec),
                        address,
                        timeouts: Timeouts::new(spec.flow_timeout),
                        local: address.ip().is_loopback(),
                        external,
                        cold: frontend.cold,
                        allow: spec.access.allow.iter().take(MOST_NETWORKS).copied().collect(),
                        interfaces: spec.access.interfaces.clone(),
                    });
                }
            }
        }
        let plan = Plan::new(&setup.config, setup.frontends.iter().map(|frontend| frontend.cold));
        Subject { paths, plan }
    }

    /// Asks the kernel which endpoints are on this host.
    pub fn locate(&mut self) {
        // Without a socket each stays as its address shows.
        let Ok(mut routes) = Routes::open() else { return };
        let mut known = HashMap::new();
        for path in &mut self.paths {
            let ip = path.address.ip();
            path.local = *known.entry(ip).or_insert_with(|| routes.is_local(ip).unwrap_or(false));
        }
    }

    /// The paths to backends on other hosts.
    pub fn remote(&self) -> impl Iterator<Item = &Path> {
        self.paths.iter().filter(|path| !path.local)
    }
}

/// The addresses that a frontend listens on; of a range of ports the first.
fn listens(frontend: &FrontendSpec) -> impl Iterator<Item = SocketAddr> {
    frontend.listen.iter().map(|listen| listen.first())
}

/// The addresses of an endpoint; of a range of ports the first.
fn addresses(endpoint: &Endpoint) -> impl Iterator<Item = SocketAddr> {
    endpoint.addresses.iter().map(|address| address.first())
}

fn label(config: &Config, frontend: &FrontendSpec) -> String {
    format!("{}:{}", config.targets[frontend.target].name, config.endpoint_of(frontend).name)
}
