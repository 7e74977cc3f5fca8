//! Reads an element of `frontends`.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use super::element::Element;
use super::suggest::{listed, quoted};
use super::target::{NO_ADDRESS, ReadEndpoint, ReadTarget, no_endpoint};
use super::values::{KernelTimeout, ListenAddresses, Name, Reference};
use super::{Access, Address, FrontendSpec, Kind, Protocol, Section};

/// A frontend as far as it could be read.
pub(super) struct ReadFrontend<'a> {
    pub(super) element: Element<'a, FrontendSpec>,
    /// Whether its protocol and its listens are valid.
    pub(super) listens: bool,
}

/// The targets of the file, and where to find them by name.
pub(super) struct Targets<'t> {
    list: &'t [ReadTarget<'t>],
    by_name: HashMap<&'t str, usize>,
}

impl<'t> Targets<'t> {
    pub(super) fn new(list: &'t [ReadTarget<'t>]) -> Targets<'t> {
        let mut by_name = HashMap::new();
        for (index, target) in list.iter().enumerate() {
            by_name.entry(target.element.spec.name.as_str()).or_insert(index);
        }
        Targets { list, by_name }
    }
}

/// Reads one frontend.
pub(super) fn read<'a>(mut section: Section<'a>, targets: &Targets<'_>) -> ReadFrontend<'a> {
    let name = section.required("name").map(|Name(name)| name);
    let kind = section.required::<Kind>("kind");
    let before = section.problem_count();
    let mut protocol = section.optional::<Protocol>("protocol");
    let left_out = protocol.is_none() && section.problem_count() == before;
    let listen = read_listen(&mut section);
    let flow_timeout = section.required("flow_timeout").map(|KernelTimeout(timeout)| timeout);
    let endpoint = section.required("target").and_then(|reference| resolve(&mut section, &reference, targets));
    if let Some((target, index)) = endpoint {
        let endpoint = &target.endpoints[index];
        agree(&mut section, protocol, listen.as_deref(), &target.element.spec.name, endpoint);
        protocol = if left_out { endpoint.protocol } else { protocol };
    }

    let (target, endpoint) = match endpoint.map(|(target, index)| (&target.element.spec, index)) {
        Some((target, index)) => (target.name.clone(), target.endpoints[index].clone()),
        None => (String::new(), no_endpoint()),
    };
    let (listens, has_kind) = (protocol.is_some() && listen.is_some(), kind.is_some());
    let spec = FrontendSpec {
        name: name.unwrap_or_default(),
        protocol: protocol.unwrap_or(Protocol::Tcp),
        listen: listen.unwrap_or_else(|| vec![NO_ADDRESS]),
        flow_timeout: flow_timeout.unwrap_or(Duration::from_secs(60)),
        target,
        endpoint,
        access: Access::read(&mut section),
        masquerade: section.optional("masquerade").unwrap_or_default(),
        kind: kind.unwrap_or_default(),
    };
    let options = section.child("options");
    let options = has_kind.then_some(options);
    ReadFrontend { element: Element { spec, section, options }, listens }
}

/// Reads `listen`, and `dual_stack`, which stands for a second listen.
fn read_listen(section: &mut Section<'_>) -> Option<Vec<Address>> {
    let listen = section.required("listen").map(|ListenAddresses(listen)| listen);
    let dual_stack = section.optional("dual_stack").unwrap_or(false);
    let listen = listen?;
    match (dual_stack, listen.as_slice()) {
        (false, _) => Some(listen),
        (true, [six]) if six.ip == IpAddr::V6(Ipv6Addr::UNSPECIFIED) => {
            let four = Address { ip: Ipv4Addr::UNSPECIFIED.into(), ..*six };
            Some(vec![*six, four])
        }
        (true, [first, ..]) => {
            let ports = first.ports;
            section.problem(
                "dual_stack",
                format_args!("needs exactly one listen, on [::]: write listen: \"[::]:{ports}\", or list the addresses of both families and remove this key"),
            );
            None
        }
        (true, []) => None,
    }
}

