//! Strict `rp_filter`: the kernel drops a packet that comes in by another interface than an answer would leave by.
//!
//! Between two networks that each have one way it does no harm, and neither do our own packets mind: held ones that are sent
//! on leave by the output hook, where no reverse path is asked for. It bites where clients come in by an interface that the
//! route back to them does not lead through: two uplinks. Which clients those are is known for those in `allow`, and for all
//! the world where there is more than one default route; the kernel itself is asked whether it would take their packets.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use super::{Finding, Host, MOST_PATHS, Path, Subject, not_looked_at};
use crate::netlink::link::Link;
use crate::netlink::route::Routes;

/// An address that only a default route leads to (RFC 5737), for all the world.
const FAR_AWAY: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// How many findings are enough.
const MOST_FINDINGS: usize = 16;

/// Looks for clients whose packets the kernel would not take. IPv6 has no such filter.
pub(super) fn examine(subject: &Subject, host: &Host, findings: &mut Vec<Finding>) {
    let strict: Vec<&Link> = host.links.iter().filter(|link| link.name != "lo" && is_strict(&link.name)).collect();
    if strict.is_empty() {
        return;
    }
    let defaults = default_interfaces(&std::fs::read_to_string("/proc/thread-self/net/route").unwrap_or_default());
    let mut routes = match Routes::open() {
        Ok(routes) => routes,
        Err(error) => return findings.push(not_looked_at("the routes back to clients", &error, "ip route get")),
    };
    let mut seen = BTreeSet::new();
    for path in subject.paths.iter().filter(|path| path.listen.is_ipv4() && path.is_public()).take(MOST_PATHS) {
        for link in strict.iter().filter(|link| comes_in_by(path, link)) {
            // An address that is named is reached by its own interface.
            let wildcard = path.listen.ip().is_unspecified();
            let own =
                host.addresses.iter().filter(|(ip, index)| ip.is_ipv4() && *index == link.index).map(|(ip, _)| *ip);
            let Some(listen) = own.filter(|ip| wildcard || *ip == path.listen.ip()).min() else { continue };
            for (source, clients) in sources(path, defaults.contains(&link.name)) {
                let Some(back) = refused(&mut routes, source, link, listen).and_then(|back| host.name_of(back)) else {
                    continue;
                };
                let expected = path.interfaces.iter().any(|name| name == back);
                if !expected && seen.len() < MOST_FINDINGS && seen.insert((link.name.clone(), source)) {
                    findings.push(strict_finding(link, &clients, back).about(path.frontend_label()));
                }
            }
        }
    }
}

fn strict_finding(link: &Link, clients: &str, back: &str) -> Finding {
    let name = &link.name;
    let problem = format!(
        "{clients} that come in by {name} are dropped, since the route back to them leads through {back} and \
         net.ipv4.conf.{name}.rp_filter is strict"
    );
    Finding::warning(
        "rp-filter-strict",
        problem,
        format!("sysctl -w net.ipv4.conf.{}.rp_filter=2", name.replace('.', "/")),
    )
    .note(format!("or lead the route back to them through {name}, or leave {name} out of the frontend's interfaces"))
}

/// Whether clients of a frontend could come in by an interface: one of `interfaces`, else any.
fn comes_in_by(path: &Path, link: &Link) -> bool {
    path.interfaces.is_empty() || path.interfaces.contains(&link.name)
}

/// Addresses of clients, with what messages call them.
fn sources(path: &Path, has_default: bool) -> Vec<(IpAddr, String)> {
    if path.allow.is_empty() {
        return has_default.then(|| (FAR_AWAY, "clients from far away".to_owned())).into_iter().collect();
    }
    // Without `interfaces` nobody says that these clients come in by this one.
    let known = path.allow.iter().filter(|prefix| prefix.address.is_ipv4() && !path.interfaces.is_empty());
    let inside = |ip: IpAddr| match ip {
        // The first of a network is its own address, the next may be ours.
        IpAddr::V4(ip) if !ip.is_unspecified() => IpAddr::V4(Ipv4Addr::from(u32::from(ip).saturating_add(2))),
        _ => FAR_AWAY,
    };
    known
        .map(|prefix| {
            let ip = if prefix.length < 30 { inside(prefix.address) } else { prefix.address };
            (ip, format!("clients from {}/{}", prefix.address, prefix.length))
        })
        .collect()
}

/// The interface of the route back, if the kernel would not take such a client's packet for that reason.
fn refused(routes: &mut Routes, source: IpAddr, link: &Link, listen: IpAddr) -> Option<u32> {
    let taken = routes.look_up_input(source, link.index, listen).ok()?;
    let back = routes.look_up(source).ok()??;
    (taken.is_none() && !back.local).then_some(back.interface?).filter(|back| *back != link.index)
}

/// The kernel takes the stricter of both, by number.
fn is_strict(interface: &str) -> bool {
    let value = |name: &str| {
        let text = std::fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{name}/rp_filter"));
        text.ok().and_then(|text| text.trim().parse::<u8>().ok()).unwrap_or(0)
    };
    value("all").max(value(interface)) == 1
}

/// The interfaces with a default route, whichever its metric (`/proc/net/route`: name, destination, gateway, flags, three
/// counters, mask).
fn default_interfaces(table: &str) -> BTreeSet<String> {
    let line = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        (fields.get(1) == Some(&"00000000") && fields.get(7) == Some(&"00000000")).then(|| fields[0].to_owned())
    };
    table.lines().filter_map(line).collect()
}
