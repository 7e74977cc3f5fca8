//! Which capabilities this process has (capabilities(7)).

use super::{Asker, Finding, Host, Severity, Subject, sysctls};

/// Numbers of linux/capability.h.
const NET_BIND_SERVICE: u32 = 10;
const NET_ADMIN: u32 = 12;
const NET_RAW: u32 = 13;

/// Looks for what is missing.
pub(super) fn examine(subject: &Subject, host: &Host, findings: &mut Vec<Finding>) {
    if host.asker == Asker::Operator {
        let first_port = sysctls::read("net.ipv4.ip_unprivileged_port_start");
        let first_port = first_port.and_then(|port| port.try_into().ok()).unwrap_or(1024);
        judge(subject, effective(), first_port, host.daemon_runs, findings);
    }
}

/// Whether the kernel can be asked about rules and flows.
pub(super) fn may_ask() -> bool {
    has(effective(), NET_ADMIN)
}

fn judge(subject: &Subject, held: u64, first_port: u16, daemon_runs: bool, findings: &mut Vec<Finding>) {
    // A daemon that runs has rights of its own.
    let severity = if daemon_runs { Severity::Warning } else { Severity::Error };
    let mut lacks = |code, capability: &str, what: &str| {
        let problem = format!("this process has no {capability}, and without it {what}");
        let remedy = format!("run it as root, or with AmbientCapabilities={capability} in its unit");
        findings.push(Finding::new(severity, code, problem, remedy));
    };
    if !has(held, NET_ADMIN) {
        lacks(
            "no-net-admin",
            "CAP_NET_ADMIN",
            "proxygw cannot load its rules; nft's rules, conntrack and NFLOG could not be looked at",
        );
    }
    if !has(held, NET_RAW) && !daemon_runs && subject.paths.iter().any(|path| path.holds().is_some()) {
        lacks("no-net-raw", "CAP_NET_RAW", "packet:hold cannot send held packets on");
    }
    let privileged = |path: &super::Path| path.answers_cold() && path.listen.port() < first_port;
    if !has(held, NET_BIND_SERVICE) && !daemon_runs && subject.paths.iter().any(privileged) {
        let what = format!("static:http cannot listen on a port below {first_port}");
        lacks("no-net-bind-service", "CAP_NET_BIND_SERVICE", &what);
    }
}

fn has(held: u64, capability: u32) -> bool {
    held >> capability & 1 == 1
}

/// The effective set of this thread; all of them where it cannot be read.
fn effective() -> u64 {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(u64::MAX)
}
