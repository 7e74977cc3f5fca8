//! Strict `rp_filter`: the kernel drops a packet that arrives on another interface than the route back to its source.
//!
//! It does no harm to a router between two networks, nor to held packets that are sent on: those leave by the output hook, which
//! has no such filter. It affects hosts with two uplinks. The sources of clients are known for the networks in `allow`; hosts
//! with several default routes are checked for other clients too. The kernel is queried for whether it drops their packets.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr};

use super::{Context, Finding, MAX_PATHS, Path, UNASSIGNED, link_setting};
use crate::ids::Family;
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
    let (name, setting) = (&link.name, link_setting(Family::V4, link, "rp_filter"));
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
    value("net.ipv4.conf.all.rp_filter").max(value(&link_setting(Family::V4, link, "rp_filter"))) == 1
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

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;
    use crate::doctor::testing::{BACKENDS, CLIENTS, Case, LO, LOCAL4, by, held, ip, only};

    const ROUTES: &str = "/proc/thread-self/net/route";
    const STRICT: &str = "net.ipv4.conf.clients.rp_filter";

    /// Two uplinks: clients come in by `clients`, and the route back to them leads through `backends`.
    fn two_uplinks() -> Case {
        let mut case = Case::new([held("0.0.0.0:80", LOCAL4)]);
        case.host.set(STRICT, 1);
        case.host.write(
            ROUTES,
            "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\n\
             backends\t00000000\t027100CB\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
             clients\t00000000\t026433C6\t0003\t0\t0\t10\t00000000\t0\t0\t0\n\
             lo\t00000000\t026433C6\t0003\t0\t0\t10\t000000FF\t0\t0\t0\n",
        );
        case.host.routes.insert(UNASSIGNED[0], by(BACKENDS));
        case.host.input_routes.insert(UNASSIGNED[0], Ok(None));
        case
    }

    fn prefix(address: &str, length: u8) -> crate::config::Prefix {
        crate::config::Prefix { address: ip(address), length }
    }

    #[test]
    fn strict_filter_is_found_with_two_uplinks() {
        let mut case = two_uplinks();
        let found = only(case.run(check), "rp-filter-strict");
        assert!(found.problem.starts_with("packets from networks behind a default route that arrive on clients"));
        assert!(found.problem.contains("through backends, and rp_filter of clients is strict"), "{found:?}");
        assert_eq!(found.remedy, "sysctl -w net.ipv4.conf.clients.rp_filter=2");
        assert_eq!(found.about.as_deref(), Some("frontend f 0.0.0.0:80"));
        case.paths.push(held("0.0.0.0:81", LOCAL4));
        only(case.run(check), "rp-filter-strict");
        case.paths = vec![held("198.51.100.1:80", LOCAL4)];
        only(case.run(check), "rp-filter-strict");
        for (listen, why) in [
            ("203.0.113.1:80", "an address of the other interface"),
            ("192.0.2.7:80", "of none"),
            ("127.0.0.1:80", "no remote clients"),
            ("[::]:80", "IPv6"),
        ] {
            case.paths = vec![held(listen, LOCAL4)];
            assert_eq!(case.run(check), [], "{why}");
        }
    }

    #[test]
    fn larger_setting_applies() {
        let mut case = two_uplinks();
        for (all, own, strict) in [(0, 0, false), (0, 1, true), (1, 0, true), (2, 1, false), (1, 2, false)] {
            case.host.set("net.ipv4.conf.all.rp_filter", all);
            case.host.set(STRICT, own);
            let expected = if strict { vec!["rp-filter-strict"] } else { vec![] };
            assert_eq!(case.codes(check), expected, "{all} {own}");
        }
        case.host.files.insert("/proc/sys/net/ipv4/conf/all/rp_filter".to_owned(), Err(Errno::ACCESS));
        case.host.set(STRICT, 1);
        assert_eq!(case.codes(check), ["rp-filter-strict"]);
    }

    #[test]
    fn packets_that_the_kernel_accepts_are_no_finding() {
        let mut case = two_uplinks();
        case.host.input_routes.clear();
        assert_eq!(case.run(check), []);
        // Dropped for another reason than the reverse path.
        let mut case = two_uplinks();
        for back in [by(CLIENTS), by(LO), Ok(None), by(99)] {
            case.host.routes.insert(UNASSIGNED[0], back);
            assert_eq!(case.run(check), [], "{back:?}");
        }
        let mut case = two_uplinks();
        case.host.files.remove(ROUTES);
        assert_eq!(case.run(check), [], "no default route");
    }

    #[test]
    fn loopback_interface_is_not_checked() {
        let mut case = two_uplinks();
        case.host.set(STRICT, 0);
        case.host.set("net.ipv4.conf.lo.rp_filter", 1);
        case.host.write(ROUTES, "lo 00000000 0 0 0 0 0 00000000\n");
        assert_eq!(case.run(check), []);
    }

    #[test]
    fn named_networks_are_checked_on_named_interfaces() {
        let mut case = two_uplinks();
        case.paths[0].allow = vec![prefix("192.0.2.128", 25), prefix("2001:db8::", 32)];
        case.host.routes.insert(ip("192.0.2.130"), by(BACKENDS));
        case.host.input_routes.insert(ip("192.0.2.130"), Ok(None));
        assert_eq!(case.run(check), [], "they may come in by another interface");
        case.paths[0].interfaces = vec!["clients".to_owned()];
        let found = only(case.run(check), "rp-filter-strict");
        assert!(
            found.problem.starts_with("packets from 192.0.2.128/25 that arrive on clients are dropped"),
            "{found:?}"
        );
        case.paths[0].interfaces = vec!["clients".to_owned(), "backends".to_owned()];
        assert_eq!(case.run(check), [], "the way back is a way in too");
        case.paths[0].interfaces = vec!["backends".to_owned()];
        assert_eq!(case.run(check), []);
    }

    #[test]
    fn source_is_within_the_network() {
        let mut path = held("0.0.0.0:80", LOCAL4);
        path.interfaces = vec!["clients".to_owned()];
        for (address, length, expected) in [
            ("10.0.0.0", 8, "10.0.0.2"),
            ("10.0.0.0", 29, "10.0.0.2"),
            ("10.0.0.4", 30, "10.0.0.4"),
            ("10.0.0.4", 32, "10.0.0.4"),
            ("0.0.0.0", 0, "192.0.2.1"),
        ] {
            path.allow = vec![prefix(address, length)];
            assert_eq!(sources(&path, false), [(ip(expected), format!("{address}/{length}"))]);
        }
    }

    #[test]
    fn number_of_findings_is_limited() {
        let mut case = two_uplinks();
        case.paths[0].interfaces = vec!["clients".to_owned()];
        for n in 0..=MAX_FINDINGS {
            let n = u8::try_from(n).expect("small");
            case.paths[0].allow.push(prefix(&format!("10.0.0.{n}"), 32));
            case.host.routes.insert(ip(&format!("10.0.0.{n}")), by(BACKENDS));
            case.host.input_routes.insert(ip(&format!("10.0.0.{n}")), Ok(None));
        }
        assert_eq!(case.run(check).len(), MAX_FINDINGS);
    }

    #[test]
    fn failed_lookup_is_one_finding() {
        let mut case = two_uplinks();
        case.host.input_routes.insert(UNASSIGNED[0], Err(Errno::MFILE));
        let found = only(case.run(check), "not-looked-at");
        assert!(found.problem.starts_with("the routes back to clients could not be checked"), "{found:?}");
        case.host.input_routes.insert(UNASSIGNED[0], Ok(None));
        case.host.routes.insert(UNASSIGNED[0], Err(Errno::MFILE));
        only(case.run(check), "not-looked-at");
    }
}
