//! Sockets that the daemon will open: ports of frontends, and the NFLOG group.

use std::io;

use rustix::io::Errno;

use super::{Context, Finding};

const NFLOG_GROUPS: &str = "/proc/thread-self/net/netfilter/nfnetlink_log";

/// Checks the addresses that the daemon would listen on. The status of a running daemon shows the same.
pub(super) fn check(context: &Context<'_>, findings: &mut Vec<Finding>) {
    if context.daemon_runs() {
        return;
    }
    for path in context.scope.paths.iter().filter(|path| path.answers_cold()) {
        let (listen, name) = (path.listen, &path.frontend);
        let (ip, port) = (listen.ip(), listen.port());
        let finding = match context.host.bind(listen) {
            Err(Errno::ADDRINUSE) => Finding::error(
                "port-taken",
                format!("another program listens on {listen}, so {name} cannot"),
                format!("stop the program that `ss -Hltnp sport = :{port}` shows, or change the frontend's listen"),
            ),
            Err(Errno::ADDRNOTAVAIL) => Finding::error(
                "no-such-address",
                format!("{ip} is not an address of this host, so {name} cannot listen there"),
                format!("ip addr add {ip}/PREFIX dev INTERFACE, or change the frontend's listen"),
            ),
            // A missing capability has its own finding.
            Ok(()) | Err(_) => continue,
        };
        findings.push(finding.about(path.frontend_label()));
    }
}

/// Finds another program that has bound the daemon's NFLOG group.
pub(super) fn check_group(context: &Context<'_>, findings: &mut Vec<Finding>) {
    let group = context.scope.paths.iter().find_map(|path| path.cold.group()).filter(|_| !context.daemon_runs());
    let Some(group) = group else { return };
    match context.host.read(NFLOG_GROUPS) {
        Ok(groups) if is_bound(&groups, group) => {
            let problem = format!("another program has bound NFLOG group {group}, so packet:hold cannot");
            let remedy = "set plugins.packet.group to an unused number";
            findings.push(Finding::error("nflog-group-taken", problem, remedy));
        }
        Ok(_) => {}
        // The module is not loaded, so no group is bound.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => {
            let command = "cat /proc/net/netfilter/nfnetlink_log";
            findings.push(Finding::not_checked("the NFLOG groups", &error, command));
        }
    }
}

/// Each line begins with a group's number.
fn is_bound(groups: &str, group: u16) -> bool {
    groups.lines().any(|line| line.split_whitespace().next().and_then(|number| number.parse().ok()) == Some(group))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::testing::{Case, LOCAL4, answered, at, held, only};

    #[test]
    fn address_that_cannot_be_bound_is_found() {
        let mut case = Case::new([answered("198.51.100.1:80", LOCAL4), held("198.51.100.1:81", LOCAL4)]);
        assert_eq!(case.codes(check), [""; 0]);
        let (listen, not_bound) = (at("198.51.100.1:80"), at("198.51.100.1:81"));
        case.host.bound = [(listen, Errno::ADDRINUSE), (not_bound, Errno::ADDRINUSE)].into();
        let found = only(case.run(check), "port-taken");
        assert_eq!(found.about.as_deref(), Some("frontend f 198.51.100.1:80"));
        assert_eq!(found.problem, "another program listens on 198.51.100.1:80, so f cannot");
        assert!(found.remedy.contains("`ss -Hltnp sport = :80`"), "{found:?}");
        case.host.bound.insert(listen, Errno::ADDRNOTAVAIL);
        let found = only(case.run(check), "no-such-address");
        assert!(found.remedy.starts_with("ip addr add 198.51.100.1/PREFIX dev INTERFACE"), "{found:?}");
        case.host.bound.insert(listen, Errno::ACCESS);
        assert_eq!(case.codes(check), [""; 0], "a missing capability");
        case.host.bound.insert(listen, Errno::ADDRINUSE);
        case.host.daemon_runs = true;
        assert_eq!(case.codes(check), [""; 0], "the daemon itself");
    }

    #[test]
    fn nflog_group_of_another_program_is_found() {
        let mut case = Case::new([answered("0.0.0.0:81", LOCAL4), held("0.0.0.0:80", LOCAL4)]);
        assert_eq!(case.codes(check_group), [""; 0], "no module");
        case.host.write(NFLOG_GROUPS, "    1   4133     0 2 65531    100  1\n   28775 300 0 2 1 1 1\n");
        let found = only(case.run(check_group), "nflog-group-taken");
        assert!(found.problem.contains("NFLOG group 28775"), "{found:?}");
        case.host.daemon_runs = true;
        assert_eq!(case.codes(check_group), [""; 0]);
        case.host.daemon_runs = false;
        case.host.write(NFLOG_GROUPS, "1 28775 0\n2877 1 1\n\nx\n");
        assert_eq!(case.codes(check_group), [""; 0]);
        case.host.files.insert(NFLOG_GROUPS.to_owned(), Err(Errno::ACCESS));
        assert_eq!(case.codes(check_group), ["not-looked-at"]);
        case.paths.pop();
        assert_eq!(case.codes(check_group), [""; 0], "nothing is held");
    }
}
