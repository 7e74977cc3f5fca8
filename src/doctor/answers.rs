//! Do clients get answers? Only flows can tell, so this needs a daemon that has routed some.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::{Asker, Finding, Host, Path, Subject, not_looked_at};
use crate::config::Protocol;
use crate::netlink::conntrack::{Conntrack, Entry, TcpState};
use crate::system::connect::connect_all;

/// For how many seconds a SYN may stay unanswered.
const PATIENCE: u32 = 2;

/// Maximum number of unresponsive endpoints that are probed.
const MAX_PROBED: usize = 256;

/// How long an endpoint may take to answer.
const ANSWER: Duration = Duration::from_secs(1);

/// What conntrack knows of the flows to one endpoint.
#[derive(Debug, Default, PartialEq, Eq)]
struct Flows {
    answered: bool,
    /// A SYN has stayed unanswered for a while.
    silent: bool,
}

impl Flows {
    /// Takes in an entry of a client that the endpoint sees; an unanswered SYN lives for so many seconds.
    fn add(&mut self, entry: &Entry, syn_lives: u32) {
        self.answered |= entry.status.answered();
        let passed = syn_lives.saturating_sub(entry.timeout.unwrap_or(syn_lives));
        self.silent |= entry.tcp_state == Some(TcpState::SynSent) && passed >= PATIENCE;
    }
}

/// Looks for endpoints elsewhere that answer this host, and none of the clients that were sent to them.
pub(super) fn examine(subject: &Subject, host: &Host, findings: &mut Vec<Finding>) {
    // The running daemon sees it by itself, as it happens.
    if host.asker == Asker::Daemon {
        return;
    }
    let tcp = |path: &&Path| path.protocol == Protocol::Tcp;
    let paths: HashMap<SocketAddr, &Path> = subject.remote().filter(tcp).map(|path| (path.address, path)).collect();
    if paths.is_empty() {
        return;
    }
    let mut flows: HashMap<SocketAddr, Flows> = HashMap::new();
    let dumped = Conntrack::open().and_then(|mut conntrack| {
        conntrack.dump_dnat(&mut |entry| {
            // What comes from this host says nothing of the way back to others.
            let from_here =
                || entry.is_masqueraded() || host.addresses.iter().any(|(ip, _)| *ip == entry.original.source.ip());
            if let Some(path) = paths.get(&entry.reply.source).filter(|_| !from_here()) {
                flows.entry(path.address).or_default().add(entry, path.timeouts.syn_sent());
            }
        })
    });
    if let Err(error) = dumped {
        return findings.push(not_looked_at("the flows", &error, "conntrack -L --dst-nat"));
    }
    let silent = flows.into_iter().filter(|(_, flows)| flows.silent && !flows.answered);
    let silent = silent.map(|(address, _)| address).take(MAX_PROBED);
    let mut probed = match connect_all(silent, ANSWER) {
        Ok(probed) => probed,
        Err(error) => return findings.push(not_looked_at("the endpoints", &error, "ss -Htn state syn-sent")),
    };
    probed.sort_by_key(|(address, _)| *address);
    for (address, result) in probed {
        if result.is_ok() {
            let path = paths[&address];
            let problem = format!(
                "{address} answers this host, and none of its clients: its way back to them does not lead through this gateway"
            );
            let finding = Finding::error("clients-unanswered", problem, "masquerade: always");
            let note = "in the configuration of the frontend; or make this gateway the backend's route to its clients";
            findings.push(finding.about(path.frontend_label()).note(note));
        }
    }
}
