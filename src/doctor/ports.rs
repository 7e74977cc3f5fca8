//! Sockets that the daemon will open: ports of frontends, and the NFLOG group.

use std::io;

use rustix::io::Errno;

use super::{Context, Finding, Path};

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
    let group = context.scope.paths.iter().find_map(Path::holds).filter(|_| !context.daemon_runs());
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
