//! Conntrack: its netlink interface, its settings, and the size of its table.

use rustix::io::Errno;

use super::{Context, Finding};

/// Checks the netlink interface.
pub(super) fn check_netlink(context: &Context<'_>, findings: &mut Vec<Finding>) {
    let Err(error) = context.host.conntrack() else { return };
    let missing = [Errno::INVAL, Errno::OPNOTSUPP, Errno::PROTONOSUPPORT];
    findings.push(if missing.map(Some).contains(&Errno::from_io_error(&error)) {
        let problem = "the kernel does not answer conntrack queries (no ctnetlink), so targets do not drain";
        Finding::error("no-ctnetlink", problem, "modprobe nf_conntrack_netlink")
    } else {
        Finding::not_checked("conntrack", &error, "conntrack -S")
    });
}

/// Checks the settings, and the number of entries.
pub(super) fn check_settings(context: &Context<'_>, findings: &mut Vec<Finding>) {
    let setting = |name| context.setting(&format!("net.netfilter.{name}"));
    let Some((count, max)) = setting("nf_conntrack_count").zip(setting("nf_conntrack_max")) else {
        // The netlink query has loaded the module, if this process may make one.
        if context.can_query() {
            let problem = "the kernel has no conntrack, which translates and counts flows";
            findings.push(Finding::error("no-conntrack", problem, "modprobe nf_conntrack"));
        }
        return;
    };
    // 0 is no limit.
    if max > 0 && count.saturating_mul(10) >= max.saturating_mul(9) {
        let problem =
            format!("conntrack has {count} of {max} possible entries; when it is full, the kernel drops new flows");
        let remedy = format!("sysctl -w net.netfilter.nf_conntrack_max={}", max.saturating_mul(2));
        let note = "set it in the initial network namespace: the limit is the same for all";
        findings.push(Finding::warning("conntrack-full", problem, remedy).note(note));
    }
    if setting("nf_conntrack_events") == Some(0) {
        let problem =
            "conntrack does not report the end of flows (net.netfilter.nf_conntrack_events is 0), so flows are polled";
        let remedy = "sysctl -w net.netfilter.nf_conntrack_events=1";
        findings.push(Finding::warning("conntrack-events-off", problem, remedy));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::testing::{Case, only};

    #[test]
    fn nine_tenths_are_nearly_full() {
        let found = |count, max| {
            let mut case = Case::new([]);
            case.host.set("net.netfilter.nf_conntrack_count", count);
            case.host.set("net.netfilter.nf_conntrack_max", max);
            case.run(check_settings)
        };
        assert_eq!(found(899, 1000), []);
        let full = only(found(900, 1000), "conntrack-full");
        assert!(full.problem.starts_with("conntrack has 900 of 1000 possible entries"), "{full:?}");
        assert_eq!(full.remedy, "sysctl -w net.netfilter.nf_conntrack_max=2000");
        only(found(i64::MAX, i64::MAX), "conntrack-full");
        assert_eq!(found(5, 0), [], "no limit");
    }

    #[test]
    fn events_that_are_off_are_found() {
        let mut case = Case::new([]);
        case.host.set("net.netfilter.nf_conntrack_events", 0);
        assert_eq!(case.codes(check_settings), ["conntrack-events-off"]);
        case.host.set("net.netfilter.nf_conntrack_events", 2);
        assert_eq!(case.codes(check_settings), [""; 0]);
        case.host.files.remove("/proc/sys/net/netfilter/nf_conntrack_events");
        assert_eq!(case.codes(check_settings), [""; 0]);
    }

    #[test]
    fn conntrack_is_missing_if_a_query_has_not_loaded_it() {
        let mut case = Case::new([]);
        for unreadable in [Errno::NOENT, Errno::ACCESS] {
            case.host.files.insert("/proc/sys/net/netfilter/nf_conntrack_max".to_owned(), Err(unreadable));
            assert_eq!(case.codes(check_settings), ["no-conntrack"]);
        }
        case.host.write("/proc/thread-self/status", "CapEff:\t0\n");
        assert_eq!(case.codes(check_settings), [""; 0]);
    }

    #[test]
    fn unknown_query_is_missing_ctnetlink() {
        let mut case = Case::new([]);
        assert_eq!(case.codes(check_netlink), [""; 0]);
        for errno in [Errno::INVAL, Errno::OPNOTSUPP, Errno::PROTONOSUPPORT] {
            case.host.conntrack = Err(errno);
            assert_eq!(case.codes(check_netlink), ["no-ctnetlink"], "{errno}");
        }
        case.host.conntrack = Err(Errno::PERM);
        let found = only(case.run(check_netlink), "not-looked-at");
        assert!(found.problem.starts_with("conntrack could not be checked: Operation not permitted"), "{found:?}");
    }
}
