//! Routes to the endpoints.

use std::collections::HashSet;

use super::{Caller, Context, Finding, MAX_NAMED, Path, Severity, endpoints};

const DISABLE_IPV6: &str = "net.ipv6.conf.all.disable_ipv6";

/// Finds endpoints that packets cannot be sent to.
pub(super) fn check(context: &Context<'_>, findings: &mut Vec<Finding>) {
    let mut seen = HashSet::new();
    let mut missing = Vec::new();
    for path in context.scope.remote().filter(|path| seen.insert(path.address.ip())) {
        match context.host.route(path.address.ip()) {
            Ok(None) => missing.push(path),
            Ok(Some(_)) => {}
            Err(error) => {
                findings.push(Finding::not_checked("the routes to the endpoints", &error, "ip route get ADDRESS"));
                break;
            }
        }
    }
    findings.extend(missing.iter().take(MAX_NAMED).map(|path| no_route(context, path)));
    if let Some(about) = endpoints(missing.iter().skip(MAX_NAMED).copied()) {
        let problem = format!("this host has no route to {} more endpoints", missing.len() - MAX_NAMED);
        let remedy = "ip route add PREFIX via GATEWAY, for each of their networks";
        findings.push(Finding::warning("no-route", problem, remedy).about(about));
    }
    let is_loopback = |path: &&Path| path.address.is_ipv6() && path.address.ip().is_loopback() && path.is_public();
    let about = endpoints(context.scope.paths.iter().filter(is_loopback));
    // The daemon has logged it when it read its configuration.
    if let Some(about) = about.filter(|_| context.caller == Caller::Operator) {
        let problem = "outside clients cannot reach ::1: IPv6 has no setting like route_localnet";
        let remedy = "let the backend listen on an address of an interface, and set that as the endpoint's address";
        findings.push(Finding::warning("ipv6-loopback-endpoint", problem, remedy).about(about));
    }
}

fn no_route(context: &Context<'_>, path: &Path) -> Finding {
    let ip = path.address.ip();
    // A command can bring its own interface up.
    let severity = if path.external { Severity::Error } else { Severity::Warning };
    let problem = format!("this host has no route to {ip}");
    let is_disabled = ip.is_ipv6() && context.setting(DISABLE_IPV6).is_some_and(|value| value != 0);
    let finding = if is_disabled {
        let problem = format!("{problem}: IPv6 is disabled ({DISABLE_IPV6} is not 0)");
        Finding::new(severity, "no-route", problem, format!("sysctl -w {DISABLE_IPV6}=0"))
            .note("or remove the IPv6 addresses from the configuration")
    } else {
        let command = if ip.is_ipv4() { "ip" } else { "ip -6" };
        Finding::new(severity, "no-route", problem, format!("{command} route add {ip} via GATEWAY"))
            .note("GATEWAY is the next hop; if the endpoint is on a link of this host, use `dev INTERFACE` instead")
    };
    finding.about(path.endpoint_label())
}
