//! Capabilities of the process (capabilities(7)).

use super::host::Host;
use super::{Caller, Context, Finding, Path, Severity};

/// Numbers of linux/capability.h.
const NET_BIND_SERVICE: u32 = 10;
const NET_ADMIN: u32 = 12;
const NET_RAW: u32 = 13;

/// Lowest port that needs no capability, where the kernel has no setting.
const FIRST_UNPRIVILEGED_PORT: i64 = 1024;

/// A set of capabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Capabilities(pub u64);

impl Capabilities {
    /// The effective set of the calling thread; all of them if it cannot be read.
    pub(super) fn effective(host: &dyn Host) -> Capabilities {
        let status = host.read("/proc/thread-self/status").unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        Capabilities(line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(u64::MAX))
    }

    /// Returns true if the kernel answers queries about rules and flows.
    pub(super) fn can_query(self) -> bool {
        self.has(NET_ADMIN)
    }

    fn has(self, capability: u32) -> bool {
        self.0 >> capability & 1 == 1
    }
}

/// Finds the capabilities that an operator's process lacks.
pub(super) fn check(context: &Context<'_>, findings: &mut Vec<Finding>) {
    if context.caller == Caller::Daemon {
        return;
    }
    let daemon_runs = context.daemon_runs();
    // A running daemon has capabilities of its own.
    let severity = if daemon_runs { Severity::Warning } else { Severity::Error };
    let mut check = |capability, code, name: &str, effect: &str| {
        if !context.capabilities.has(capability) {
            let remedy = format!("run it as root, or set AmbientCapabilities={name} in its unit");
            findings.push(Finding::new(severity, code, format!("this process lacks {name}: {effect}"), remedy));
        }
    };
    let unchecked = "rules, conntrack and NFLOG could not be checked";
    let effect = if daemon_runs { unchecked } else { &format!("proxygw cannot load its rules; {unchecked}") };
    check(NET_ADMIN, "no-net-admin", "CAP_NET_ADMIN", effect);
    if daemon_runs {
        return;
    }
    let mut paths = context.scope.paths.iter();
    if paths.clone().any(|path| path.holds().is_some()) {
        check(NET_RAW, "no-net-raw", "CAP_NET_RAW", "packet:hold cannot send held packets on");
    }
    let first_port = context.setting("net.ipv4.ip_unprivileged_port_start").unwrap_or(FIRST_UNPRIVILEGED_PORT);
    let is_privileged = |path: &Path| path.answers_cold() && i64::from(path.listen.port()) < first_port;
    if paths.any(is_privileged) {
        let effect = format!("static:http cannot listen on a port below {first_port}");
        check(NET_BIND_SERVICE, "no-net-bind-service", "CAP_NET_BIND_SERVICE", &effect);
    }
}
