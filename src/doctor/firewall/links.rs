//! By which interfaces clients come.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::LOOPBACK;
use crate::doctor::{Host, Path};
use crate::netlink::link::Link;
use crate::netlink::route;

/// How many interfaces clients are tried on.
const MOST_LINKS: usize = 32;

/// Addresses of documentation (RFC 5737, RFC 9637), to which only a default route leads.
const FAR_AWAY: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V6(Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 1))];

/// Those of `interfaces`; else that of the address they connect to; else all that have an address, but for the one that leads
/// to the backend: unless that leads to all the world too, or there is no other.
pub(super) fn of_clients<'h>(path: &Path, host: &'h Host, to_backend: Option<&str>) -> Vec<&'h str> {
    let meant = &path.interfaces;
    if !meant.is_empty() {
        return names(host, |link| meant.contains(&link.name));
    }
    let has = |link: &Link, is: &dyn Fn(IpAddr) -> bool| {
        host.addresses.iter().any(|(ip, index)| *index == link.index && is(*ip))
    };
    let listen = path.listen.ip();
    if !listen.is_unspecified() {
        let own = names(host, |link| has(link, &|ip| ip == listen));
        if !own.is_empty() {
            return own;
        }
    }
    // The ports of a bridge have link-local addresses, and no packets of their own.
    let is_global = |ip: IpAddr| !matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
    let is_one = |ip: IpAddr| ip.is_ipv4() == listen.is_ipv4() && is_global(ip);
    let numbered = |link: &Link| link.name != LOOPBACK && has(link, &is_one);
    let far_away = FAR_AWAY[usize::from(listen.is_ipv6())];
    let to_the_world = route::look_up(far_away).ok().flatten().and_then(|route| host.name_of(route.interface?));
    let others =
        names(host, |link| numbered(link) && (Some(link.name.as_str()) != to_backend || to_the_world == to_backend));
    if others.is_empty() { names(host, numbered) } else { others }
}

fn names(host: &Host, is_one: impl Fn(&Link) -> bool) -> Vec<&str> {
    host.links.iter().filter(|link| is_one(link)).map(|link| link.name.as_str()).take(MOST_LINKS).collect()
}
