//! The interfaces of clients.

use std::net::IpAddr;

use crate::dataplane::trace::Interface;
use crate::doctor::{Context, Path, UNASSIGNED};
use crate::netlink::link::Link;

/// Maximum number of interfaces that are tried.
const MAX_LINKS: usize = 32;

/// The interface that leads to an address.
pub(super) fn to<'c>(ip: IpAddr, context: &'c Context<'_>) -> Option<Interface<'c>> {
    let index = context.host.route(ip).ok().flatten()?.interface?;
    context.links.iter().find(|link| link.index == index).map(Interface::from)
}

/// Interfaces of a path's clients: those of `interfaces`; else the one with the address that they connect to; else all that
/// have an address, but for the one that leads to the backend, unless that is also the default route, or the only one.
pub(super) fn of_clients<'c>(
    path: &Path,
    context: &'c Context<'_>,
    to_backend: Option<Interface<'_>>,
) -> Vec<&'c Link> {
    if !path.interfaces.is_empty() {
        return links(context, |link| path.interfaces.contains(&link.name));
    }
    let has = |link: &Link, is: &dyn Fn(IpAddr) -> bool| {
        context.addresses.iter().any(|(ip, index)| *index == link.index && is(*ip))
    };
    let listen = path.listen.ip();
    if !listen.is_unspecified() {
        let own = links(context, |link| has(link, &|ip| ip == listen));
        if !own.is_empty() {
            return own;
        }
    }
    // The ports of a bridge have link-local addresses, and no packets of their own.
    let is_global = |ip: IpAddr| !matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
    let is_one = |ip: IpAddr| ip.is_ipv4() == listen.is_ipv4() && is_global(ip);
    let numbered = |link: &Link| link.name != Interface::LOOPBACK.name && has(link, &is_one);
    let far_away = UNASSIGNED[usize::from(listen.is_ipv6())];
    let is_default = to(far_away, context) == to_backend;
    let others = links(context, |link| numbered(link) && (is_default || Some(link.into()) != to_backend));
    if others.is_empty() { links(context, numbered) } else { others }
}

fn links<'c>(context: &'c Context<'_>, is_one: impl Fn(&Link) -> bool) -> Vec<&'c Link> {
    context.links.iter().filter(|link| is_one(link)).take(MAX_LINKS).collect()
}
