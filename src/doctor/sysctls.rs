//! Forwarding and `route_localnet`.

use std::net::SocketAddr;

use rustix::io::Errno;

use super::{Caller, Context, Finding, Path, endpoints};

const ROUTE_LOCALNET: &str = "/proc/sys/net/ipv4/conf/all/route_localnet";

const ACCEPT_RA: &str =
    "an interface configured by router advertisements also needs net.ipv6.conf.INTERFACE.accept_ra=2";

/// Forwarding of one version of IP.
struct Forwarding {
    code: &'static str,
    version: &'static str,
    setting: &'static str,
    is_version: fn(&SocketAddr) -> bool,
    /// Setting of an interface that does the same for it.
    of_link: (&'static str, &'static str),
    note: Option<&'static str>,
}

const FORWARDING: [Forwarding; 2] = [
    Forwarding {
        code: "ip-forward-off",
        version: "IPv4",
        setting: "net.ipv4.ip_forward",
        is_version: SocketAddr::is_ipv4,
        of_link: ("ipv4", "forwarding"),
        note: None,
    },
    Forwarding {
        code: "ipv6-forward-off",
        version: "IPv6",
        setting: "net.ipv6.conf.all.forwarding",
        is_version: SocketAddr::is_ipv6,
        of_link: ("ipv6", "force_forwarding"),
        note: Some(ACCEPT_RA),
    },
];

/// Checks the settings that a path needs.
pub(super) fn check(context: &Context<'_>, findings: &mut Vec<Finding>) {
    findings.extend(FORWARDING.iter().filter_map(|forwarding| check_forwarding(context, forwarding)));
    // The daemon logs it on its own.
    if context.caller == Caller::Operator {
        findings.extend(check_route_localnet(context));
    }
}

fn check_forwarding(context: &Context<'_>, forwarding: &Forwarding) -> Option<Finding> {
    let Forwarding { code, version, setting, of_link, note, .. } = forwarding;
    let needs = |path: &&Path| (forwarding.is_version)(&path.address) && path.is_public();
    let about = endpoints(context.scope.remote().filter(needs))?;
    // An operator may have switched it on for some interfaces only.
    if context.setting(setting) != Some(0) || context.any_link_has(of_link.0, of_link.1) {
        return None;
    }
    let problem =
        format!("the kernel does not forward {version} ({setting} is 0), so no client reaches a remote backend");
    let finding = Finding::error(code, problem, format!("sysctl -w {setting}=1")).about(about);
    Some(Finding { note: note.map(str::to_owned), ..finding })
}

fn check_route_localnet(context: &Context<'_>) -> Option<Finding> {
    let needs = |path: &&Path| path.address.is_ipv4() && path.address.ip().is_loopback() && path.is_public();
    let about = endpoints(context.scope.paths.iter().filter(needs))?;
    let is_on = context.setting("net.ipv4.conf.all.route_localnet").is_some_and(|value| value != 0);
    let is_refused = match context.host.may_write(ROUTE_LOCALNET) {
        Ok(()) => false,
        Err(Errno::ROFS) => true,
        // The daemon may have capabilities that this process lacks.
        Err(_) => context.capabilities.can_query(),
    };
    if is_on || !is_refused || context.any_link_has("ipv4", "route_localnet") {
        return None;
    }
    let problem = "net.ipv4.conf.all.route_localnet is 0 and cannot be written here, so outside clients do not reach \
                   endpoints on 127.0.0.0/8";
    let finding = Finding::error("route-localnet-off", problem, "sysctl -w net.ipv4.conf.all.route_localnet=1");
    let note = "in a container, set it when the container is created: --sysctl net.ipv4.conf.all.route_localnet=1";
    Some(finding.about(about).note(note))
}
