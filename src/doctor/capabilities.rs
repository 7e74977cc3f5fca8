//! Capabilities of the process (capabilities(7)).

use super::{Caller, Context, Finding, NET_ADMIN, Path, Severity};

/// Numbers of linux/capability.h.
const NET_BIND_SERVICE: u32 = 10;
const NET_RAW: u32 = 13;

/// Lowest port that needs no capability, where the kernel has no setting.
const FIRST_UNPRIVILEGED_PORT: i64 = 1024;

/// Finds the capabilities that an operator's process lacks.
pub(super) fn check(context: &Context<'_>, findings: &mut Vec<Finding>) {
    if context.caller == Caller::Daemon {
        return;
    }
    let daemon_runs = context.daemon_runs();
    // A running daemon has capabilities of its own.
    let severity = if daemon_runs { Severity::Warning } else { Severity::Error };
    let mut check = |capability, code, name: &str, effect: &str| {
        if !context.has_capability(capability) {
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
    if paths.clone().any(|path| path.cold.group().is_some()) {
        check(NET_RAW, "no-net-raw", "CAP_NET_RAW", "packet:hold cannot send held packets on");
    }
    let first_port = context.setting("net.ipv4.ip_unprivileged_port_start").unwrap_or(FIRST_UNPRIVILEGED_PORT);
    let is_privileged = |path: &Path| path.answers_cold() && i64::from(path.listen.port()) < first_port;
    if paths.any(is_privileged) {
        let effect = format!("static:http cannot listen on a port below {first_port}");
        check(NET_BIND_SERVICE, "no-net-bind-service", "CAP_NET_BIND_SERVICE", &effect);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::testing::{Case, LOCAL4, REMOTE4, answered, held};

    /// The effective set without some capabilities.
    fn without(capabilities: &[u32]) -> String {
        let set = capabilities.iter().fold(0x1ff_ffff_ffff_u64, |set, capability| set & !(1 << capability));
        format!("Name:\tproxygw\nCapPrm:\t0000000000000000\nCapEff:\t{set:016x}\n")
    }

    #[test]
    fn each_missing_capability_is_an_error() {
        let mut case = Case::new([held("0.0.0.0:80", REMOTE4), answered("0.0.0.0:81", LOCAL4)]);
        for (capability, name, code) in [
            (NET_ADMIN, "CAP_NET_ADMIN", "no-net-admin"),
            (NET_RAW, "CAP_NET_RAW", "no-net-raw"),
            (NET_BIND_SERVICE, "CAP_NET_BIND_SERVICE", "no-net-bind-service"),
        ] {
            case.host.write("/proc/thread-self/status", &without(&[capability]));
            let found = case.run(check);
            assert_eq!((found.len(), found[0].code, found[0].severity), (1, code, Severity::Error));
            assert!(found[0].problem.starts_with(&format!("this process lacks {name}: ")), "{found:?}");
            assert!(found[0].remedy.contains(&format!("AmbientCapabilities={name}")), "{found:?}");
        }
    }

    #[test]
    fn running_daemon_needs_none_of_ours() {
        let mut case = Case::new([held("0.0.0.0:80", REMOTE4), answered("0.0.0.0:81", LOCAL4)]);
        case.host.write("/proc/thread-self/status", &without(&[NET_ADMIN, NET_RAW, NET_BIND_SERVICE]));
        assert!(case.run(check)[0].problem.contains("proxygw cannot load its rules"));
        case.host.daemon_runs = true;
        let found = case.run(check);
        assert_eq!((found.len(), found[0].code, found[0].severity), (1, "no-net-admin", Severity::Warning));
        assert!(!found[0].problem.contains("cannot load its rules"), "{found:?}");
        case.caller = Caller::Daemon;
        assert_eq!(case.run(check), []);
    }

    #[test]
    fn capability_is_needed_only_by_what_is_configured() {
        let codes = |path, first_port: Option<i64>| {
            let mut case = Case::new([path]);
            case.host.write("/proc/thread-self/status", &without(&[NET_RAW, NET_BIND_SERVICE]));
            first_port.into_iter().for_each(|port| case.host.set("net.ipv4.ip_unprivileged_port_start", port));
            case.codes(check)
        };
        assert_eq!(codes(held("0.0.0.0:80", LOCAL4), None), ["no-net-raw"]);
        assert_eq!(codes(answered("0.0.0.0:1023", LOCAL4), None), ["no-net-bind-service"]);
        assert_eq!(codes(answered("0.0.0.0:1024", LOCAL4), None), [""; 0]);
        assert_eq!(codes(answered("0.0.0.0:80", LOCAL4), Some(80)), [""; 0]);
        assert_eq!(codes(answered("0.0.0.0:79", LOCAL4), Some(80)), ["no-net-bind-service"]);
    }

    #[test]
    fn unreadable_set_counts_as_full() {
        let capabilities = |case: &Case| {
            let mut found = (0, false);
            case.run(|context, _| found = (context.capabilities, context.can_query()));
            found
        };
        let mut case = Case::new([]);
        case.host.files.clear();
        assert_eq!(capabilities(&case), (u64::MAX, true));
        case.host.write("/proc/thread-self/status", "CapEff:\t0000000000001000\n");
        assert_eq!(capabilities(&case), (0x1000, true));
        case.host.write("/proc/thread-self/status", "CapEff:\t0000000000000800\n");
        assert_eq!(capabilities(&case), (0x800, false));
    }
}
