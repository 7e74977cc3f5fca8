//! Reads an element of `frontends`.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::load;
use super::suggest::{listed, quoted};
use super::target::{NO_ADDRESS, ReadTarget};
use super::values::{KernelTimeout, ListenAddress, Name, Reference};
use super::{Access, FrontendSpec, Kind, Protocol, Section, address};
use crate::plugin::{Frontend, Registry};

/// A frontend as far as it could be read.
pub(super) struct ReadFrontend {
    /// Complete; where something is wrong there is a stand-in.
    pub(super) spec: FrontendSpec,
    /// What the file says, if it is right.
    pub(super) listens: Option<(Protocol, SocketAddr)>,
    pub(super) frontend: Option<Frontend>,
}

/// The targets of the file, and where to find them by name.
pub(super) struct Targets<'t> {
    pub(super) list: &'t [ReadTarget],
    pub(super) by_name: HashMap<&'t str, usize>,
}

/// Reads one frontend. Its options are read even if something else is wrong with it, so that all problems show at once.
pub(super) fn read(section: &mut Section<'_>, targets: &Targets<'_>, registry: &Registry) -> ReadFrontend {
    let name = section.required("name").map(|Name(name)| name);
    let kind = section.required::<Kind>("kind");
    let protocol = section.required::<Protocol>("protocol");
    let listen = section.required("listen").map(|ListenAddress(listen)| listen);
    let flow_timeout = section.required("flow_timeout").map(|KernelTimeout(timeout)| timeout);
    let endpoint = section.required("target").and_then(|reference| resolve(section, &reference, targets));
    if let Some((target, endpoint)) = endpoint {
        agree(section, protocol, listen, targets, target, endpoint);
    }

    let (target, endpoint) = endpoint.unwrap_or_default();
    let mut spec = FrontendSpec {
        name: name.unwrap_or_default(),
        kind: Kind { namespace: String::new(), name: String::new() },
        protocol: protocol.unwrap_or(Protocol::Tcp),
        listen: listen.unwrap_or(NO_ADDRESS),
        flow_timeout: flow_timeout.unwrap_or(Duration::from_secs(60)),
        target,
        endpoint,
        access: Access::read(section),
    };
    let mut options = section.child("options");
    let mut frontend = None;
    if let Some(kind) = kind {
        spec.kind = kind;
        match registry.frontend(&spec.kind) {
            Ok(make) => {
                let before = options.problem_count();
                frontend = make(&spec, &mut options);
                if frontend.is_none() && !options.failed() && options.problem_count() == before {
                    options.problem("", format_args!("{} refuses them without saying why", spec.kind));
                }
                options.finish();
            }
            Err(there_are) => {
                let other = registry.target(&spec.kind).is_ok().then_some("target");
                section.problem("kind", load::no_kind("frontend", &spec.kind, other, &there_are));
            }
        }
    }
    ReadFrontend { spec, listens: protocol.zip(listen), frontend }
}

/// Finds the target and the endpoint that a reference means.
fn resolve(section: &mut Section<'_>, reference: &Reference, targets: &Targets<'_>) -> Option<(usize, usize)> {
    let Some(&index) = targets.by_name.get(reference.target.as_str()) else {
        let names = targets.list.iter().map(|target| target.spec.name.as_str()).filter(|name| !name.is_empty());
        let what = quoted(&reference.target);
        section.problem("target", format_args!("there is no target {what}; there are {}", listed(names)));
        return None;
    };
    let endpoints = &targets.list[index].endpoints;
    let found = endpoints.iter().position(|endpoint| endpoint.name == reference.endpoint);
    if found.is_none() && !endpoints.is_empty() {
        let names = endpoints.iter().map(|endpoint| endpoint.name.as_str()).filter(|name| !name.is_empty());
        let what = quoted(&reference.endpoint);
        let target = quoted(&reference.target);
        section
            .problem("target", format_args!("the target {target} has no endpoint {what}; there are {}", listed(names)));
    }
    found.map(|endpoint| (index, endpoint))
}

/// Checks that a packet to the frontend could be sent to the endpoint: DNAT changes neither protocol nor address family.
fn agree(
    section: &mut Section<'_>,
    protocol: Option<Protocol>,
    listen: Option<SocketAddr>,
    targets: &Targets<'_>,
    target: usize,
    endpoint: usize,
) {
    let target = &targets.list[target];
    let endpoint = &target.endpoints[endpoint];
    let shown = format!("{}:{}", target.spec.name, endpoint.name);
    if let (Some(own), Some(other)) = (protocol, endpoint.protocol)
        && own != other
    {
        section.problem("protocol", format_args!("{own}, but the endpoint {shown} speaks {other}: they must agree"));
    }
    if let (Some(listen), Some(other)) = (listen, endpoint.address)
        && listen.is_ipv4() != other.is_ipv4()
    {
        let (own, its) = (address::family(listen), address::family(other));
        section.problem(
            "listen",
            format_args!("{listen} is {own}, but the endpoint {shown} at {other} is {its}: they must agree"),
        );
    }
}
