//! What can be taken already: ports of frontends with a socket, and the NFLOG group.

use std::io;
use std::net::SocketAddr;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, sockopt};

use super::{Finding, Host, Subject};

/// Looks at the sockets that the daemon would open. One that runs has them, or shows in its status why not.
pub(super) fn examine(subject: &Subject, host: &Host, findings: &mut Vec<Finding>) {
    if host.daemon_runs {
        return;
    }
    for path in subject.paths.iter().filter(|path| path.answers_cold()) {
        let (ip, port) = (path.listen.ip(), path.listen.port());
        let finding = match try_bind(path.listen) {
            Err(Errno::ADDRINUSE) => Finding::error(
                "port-taken",
                format!("another program listens on {}, where {} has to", path.listen, path.frontend),
                format!("stop what `ss -Hltnp sport = :{port}` names, or give the frontend another listen"),
            ),
            Err(Errno::ADDRNOTAVAIL) => Finding::error(
                "no-such-address",
                format!("{ip} is not an address of this host, so {} cannot listen there", path.frontend),
                format!("ip addr add {ip}/PREFIX dev INTERFACE, or give the frontend another listen"),
            ),
            // No right to it is a finding of its own.
            Ok(()) | Err(_) => continue,
        };
        findings.push(finding.about(path.frontend_label()));
    }
}

/// Binds as the frontend's listener would, and does not listen.
fn try_bind(address: SocketAddr) -> Result<(), Errno> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, Some(ipproto::TCP))?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    rustix::net::bind(&socket, &address)
}

/// Looks whether another program has our NFLOG group.
pub(super) fn examine_group(subject: &Subject, host: &Host, findings: &mut Vec<Finding>) {
    let Some(group) = subject.paths.iter().find_map(super::Path::holds).filter(|_| !host.daemon_runs) else { return };
    match std::fs::read_to_string("/proc/thread-self/net/netfilter/nfnetlink_log") {
        Ok(groups) if is_taken(&groups, group) => {
            let problem = format!("another program receives from NFLOG group {group}, which packet:hold has to");
            let remedy = "set plugins.packet.group to a number that no other program has";
            findings.push(Finding::error("nflog-group-taken", problem, remedy));
        }
        // Without the module there is nobody.
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => {
            let instead = "cat /proc/net/netfilter/nfnetlink_log";
            findings.push(super::not_looked_at("NFLOG's groups", &error, instead));
        }
    }
}

/// Each line begins with a group's number.
fn is_taken(groups: &str, group: u16) -> bool {
    groups.lines().any(|line| line.split_whitespace().next().and_then(|word| word.parse().ok()) == Some(group))
}
