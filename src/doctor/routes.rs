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

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;
    use crate::doctor::testing::{Case, LOCAL4, REMOTE4, REMOTE6, at, held, only};

    #[test]
    fn endpoint_without_a_route_is_an_error_if_its_backend_is_external() {
        let mut case =
            Case::new([held("0.0.0.0:80", REMOTE4), held("0.0.0.0:81", REMOTE4), held("0.0.0.0:82", LOCAL4)]);
        assert_eq!(case.run(check), []);
        case.host.routes.remove(&at(REMOTE4).ip());
        let found = only(case.run(check), "no-route");
        assert_eq!(
            (found.severity, found.about.as_deref()),
            (Severity::Error, Some("endpoint b:http 203.0.113.2:8080"))
        );
        assert_eq!(found.remedy, "ip route add 203.0.113.2 via GATEWAY");
        case.paths[0].external = false;
        assert_eq!(only(case.run(check), "no-route").severity, Severity::Warning);
    }

    #[test]
    fn disabled_ipv6_is_the_reason_of_a_missing_route() {
        let mut case = Case::new([held("[::]:80", REMOTE6)]);
        case.host.routes.clear();
        let remedy = |case: &Case| only(case.run(check), "no-route").remedy;
        assert_eq!(remedy(&case), "ip -6 route add 2001:db8:2::2 via GATEWAY");
        case.host.set(DISABLE_IPV6, 0);
        assert_eq!(remedy(&case), "ip -6 route add 2001:db8:2::2 via GATEWAY");
        case.host.set(DISABLE_IPV6, 1);
        assert_eq!(remedy(&case), "sysctl -w net.ipv6.conf.all.disable_ipv6=0");
        case.paths = vec![held("0.0.0.0:80", REMOTE4)];
        assert_eq!(remedy(&case), "ip route add 203.0.113.2 via GATEWAY");
    }

    #[test]
    fn many_endpoints_without_a_route_are_one_more_finding() {
        let found = |n: usize| {
            let path = |n| held("0.0.0.0:80", &format!("192.0.2.{n}:80"));
            Case::new((0..n).map(path)).run(check)
        };
        assert_eq!(found(MAX_NAMED).len(), MAX_NAMED);
        let found = found(MAX_NAMED + 2);
        assert_eq!(found.len(), MAX_NAMED + 1);
        assert_eq!(found[MAX_NAMED].problem, "this host has no route to 2 more endpoints");
        assert_eq!(
            found[MAX_NAMED].about.as_deref(),
            Some("endpoint b:http 192.0.2.8:80, endpoint b:http 192.0.2.9:80")
        );
    }

    #[test]
    fn failed_lookup_is_one_finding() {
        let mut case = Case::new([held("0.0.0.0:80", REMOTE4), held("[::]:80", REMOTE6)]);
        case.host.routes.values_mut().for_each(|route| *route = Err(Errno::MFILE));
        let found = only(case.run(check), "not-looked-at");
        assert!(found.problem.starts_with("the routes to the endpoints could not be checked: Too many"), "{found:?}");
    }

    #[test]
    fn ipv6_loopback_endpoint_is_found_if_clients_are_remote() {
        let mut case = Case::new([held("[::]:80", "[::1]:8080")]);
        assert_eq!(case.codes(check), ["ipv6-loopback-endpoint"]);
        case.caller = Caller::Daemon;
        assert_eq!(case.codes(check), [""; 0]);
        for (listen, address) in [("[::1]:80", "[::1]:8080"), ("[::]:80", REMOTE6), ("0.0.0.0:80", LOCAL4)] {
            assert_eq!(Case::new([held(listen, address)]).codes(check), [""; 0], "{listen} {address}");
        }
    }
}
