//! Endpoints that answer this host and none of its clients. Only flows show it, so a daemon must have routed some.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;

use super::{Caller, Context, Finding, Path};
use crate::config::Protocol;
use crate::netlink::conntrack::TcpState;

/// Age of an unanswered SYN in seconds: the client has sent it again by then.
const MIN_AGE: u32 = 2;

/// Maximum number of endpoints that are probed.
const MAX_PROBED: usize = 256;

/// Finds endpoints on other hosts that do not reach their clients.
pub(super) fn check(context: &Context<'_>, findings: &mut Vec<Finding>) {
    let paths = context.scope.remote().filter(|path| path.protocol == Protocol::Tcp);
    let paths: HashMap<SocketAddr, &Path> = paths.map(|path| (path.address, path)).collect();
    // The running daemon reports it as it happens.
    if paths.is_empty() || context.caller == Caller::Daemon {
        return;
    }
    let (mut answered, mut waiting) = (BTreeSet::new(), BTreeSet::new());
    let dumped = context.host.dnat_flows(&mut |entry| {
        // Flows that come from this host show nothing about the route back to clients.
        let is_own = || context.addresses.iter().any(|(ip, _)| *ip == entry.original.source.ip());
        let path = paths.get(&entry.reply.source).filter(|_| !entry.is_masqueraded() && !is_own());
        let Some((address, syn_timeout)) = path.map(|path| (path.address, path.timeouts.syn_sent())) else { return };
        let age = syn_timeout.saturating_sub(entry.timeout.unwrap_or(syn_timeout));
        if entry.status.answered() {
            answered.insert(address);
        } else if entry.tcp_state == Some(TcpState::SynSent) && age >= MIN_AGE {
            waiting.insert(address);
        }
    });
    if let Err(error) = dumped {
        return findings.push(Finding::not_checked("the flows", &error, "conntrack -L --dst-nat"));
    }
    let mut probed = match context.host.connect(waiting.difference(&answered).take(MAX_PROBED).copied().collect()) {
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

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;
    use crate::doctor::testing::{Case, LOCAL4, REMOTE4, at, held, only};
    use crate::netlink::conntrack::{Entry, Status, Tuple};

    /// A flow of a client whose SYN has been unanswered for some seconds.
    fn waiting(client: &str, backend: &str, age: u32) -> Entry {
        let (client, backend) = (at(client), at(backend));
        Entry {
            protocol: Protocol::Tcp,
            original: Tuple { source: client, destination: at("198.51.100.1:80") },
            reply: Tuple { source: backend, destination: client },
            status: Status(Status::DST_NAT),
            timeout: Some(held("0.0.0.0:80", REMOTE4).timeouts.syn_sent() - age),
            tcp_state: Some(TcpState::SynSent),
            zone: 0,
            id: 1,
            sent: None,
            received: None,
            start: None,
        }
    }

    fn case(flows: &[Entry]) -> Case {
        let mut case = Case::new([held("0.0.0.0:80", REMOTE4), held("0.0.0.0:81", LOCAL4)]);
        case.host.flows = Ok(flows.to_vec());
        case
    }

    const CLIENT: &str = "198.51.100.2:40000";

    #[test]
    fn endpoint_that_answers_this_host_and_no_client_is_found() {
        let found = only(case(&[waiting(CLIENT, REMOTE4, 2)]).run(check), "clients-unanswered");
        assert_eq!(found.about.as_deref(), Some("frontend f 0.0.0.0:80"));
        assert!(found.problem.starts_with("203.0.113.2:8080 answers this host, and none"), "{found:?}");
        // One finding for each endpoint, by their addresses.
        const OTHER: &str = "203.0.113.1:8080";
        let mut case = case(&[waiting(CLIENT, REMOTE4, 9), waiting(CLIENT, OTHER, 9)]);
        case.paths.push(held("0.0.0.0:82", OTHER));
        let found = case.run(check);
        assert_eq!(found.len(), 2);
        assert!(found[0].problem.starts_with(OTHER) && found[1].problem.starts_with(REMOTE4), "{found:?}");
    }

    #[test]
    fn other_flows_show_nothing() {
        let recent = waiting(CLIENT, REMOTE4, 1);
        let unknown_age = Entry { timeout: None, ..recent };
        let established = Entry { tcp_state: Some(TcpState::Established), ..waiting(CLIENT, REMOTE4, 9) };
        let masqueraded = Entry {
            reply: Tuple { source: at(REMOTE4), destination: at("203.0.113.1:40000") },
            ..waiting(CLIENT, REMOTE4, 9)
        };
        let from_here = waiting("198.51.100.1:40000", REMOTE4, 9);
        let local = waiting(CLIENT, LOCAL4, 9);
        let unrelated = waiting(CLIENT, "203.0.113.2:8081", 9);
        for flow in [recent, unknown_age, established, masqueraded, from_here, local, unrelated] {
            assert_eq!(case(&[flow]).run(check), [], "{flow:?}");
        }
        let answered = Entry { status: Status(Status::DST_NAT | Status::SEEN_REPLY), ..recent };
        assert_eq!(case(&[waiting(CLIENT, REMOTE4, 9), answered]).run(check), []);
    }

    #[test]
    fn endpoint_that_does_not_answer_this_host_is_no_finding() {
        let mut case = case(&[waiting(CLIENT, REMOTE4, 9)]);
        case.host.unreachable.insert(at(REMOTE4), Errno::CONNREFUSED);
        assert_eq!(case.run(check), []);
    }

    #[test]
    fn failed_query_is_a_finding() {
        let mut case = case(&[waiting(CLIENT, REMOTE4, 9)]);
        case.host.connect_error = Some(Errno::MFILE);
        assert!(only(case.run(check), "not-looked-at").problem.starts_with("the endpoints could not be checked"));
        case.host.flows = Err(Errno::PERM);
        assert!(only(case.run(check), "not-looked-at").problem.starts_with("the flows could not be checked"));
        case.paths[0].protocol = Protocol::Udp;
        assert_eq!(case.run(check), [], "nothing to check");
    }

    #[test]
    fn daemon_reports_it_on_its_own() {
        let mut case = case(&[waiting(CLIENT, REMOTE4, 9)]);
        case.caller = Caller::Daemon;
        assert_eq!(case.run(check), []);
    }
}
