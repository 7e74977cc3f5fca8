//! Forwarding, and `route_localnet`.

use std::fs;

use rustix::fs::{Access, access};
use rustix::io::Errno;

use super::{Asker, Finding, Host, Subject, listed};

const ROUTE_LOCALNET: &str = "/proc/sys/net/ipv4/conf/all/route_localnet";

/// Looks at the settings that some path needs.
pub(super) fn examine(subject: &Subject, host: &Host, findings: &mut Vec<Finding>) {
    forwarding(subject, host, true, findings);
    forwarding(subject, host, false, findings);
    // The daemon says so itself.
    if host.asker == Asker::Operator {
        route_localnet(subject, host, findings);
    }
}

fn forwarding(subject: &Subject, host: &Host, ipv4: bool, findings: &mut Vec<Finding>) {
    let remote = subject.remote().filter(|path| path.address.is_ipv4() == ipv4 && path.is_public());
    let remote: Vec<String> = distinct(remote.map(super::Path::endpoint_label));
    let (code, version, name) = if ipv4 {
        ("ip-forward-off", "IPv4", "net.ipv4.ip_forward")
    } else {
        ("ipv6-forward-off", "IPv6", "net.ipv6.conf.all.forwarding")
    };
    // Who has switched it on for one interface knows what they do.
    let by_link =
        if ipv4 { host.some_link_has("ipv4", "forwarding") } else { host.some_link_has("ipv6", "force_forwarding") };
    if remote.is_empty() || is_on(name) != Some(false) || by_link {
        return;
    }
    let problem = format!("the kernel does not forward {version} ({name} is 0), so no client reaches a remote backend");
    let finding = Finding::error(code, problem, format!("sysctl -w {name}=1")).about(listed(&remote));
    findings.push(if ipv4 {
        finding
    } else {
        finding.note(
            "an interface that is configured by router advertisements needs net.ipv6.conf.INTERFACE.accept_ra=2 as well",
        )
    });
}

fn route_localnet(subject: &Subject, host: &Host, findings: &mut Vec<Finding>) {
    let needs = |path: &&super::Path| path.address.is_ipv4() && path.address.ip().is_loopback() && path.is_public();
    let needing: Vec<String> = distinct(subject.paths.iter().filter(needs).map(super::Path::endpoint_label));
    let on = is_on("net.ipv4.conf.all.route_localnet").unwrap_or(false) || host.some_link_has("ipv4", "route_localnet");
    let is_refused = match access(ROUTE_LOCALNET, Access::WRITE_OK) {
        Ok(()) => false,
        Err(Errno::ROFS) => true,
        // Without the right to it, another that runs as the daemon does may have it.
        Err(_) => host.may_ask,
    };
    if needing.is_empty() || on || !is_refused {
        return;
    }
    let problem = "net.ipv4.conf.all.route_localnet is 0 and cannot be written here, so clients from outside do not \
                   reach endpoints on 127.0.0.0/8";
    let finding = Finding::error("route-localnet-off", problem, "sysctl -w net.ipv4.conf.all.route_localnet=1");
    let note = "in a container, the runtime has to set it: --sysctl net.ipv4.conf.all.route_localnet=1";
    findings.push(finding.about(listed(&needing)).note(note));
}

/// Whether a setting is another than 0; `None` if it cannot be read.
fn is_on(name: &str) -> Option<bool> {
    Some(read(name)? != 0)
}

/// A setting that is a number, by its name with dots.
pub(super) fn read(name: &str) -> Option<i64> {
    fs::read_to_string(format!("/proc/sys/{}", name.replace('.', "/"))).ok()?.trim().parse().ok()
}

/// Each text once, in the order of their first appearance.
pub(super) fn distinct(texts: impl Iterator<Item = String>) -> Vec<String> {
    let mut seen = std::collections::HashSet::new();
    texts.filter(|text| seen.insert(text.clone())).collect()
}
