//! Strict `rp_filter`: the kernel drops a packet that arrives on another interface than the route back to its source.
//!
//! It does no harm to a router between two networks, nor to held packets that are sent on: those leave by the output hook, which
//! has no such filter. It affects hosts with two uplinks. The sources of clients are known for the networks in `allow`; hosts
//! with several default routes are checked for other clients too. The kernel is queried for whether it drops their packets.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr};

use super::{Context, Finding, MAX_PATHS, Path, UNASSIGNED, link_setting};
use crate::netlink::link::Link;

/// Maximum number of findings.
const MAX_FINDINGS: usize = 16;

/// Finds clients whose packets the kernel drops. IPv6 has no such filter.
pub(super) fn check(context: &Context<'_>, findings: &mut Vec<Finding>) {
    let strict = context.links.iter().filter(|link| link.name != "lo" && is_strict(context, link));
    let strict: Vec<&Link> = strict.collect();
    if let Err(error) = check_links(context, &strict, findings) {
        findings.push(Finding::not_checked("the routes back to clients", &error, "ip route get ADDRESS"));
    }
}

fn check_links(context: &Context<'_>, strict: &[&Link], findings: &mut Vec<Finding>) -> io::Result<()> {
    let defaults = default_interfaces(&context.host.read("/proc/thread-self/net/route").unwrap_or_default());
    let mut seen = BTreeSet::new();
    let paths = context.scope.paths.iter().filter(|path| path.listen.is_ipv4() && path.is_public());
    for path in paths.take(MAX_PATHS) {
        let is_meant = |link: &&&Link| path.interfaces.is_empty() || path.interfaces.contains(&link.name);
        for link in strict.iter().filter(is_meant) {
            let Some(listen) = address_on(context, path, link) else { continue };
            for (source, clients) in sources(path, defaults.contains(&link.name)) {
                let back = interface_back(context, source, link, listen)?.and_then(|back| context.link_name(back));
                // The other interface is one of the frontend's, so no client has to come in by this one.
                let Some(back) = back.filter(|back| path.interfaces.iter().all(|name| name != back)) else { continue };
                if seen.len() < MAX_FINDINGS && seen.insert((&link.name, source)) {
                    findings.push(strict_finding(link, &clients, back).about(path.frontend_label()));
                }
            }
        }
    }
    Ok(())
}

/// The address that clients on an interface connect to: the frontend's, which is reached by its own interface; for a wildcard,
/// the lowest of the interface.
fn address_on(context: &Context<'_>, path: &Path, link: &Link) -> Option<IpAddr> {
    let listen = path.listen.ip();
    let own = context.addresses.iter().filter(|(ip, index)| ip.is_ipv4() && *index == link.index).map(|(ip, _)| *ip);
    own.filter(|ip| listen.is_unspecified() || *ip == listen).min()
}

fn strict_finding(link: &Link, clients: &str, back: &str) -> Finding {
    let (name, setting) = (&link.name, link_setting("ipv4", link, "rp_filter"));
    let problem = format!(
        "packets from {clients} that arrive on {name} are dropped: the route back leads through {back}, and rp_filter of {name} \
         is strict"
    );
    Finding::warning("rp-filter-strict", problem, format!("sysctl -w {setting}=2"))
        .note(format!("or route these clients through {name}, or remove {name} from the frontend's interfaces"))
}

/// Addresses of clients, and their names in messages.
fn sources(path: &Path, has_default: bool) -> Vec<(IpAddr, String)> {
    if path.allow.is_empty() {
        return Vec::from_iter(has_default.then(|| (UNASSIGNED[0], "networks behind a default route".to_owned())));
    }
    // Without `interfaces`, clients from these networks may come in by another one.
    let known = path.allow.iter().filter(|prefix| prefix.address.is_ipv4() && !path.interfaces.is_empty());
    let source = |address: IpAddr, length: u8| match address {
        IpAddr::V4(ip) if ip.is_unspecified() => UNASSIGNED[0],
        // The first address is that of the network, the second may be this host's.
        IpAddr::V4(ip) if length < 30 => Ipv4Addr::from(u32::from(ip).saturating_add(2)).into(),
        address => address,
    };
    known
        .map(|prefix| (source(prefix.address, prefix.length), format!("{}/{}", prefix.address, prefix.length)))
        .collect()
}

/// The interface of the route back, if it is another one and the kernel drops the client's packet.
fn interface_back(context: &Context<'_>, source: IpAddr, link: &Link, listen: IpAddr) -> io::Result<Option<u32>> {
    if context.host.input_route(source, link.index, listen)?.is_some() {
        return Ok(None);
    }
    let back = context.host.route(source)?.filter(|back| !back.local);
    Ok(back.and_then(|back| back.interface).filter(|back| *back != link.index))
}

/// The kernel applies the larger number of both settings.
fn is_strict(context: &Context<'_>, link: &Link) -> bool {
    let value = |name: &str| context.setting(name).unwrap_or(0);
    value("net.ipv4.conf.all.rp_filter").max(value(&link_setting("ipv4", link, "rp_filter"))) == 1
}

/// The interfaces with a default route of any metric (`/proc/net/route`: name, destination, gateway, flags, three counters,
/// mask).
fn default_interfaces(table: &str) -> BTreeSet<String> {
    let name = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        (fields.get(1) == Some(&"00000000") && fields.get(7) == Some(&"00000000")).then(|| fields[0].to_owned())
    };
    table.lines().filter_map(name).collect()
}
