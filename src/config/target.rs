//! Reads an element of `targets`.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use super::element::{Element, Names};
use super::values::{EndpointAddresses, Name, Timeout};
use super::{Address, Endpoint, Kind, Ports, Probe, Protocol, Readiness, Section, TargetSpec};

/// Default of `readiness.deadline`.
const DEADLINE: Duration = Duration::from_secs(30);

/// A placeholder for a wrong address, so that the other problems of the file are found.
pub(super) const NO_ADDRESS: Address = Address { ip: IpAddr::V4(Ipv4Addr::LOCALHOST), ports: Ports::one(1) };

/// A placeholder for a missing endpoint.
pub(super) fn no_endpoint() -> Endpoint {
    Endpoint { name: String::new(), protocol: Protocol::Tcp, addresses: vec![NO_ADDRESS] }
}

/// A target as far as it could be read.
pub(super) struct ReadTarget<'a> {
    pub(super) element: Element<'a, TargetSpec>,
    /// Endpoints that frontends refer to, the invalid ones included: a reference to one is no further problem.
    pub(super) endpoints: Vec<ReadEndpoint>,
}

/// An endpoint as far as it could be read.
pub(super) struct ReadEndpoint {
    pub(super) name: String,
    pub(super) protocol: Option<Protocol>,
    pub(super) addresses: Option<Vec<Address>>,
}

/// Reads one target.
pub(super) fn read(mut section: Section<'_>) -> ReadTarget<'_> {
    let name = section.required("name").map(|Name(name)| name);
    let kind = section.required::<Kind>("kind");
    let idle_timeout = section.required("idle_timeout").map(|Timeout(timeout)| timeout);
    let min_uptime = section.optional("min_uptime").map_or(Duration::ZERO, |Timeout(timeout)| timeout);
    let max_uptime = section.optional("max_uptime").map(|Timeout(timeout)| timeout);
    if max_uptime.is_some_and(|max| max < min_uptime) {
        section.problem("max_uptime", "shorter than min_uptime: no target can meet both");
    }
    let endpoints = read_endpoints(&mut section);
    let readiness = read_readiness(section.child("readiness"));

    let mut known: Vec<Endpoint> = endpoints
        .iter()
        .map(|endpoint| Endpoint {
            name: endpoint.name.clone(),
            protocol: endpoint.protocol.unwrap_or(Protocol::Tcp),
            addresses: endpoint.addresses.clone().unwrap_or_else(|| vec![NO_ADDRESS]),
        })
        .collect();
    if known.is_empty() {
        known.push(no_endpoint());
    }
    let options = section.child("options");
    let options = kind.is_some().then_some(options);
    let spec = TargetSpec {
        name: name.unwrap_or_default(),
        kind: kind.unwrap_or_default(),
        idle_timeout: idle_timeout.unwrap_or(DEADLINE),
        min_uptime,
        max_uptime,
        endpoints: known,
        readiness,
    };
    ReadTarget { element: Element { spec, section, options }, endpoints }
}

fn read_endpoints(section: &mut Section<'_>) -> Vec<ReadEndpoint> {
    let elements = section.elements("endpoints");
    if section.is_empty_list("endpoints") || (elements.is_none() && !section.broken()) {
        section.problem("endpoints", "at least one is required, with name, protocol and address");
    }
    let elements = elements.unwrap_or_default();
    let mut names = Names::of("endpoints");
    let mut endpoints = Vec::with_capacity(elements.len());
    for (index, mut element) in elements.into_iter().enumerate() {
        names.add(index, &mut element);
        let name = element.required("name").map(|Name(name)| name);
        let protocol = element.required("protocol");
        let addresses = element.required("address").map(|EndpointAddresses(addresses)| addresses);
        element.finish();
        endpoints.push(ReadEndpoint { name: name.unwrap_or_default(), protocol, addresses });
    }
    endpoints
}

fn read_readiness(mut section: Section<'_>) -> Readiness {
    let probe = section.optional::<String>("probe");
    let path = section.optional::<String>("path");
    let deadline = section.optional("deadline").map_or(DEADLINE, |Timeout(deadline)| deadline);
    let probe = match probe.as_deref() {
        None | Some("auto") => Probe::Auto,
        Some("bound") => Probe::Bound,
        Some("connect") => Probe::Connect,
        Some("none") => Probe::None,
        Some("http") => Probe::Http { path: path.clone().unwrap_or_else(|| "/".to_owned()) },
        Some(other) => {
            let what = super::suggest::quoted(other);
            section.problem("probe", format_args!("{what} is not a probe: write auto, bound, connect, http or none"));
            // No problem of the path's is known then.
            Probe::Http { path: "/".to_owned() }
        }
    };
    if let Some(path) = &path {
        if !matches!(probe, Probe::Http { .. }) {
            section.problem("path", "only for the probe http: remove it, or write probe: http");
        } else if let Err(wrong) = check_path(path) {
            section.problem("path", wrong);
        }
    }
    section.finish();
    Readiness { probe, deadline }
}

/// Checks a path, which is copied into the request line.
fn check_path(path: &str) -> Result<(), String> {
    let shown = super::suggest::quoted(path);
    if !path.starts_with('/') {
        return Err(format!("{shown} does not begin with a slash: write a path such as /healthz"));
    }
    if !path.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(format!("{shown} has a character that a request cannot have: write it as %XX"));
    }
    Ok(())
}
