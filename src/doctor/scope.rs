//! The part of the configuration that the doctor checks: a path per frontend, address and endpoint.

use std::collections::HashMap;
use std::net::SocketAddr;

use super::host::Host;
use crate::assemble::Setup;
use crate::config::{Prefix, Protocol};
use crate::dataplane::plan::{ColdPath, Plan, Timeouts};
use crate::engine::NewFrontend;

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

    /// Returns true if clients on other hosts can connect: not to an address of the loopback interface.
    pub fn is_public(&self) -> bool {
        !self.listen.ip().is_loopback()
    }
}

impl Scope {
    /// The paths and rules of a configuration.
    pub fn new(setup: &Setup) -> Scope {
        let mut paths = Vec::new();
        let external = |target| setup.targets.iter().any(|other| other.id == target && other.handler.external());
        for NewFrontend { spec, target, cold, .. } in &setup.frontends {
            let (endpoint, external) = (&spec.endpoint, external(*target));
            for listen in spec.listen.iter().map(|listen| listen.first()) {
                let addresses = endpoint.addresses.iter().map(|address| address.first());
                paths.extend(addresses.filter(|address| address.is_ipv4() == listen.is_ipv4()).map(|address| Path {
                    frontend: spec.name.clone(),
                    protocol: spec.protocol,
                    listen,
                    endpoint: format!("{}:{}", spec.target, endpoint.name),
                    address,
                    timeouts: Timeouts::new(spec.flow_timeout),
                    local: address.ip().is_loopback(),
                    external,
                    cold: *cold,
                    allow: spec.access.allow.iter().take(MAX_NETWORKS).copied().collect(),
                    interfaces: spec.access.interfaces.clone(),
                }));
            }
        }
        Scope { paths, plan: setup.plan() }
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

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;
    use crate::doctor::testing::{FakeHost, LO, LOCAL4, REMOTE4, answered, at, by, held};

    const CONFIG: &str = "
version: v1
targets:
- {name: b, kind: static:none, idle_timeout: 5m, endpoints: [{name: http, protocol: tcp,
    address: ['127.0.0.1:8080', '[2001:db8:2::2]:8080']}]}
frontends:
- {name: f, kind: packet:hold, protocol: tcp, listen: ['0.0.0.0:80', '[::]:80'], flow_timeout: 1m, target: 'b:http',
    allow: [198.51.100.0/24], interfaces: [eth0]}
- {name: page, kind: static:http, protocol: tcp, listen: '198.51.100.1:81', flow_timeout: 1m, target: 'b:http',
    options: {content: hello}}
";

    #[test]
    fn paths_join_addresses_of_the_same_family() {
        let mut registry = crate::plugin::Registry::default();
        registry.add("static", crate::plugins::r#static::plugin());
        registry.add("packet", crate::plugins::packet::plugin());
        let setup = crate::assemble::parse("test", CONFIG, &mut registry).expect("a configuration");
        let scope = Scope::new(&setup);
        let ends: Vec<_> = scope.paths.iter().map(|path| (path.listen, path.address)).collect();
        let remote6 = at("[2001:db8:2::2]:8080");
        let local4 = at(LOCAL4);
        assert_eq!(ends, [(at("0.0.0.0:80"), local4), (at("[::]:80"), remote6), (at("198.51.100.1:81"), local4)]);
        let [held, _, page] = &scope.paths[..] else { panic!("three paths") };
        assert_eq!(held.endpoint_label(), "endpoint b:http 127.0.0.1:8080");
        assert_eq!(held.frontend_label(), "frontend f 0.0.0.0:80");
        assert!(
            held.external && held.local && held.cold.group() == Some(crate::ids::OUR_NUMBER) && !held.answers_cold()
        );
        assert_eq!((held.allow.len(), held.interfaces.as_slice()), (1, ["eth0".to_owned()].as_slice()));
        assert!(page.answers_cold() && page.cold.group().is_none());
        assert_eq!(scope.remote().map(|path| path.address).collect::<Vec<_>>(), [remote6]);
        assert_eq!(scope.plan.frontends.len(), 2);
    }

    #[test]
    fn routes_show_which_endpoints_are_local() {
        let mut host = FakeHost::default();
        host.routes.insert(at("203.0.113.1:80").ip(), by(LO));
        host.routes.insert(at("192.0.2.1:80").ip(), Err(Errno::MFILE));
        host.routes.insert(at(LOCAL4).ip(), Err(Errno::MFILE));
        let addresses = [("203.0.113.1:80", true), (REMOTE4, false), ("192.0.2.1:80", false), (LOCAL4, true)];
        let paths = addresses.map(|(address, _)| held("0.0.0.0:80", address)).to_vec();
        let mut scope = Scope { paths, plan: Plan { frontends: Default::default() } };
        scope.locate(&host);
        for (path, (address, local)) in scope.paths.iter().zip(addresses) {
            assert_eq!(path.local, local, "{address}");
        }
    }

    #[test]
    fn clients_of_loopback_addresses_are_not_public() {
        assert!(held("0.0.0.0:80", LOCAL4).is_public() && answered("198.51.100.1:80", LOCAL4).is_public());
        assert!(!held("127.0.0.1:80", LOCAL4).is_public() && !held("[::1]:80", LOCAL4).is_public());
    }
}