/// Finds the target and the endpoint of a reference.
fn resolve<'t>(
    section: &mut Section<'_>,
    reference: &Reference,
    targets: &Targets<'t>,
) -> Option<(&'t ReadTarget<'t>, usize)> {
    let Some(&index) = targets.by_name.get(reference.target.as_str()) else {
        let names = targets.list.iter().map(|target| target.element.spec.name.as_str()).filter(|name| !name.is_empty());
        let what = quoted(&reference.target);
        section.problem("target", format_args!("unknown target {what}: the file has {}", listed(names)));
        return None;
    };
    let found = &targets.list[index];
    let endpoints = &found.endpoints;
    let target = quoted(&reference.target);
    let names = || listed(endpoints.iter().map(|endpoint| endpoint.name.as_str()).filter(|name| !name.is_empty()));
    let endpoint = match (&reference.endpoint, endpoints.len()) {
        // The target's own problem.
        (_, 0) => None,
        (None, 1) => Some(0),
        (None, count) => {
            let names = names();
            section.problem(
                "target",
                format_args!(
                    "the target {target} has {count} endpoints: write {}:ENDPOINT with one of {names}",
                    reference.target
                ),
            );
            None
        }
        (Some(name), _) => {
            let position = endpoints.iter().position(|endpoint| endpoint.name == *name);
            if position.is_none() {
                let (what, names) = (quoted(name), names());
                section.problem("target", format_args!("the target {target} has no endpoint {what}: it has {names}"));
            }
            position
        }
    };
    Some((found, endpoint?))
}

/// Checks that DNAT can send a packet for the frontend to the endpoint. It changes neither protocol nor address family, maps
/// each port to one other port, and marks a flow as translated only if an address or a port changes.
fn agree(
    section: &mut Section<'_>,
    protocol: Option<Protocol>,
    listen: Option<&[Address]>,
    target: &str,
    endpoint: &ReadEndpoint,
) {
    let shown = format!("{target}:{}", endpoint.name);
    if let (Some(own), Some(other)) = (protocol, endpoint.protocol)
        && own != other
    {
        section.problem(
            "protocol",
            format_args!("{own}, but the endpoint {shown} uses {other}: write {other}, or remove this key"),
        );
    }
    let (Some(listen), Some(addresses)) = (listen, &endpoint.addresses) else { return };
    let its = addresses.iter().map(Address::to_string).collect::<Vec<_>>().join(" and ");
    for own in listen {
        let family = own.family();
        match addresses.iter().find(|address| address.family() == family) {
            None => section.problem(
                "listen",
                format_args!("{own} is {family}, but the endpoint {shown} at {its} has no {family} address: add one, or remove this listen"),
            ),
            Some(other) if other.ports.count() != own.ports.count() => section.problem(
                "listen",
                format_args!(
                    "{own} has {}, but the endpoint {shown} at {other} has {}: the numbers must match",
                    ports(own.ports.count()),
                    ports(other.ports.count())
                ),
            ),
            Some(other) if other.ip == own.ip && own.ports.common(other.ports).is_some() => section.problem(
                "listen",
                format_args!(
                    "{own} is the address of the endpoint {shown} ({other}) itself, so nothing would be translated, and its use \
                     could not be tracked: give one of them another port or address"
                ),
            ),
            Some(other) if other.ip == Ipv6Addr::LOCALHOST && own.ip != Ipv6Addr::LOCALHOST => section.warn(
                "listen",
                format_args!(
                    "on {own}, only clients on this host can reach the endpoint {shown} at {other}, because IPv6 has no \
                     route_localnet: let the endpoint listen on an address of an interface, or add IPv4 addresses to both"
                ),
            ),
            Some(_) => {}
        }
    }
}

fn ports(count: u32) -> String {
    if count == 1 { "1 port".to_owned() } else { format!("{count} ports") }
}
