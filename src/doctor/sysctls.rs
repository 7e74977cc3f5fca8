//! Forwarding and `route_localnet`.

use rustix::io::Errno;

use super::{Caller, Context, Finding, Path, endpoints};
use crate::ids::Family;

const ROUTE_LOCALNET: &str = "/proc/sys/net/ipv4/conf/all/route_localnet";

/// Checks the settings that a path needs.
pub(super) fn check(context: &Context<'_>, findings: &mut Vec<Finding>) {
    findings.extend(Family::ALL.into_iter().filter_map(|family| check_forwarding(context, family)));
    // The daemon logs it on its own.
    if context.caller == Caller::Operator {
        findings.extend(check_route_localnet(context));
    }
}

fn check_forwarding(context: &Context<'_>, family: Family) -> Option<Finding> {
    let (code, setting, link_setting) = match family {
        Family::V4 => ("ip-forward-off", "net.ipv4.ip_forward", "forwarding"),
        Family::V6 => ("ipv6-forward-off", "net.ipv6.conf.all.forwarding", "force_forwarding"),
    };
    let needs = |path: &&Path| Family::of(path.address.ip()) == family && path.is_public();
    let about = endpoints(context.scope.remote().filter(needs))?;
    // An operator may have switched it on for some interfaces only.
    if context.setting(setting) != Some(0) || context.any_link_has(family, link_setting) {
        return None;
    }
    let problem = format!(
        "the kernel does not forward IPv{} ({setting} is 0), so no client reaches a remote backend",
        family.version()
    );
    let finding = Finding::error(code, problem, format!("sysctl -w {setting}=1")).about(about);
    let note = "an interface configured by router advertisements also needs net.ipv6.conf.INTERFACE.accept_ra=2";
    Some(if family == Family::V6 { finding.note(note) } else { finding })
}

fn check_route_localnet(context: &Context<'_>) -> Option<Finding> {
    let needs = |path: &&Path| path.address.is_ipv4() && path.address.ip().is_loopback() && path.is_public();
    let about = endpoints(context.scope.paths.iter().filter(needs))?;
    let is_on = context.setting("net.ipv4.conf.all.route_localnet").is_some_and(|value| value != 0);
    let is_refused = match context.host.may_write(ROUTE_LOCALNET) {
        Ok(()) => false,
        Err(Errno::ROFS) => true,
        // The daemon may have capabilities that this process lacks.
        Err(_) => context.can_query(),
    };
    if is_on || !is_refused || context.any_link_has(Family::V4, "route_localnet") {
        return None;
    }
    let problem = "net.ipv4.conf.all.route_localnet is 0 and cannot be written here, so outside clients do not reach \
                   endpoints on 127.0.0.0/8";
    let finding = Finding::error("route-localnet-off", problem, "sysctl -w net.ipv4.conf.all.route_localnet=1");
    let note = "in a container, set it when the container is created: --sysctl net.ipv4.conf.all.route_localnet=1";
    Some(finding.about(about).note(note))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::testing::{Case, LOCAL4, REMOTE4, REMOTE6, held, only};

    #[test]
    fn forwarding_that_is_off_is_found() {
        for (setting, listen, address, other, code, by_link) in [
            ("net.ipv4.ip_forward", "0.0.0.0:80", REMOTE4, REMOTE6, "ip-forward-off", "ipv4/conf/clients/forwarding"),
            (
                "net.ipv6.conf.all.forwarding",
                "[::]:80",
                REMOTE6,
                REMOTE4,
                "ipv6-forward-off",
                "ipv6/conf/clients/force_forwarding",
            ),
        ] {
            let mut case = Case::new([held(listen, address)]);
            assert_eq!(case.codes(check), [""; 0]);
            case.host.set(setting, 0);
            let found = only(case.run(check), code);
            assert_eq!(found.remedy, format!("sysctl -w {setting}=1"));
            assert!(found.problem.contains(&format!("({setting} is 0)")), "{found:?}");
            assert_eq!(found.note.is_some(), address == REMOTE6);
            let link_setting = format!("/proc/sys/net/{by_link}");
            case.host.write(&link_setting, "0\n");
            assert_eq!(case.codes(check), [code]);
            case.host.write(&link_setting, "1\n");
            assert_eq!(case.codes(check), [""; 0]);
            case.host.files.insert(link_setting, Err(Errno::ACCESS));
            case.paths = vec![held(listen, other)];
            assert_eq!(case.codes(check), [""; 0], "the other version");
            case.paths = vec![held(if address == REMOTE4 { "127.0.0.1:80" } else { "[::1]:80" }, address)];
            assert_eq!(case.codes(check), [""; 0], "no outside clients");
            case.paths = vec![held(listen, address)];
            case.host.files.insert(format!("/proc/sys/{}", setting.replace('.', "/")), Err(Errno::ACCESS));
            assert_eq!(case.codes(check), [""; 0], "unreadable");
        }
    }

    #[test]
    fn route_localnet_that_cannot_be_written_is_found() {
        let mut case = Case::new([held("0.0.0.0:80", LOCAL4)]);
        assert_eq!(case.codes(check), [""; 0]);
        for errno in [Errno::ROFS, Errno::ACCESS] {
            case.host.may_write = Err(errno);
            assert_eq!(case.codes(check), ["route-localnet-off"], "{errno}");
        }
        for (listen, address) in [("127.0.0.1:80", LOCAL4), ("0.0.0.0:80", REMOTE4), ("[::]:80", "[::1]:80")] {
            case.paths = vec![held(listen, address)];
            assert_eq!(case.codes(check), [""; 0], "{listen} {address}");
        }
        case.paths = vec![held("0.0.0.0:80", LOCAL4)];
        case.host.set("net.ipv4.conf.all.route_localnet", 28775);
        assert_eq!(case.codes(check), [""; 0]);
        case.host.set("net.ipv4.conf.all.route_localnet", 0);
        case.host.set("net.ipv4.conf.clients.route_localnet", 1);
        assert_eq!(case.codes(check), [""; 0]);
        case.host.set("net.ipv4.conf.clients.route_localnet", 0);
        case.caller = Caller::Daemon;
        assert_eq!(case.codes(check), [""; 0]);
    }

    #[test]
    fn process_without_capabilities_does_not_judge_route_localnet() {
        let mut case = Case::new([held("0.0.0.0:80", LOCAL4)]);
        case.host.write("/proc/thread-self/status", "CapEff:\t0\n");
        case.host.may_write = Err(Errno::ACCESS);
        assert_eq!(case.codes(check), [""; 0]);
        case.host.may_write = Err(Errno::ROFS);
        assert_eq!(case.codes(check), ["route-localnet-off"]);
    }
}
