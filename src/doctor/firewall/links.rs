//! By which interfaces clients come.

use std::net::IpAddr;

use super::LOOPBACK;
use crate::doctor::{Context, Path, UNASSIGNED};
use crate::netlink::link::Link;

/// How many interfaces clients are tried on.
const MOST_LINKS: usize = 32;

/// Those of `interfaces`; else that of the address they connect to; else all that have an address, but for the one that leads
/// to the backend: unless that leads to all the world too, or there is no other.
pub(super) fn of_clients<'c>(path: &Path, context: &'c Context<'_>, to_backend: Option<&str>) -> Vec<&'c str> {
    let meant = &path.interfaces;
    if !meant.is_empty() {
        return names(context, |link| meant.contains(&link.name));
    }
    let has = |link: &Link, is: &dyn Fn(IpAddr) -> bool| {
        context.addresses.iter().any(|(ip, index)| *index == link.index && is(*ip))
    };
    let listen = path.listen.ip();
    if !listen.is_unspecified() {
        let own = names(context, |link| has(link, &|ip| ip == listen));
        if !own.is_empty() {
            return own;
        }
    }
    // The ports of a bridge have link-local addresses, and no packets of their own.
    let is_global = |ip: IpAddr| !matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
    let is_one = |ip: IpAddr| ip.is_ipv4() == listen.is_ipv4() && is_global(ip);
    let numbered = |link: &Link| link.name != LOOPBACK && has(link, &is_one);
    let far_away = UNASSIGNED[usize::from(listen.is_ipv6())];
    let to_the_world =
        context.host.route(far_away).ok().flatten().and_then(|route| context.link_name(route.interface?));
    let others =
        names(context, |link| numbered(link) && (Some(link.name.as_str()) != to_backend || to_the_world == to_backend));
    if others.is_empty() { names(context, numbered) } else { others }
}

fn names<'c>(context: &'c Context<'_>, is_one: impl Fn(&Link) -> bool) -> Vec<&'c str> {
    context.links.iter().filter(|link| is_one(link)).map(|link| link.name.as_str()).take(MOST_LINKS).collect()
}
