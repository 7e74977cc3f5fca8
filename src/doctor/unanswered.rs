//! Endpoints that answer this host and none of its clients. Only flows show it, so a daemon must have routed some.

use std::collections::HashMap;
use std::net::SocketAddr;

use super::{Caller, Context, Finding, Path};
use crate::config::Protocol;
use crate::netlink::conntrack::{Entry, TcpState};

/// Age of an unanswered SYN in seconds: the client has sent it again by then.
const MIN_AGE: u32 = 2;

/// Maximum number of endpoints that are probed.
const MAX_PROBED: usize = 256;

/// Flows of clients to one endpoint.
#[derive(Debug, Default, PartialEq, Eq)]
struct Flows {
    answered: bool,
    /// A SYN has been unanswered for [`MIN_AGE`].
    unanswered: bool,
}

impl Flows {
    /// Adds a flow. `syn_timeout` is the timeout of an entry that has seen only a SYN.
    fn add(&mut self, entry: &Entry, syn_timeout: u32) {
        self.answered |= entry.status.answered();
        let age = syn_timeout.saturating_sub(entry.timeout.unwrap_or(syn_timeout));
        self.unanswered |= entry.tcp_state == Some(TcpState::SynSent) && age >= MIN_AGE;
    }
}

/// Finds endpoints on other hosts that do not reach their clients.
pub(super) fn check(context: &Context<'_>, findings: &mut Vec<Finding>) {
    let paths = context.scope.remote().filter(|path| path.protocol == Protocol::Tcp);
    let paths: HashMap<SocketAddr, &Path> = paths.map(|path| (path.address, path)).collect();
    // The running daemon reports it as it happens.
    if paths.is_empty() || context.caller == Caller::Daemon {
        return;
    }
    let mut flows: HashMap<SocketAddr, Flows> = HashMap::new();
    let dumped = context.host.dnat_flows(&mut |entry| {
        // Flows that come from this host show nothing about the route back to clients.
        let is_own = || context.addresses.iter().any(|(ip, _)| *ip == entry.original.source.ip());
        if let Some(path) = paths.get(&entry.reply.source).filter(|_| !entry.is_masqueraded() && !is_own()) {
            flows.entry(path.address).or_default().add(entry, path.timeouts.syn_sent());
        }
    });
    if let Err(error) = dumped {
        return findings.push(Finding::not_checked("the flows", &error, "conntrack -L --dst-nat"));
    }
    let unanswered = flows.into_iter().filter(|(_, flows)| flows.unanswered && !flows.answered);
    let mut probed = match context.host.connect(unanswered.map(|(address, _)| address).take(MAX_PROBED).collect()) {
        Ok(probed) => probed,
        Err(error) => return findings.push(Finding::not_checked("the endpoints", &error, "ss -Htn state syn-sent")),
    };
    probed.retain(|(_, result)| result.is_ok());
    probed.sort_by_key(|(address, _)| *address);
    findings.extend(probed.iter().filter_map(|(address, _)| paths.get(address)).map(|path| {
        let problem = format!(
            "{} answers this host, and none of its clients: its route back to them does not lead through this gateway",
            path.address
        );
        Finding::error("clients-unanswered", problem, "set masquerade: always for the frontend")
            .about(path.frontend_label())
            .note("or make this gateway the backend's route to its clients")
    }));
}
