//! The ways to the endpoints.

use super::sysctls::distinct;
use super::{Asker, Finding, Host, MOST_NAMED, Path, Severity, Subject, listed, not_looked_at, sysctls};
use crate::netlink::route::Routes;

const DISABLE_IPV6: &str = "net.ipv6.conf.all.disable_ipv6";

/// Looks for endpoints that no packet can be sent to.
pub(super) fn examine(subject: &Subject, host: &Host, findings: &mut Vec<Finding>) {
    let mut routes = match Routes::open() {
        Ok(routes) => routes,
        Err(error) => return findings.push(not_looked_at("the routes to the endpoints", &error, "ip route get")),
    };
    let mut asked = std::collections::HashSet::new();
    let missing = subject.remote().filter(|path| asked.insert(path.address.ip()));
    let missing: Vec<&Path> = missing.filter(|path| matches!(routes.look_up(path.address.ip()), Ok(None))).collect();
    findings.extend(missing.iter().take(MOST_NAMED).map(|path| no_route(path)));
    let more: Vec<String> = missing.iter().skip(MOST_NAMED).map(|path| path.endpoint_label()).collect();
    if !more.is_empty() {
        let problem = format!("this host has no route to {} more endpoints", more.len());
        let finding =
            Finding::warning("no-route", problem, "ip route add PREFIX via GATEWAY, for each network of them");
        findings.push(finding.about(listed(&more)));
    }
    let out_of_reach = |path: &&Path| path.address.is_ipv6() && path.address.ip().is_loopback() && path.is_public();
    let out_of_reach = distinct(subject.paths.iter().filter(out_of_reach).map(Path::endpoint_label));
    // The daemon has warned of it when it read its configuration.
    if !out_of_reach.is_empty() && host.asker == Asker::Operator {
        let problem = "IPv6 lets no client from outside reach ::1, only those on this host";
        let remedy = "give the backend an address of an interface, and name it in the endpoint's address";
        findings.push(Finding::warning("ipv6-loopback-endpoint", problem, remedy).about(listed(&out_of_reach)));
    }
}

fn no_route(path: &Path) -> Finding {
    let ip = path.address.ip();
    let ip_command = if ip.is_ipv4() { "ip" } else { "ip -6" };
    // A command can bring its own interface up.
    let severity = if path.external { Severity::Error } else { Severity::Warning };
    let problem = format!("this host has no route to {ip}");
    if ip.is_ipv6() && sysctls::read(DISABLE_IPV6).is_some_and(|value| value != 0) {
        let problem = format!("{problem}: IPv6 is off ({DISABLE_IPV6} is not 0)");
        let finding = Finding::new(severity, "no-route", problem, format!("sysctl -w {DISABLE_IPV6}=0"));
        return finding.about(path.endpoint_label()).note("or leave the IPv6 addresses out of the configuration");
    }
    Finding::new(severity, "no-route", problem, format!("{ip_command} route add {ip} via GATEWAY"))
        .about(path.endpoint_label())
        .note("GATEWAY is the next host on the way; where it is on a link of this host, dev INTERFACE instead")
}
