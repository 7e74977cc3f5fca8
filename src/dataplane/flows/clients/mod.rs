//! The watch over clients that get no answer: [`reach`] notices them, [`inquiries`] find out whether their endpoints answer the
//! gateway. The probes run on the `conntrack` thread and do not block it.

mod inquiries;
mod reach;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use super::index::Index;
use super::kernel::Kernel;
use super::table::{Found, Table};
use super::{Report, Unresponsive};
use crate::config::{Endpoint, Protocol, TargetSpec};
use crate::ids::{FrontendId, TargetId};
use crate::netlink::conntrack::TcpState;
use inquiries::{Finding, Inquiries};
use reach::{Cause, Reach};

/// The watch over the clients of all frontends.
#[derive(Debug)]
pub(super) struct Clients {
    targets: BTreeMap<TargetId, Target>,
    reach: Reach,
    inquiries: Inquiries,
}

#[derive(Debug)]
struct Target {
    /// Its TCP endpoints.
    endpoints: Vec<SocketAddr>,
    frontends: Vec<FrontendId>,
}

impl Clients {
    pub(super) fn new(specs: &BTreeMap<TargetId, &TargetSpec>, index: &Index) -> Clients {
        let target = |spec: &TargetSpec| Target { endpoints: tcp(&spec.endpoints), frontends: Vec::new() };
        let mut targets: BTreeMap<_, _> = specs.iter().map(|(id, spec)| (*id, target(spec))).collect();
        for (id, rules) in &index.rules {
            targets.entry(rules.target).and_modify(|target| target.frontends.push(*id));
        }
        Clients { targets, reach: Reach::default(), inquiries: Inquiries::default() }
    }

    /// Handles the start of a target: nothing is known of its clients.
    pub(super) fn reset(&mut self, target: TargetId) {
        for frontend in &self.targets[&target].frontends {
            self.reach.reset(*frontend);
            self.inquiries.cancel(*frontend);
        }
    }

    /// Handles an event that shows a flow's entry.
    pub(super) fn changed(&mut self, now: Instant, found: &Found, kernel: &mut dyn Kernel) -> Option<Report> {
        let is_answered = self.reach.changed(now, found.frontend, &found.entry, |ip| kernel.is_local(ip));
        is_answered.then_some(Report::ClientsAnswered(found.frontend))
    }

    /// Handles an event: the kernel has removed an entry.
    pub(super) fn removed(&mut self, now: Instant, found: &Found) {
        self.reach.removed(now, found.frontend, &found.entry);
    }

    /// Begins to probe the endpoints whose clients were refused, or have waited for an answer for too long.
    pub(super) fn inquire(&mut self, now: Instant, table: &mut Table) -> io::Result<()> {
        for (frontend, candidate) in self.reach.due(now) {
            let waits = candidate.cause == Cause::Refused || {
                let entry = table.kernel.look_up(&candidate.key, candidate.id)?;
                entry.is_some_and(|entry| entry.tcp_state == Some(TcpState::SynSent))
            };
            if !waits {
                self.reach.dismiss(frontend);
                continue;
            }
            self.reach.probing(now, frontend, &candidate);
            table.kernel.probe(candidate.endpoint);
            let all = &self.targets[&table.index.rules[&frontend].target].endpoints;
            self.inquiries.begin(frontend, candidate.endpoint, candidate.cause, all);
        }
        Ok(())
    }

    /// Handles the results of the probes that have ended. Returns a report for each finding.
    pub(super) fn handle_probes(&mut self, now: Instant, table: &mut Table) -> Vec<Report> {
        let mut reports = Vec::new();
        loop {
            let results = table.kernel.probed(now);
            if results.is_empty() {
                return reports;
            }
            for (at, result) in &results {
                let (findings, next) = self.inquiries.probed(*at, result);
                next.into_iter().for_each(|at| table.kernel.probe(at));
                let report = |(frontend, finding)| self.found(now, frontend, finding, &table.index);
                reports.extend(findings.into_iter().filter_map(report));
            }
        }
    }

    fn found(&mut self, now: Instant, frontend: FrontendId, finding: Finding, index: &Index) -> Option<Report> {
        match finding {
            Finding::Unknown(error) => {
                log::warn!("cannot probe an endpoint whose clients get no answer: {error}");
                self.reach.dismiss(frontend);
                return None;
            }
            // Not every port of a range is in use.
            Finding::Unanswered { unresponsive: Unresponsive::Endpoint, .. } if index.rules[&frontend].has_range() => {
                self.reach.dismiss(frontend);
                return None;
            }
            _ => {}
        }
        let endpoint = self.reach.probed(now, frontend, finding.gateway())?;
        Some(clients_lost(frontend, endpoint, finding))
    }

    /// Time of the next [`Clients::inquire`].
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.reach.deadline()
    }
}

fn clients_lost(frontend: FrontendId, endpoint: SocketAddr, finding: Finding) -> Report {
    let (problem, unresponsive) = match finding {
        Finding::Unanswered { error, unresponsive } => {
            (format!("clients do not reach {endpoint}, nor does the gateway itself: {error}"), unresponsive)
        }
        Finding::Answers | Finding::Unknown(_) => {
            let problem = format!(
                "its clients get no answer from {endpoint}, though the gateway itself does: the endpoint's way back does not \
                 lead through this gateway; make it the endpoint's route to the clients, or set masquerade: always"
            );
            (problem, Unresponsive::Endpoint)
        }
    };
    Report::ClientsLost { frontend, problem, unresponsive }
}

fn tcp(endpoints: &[Endpoint]) -> Vec<SocketAddr> {
    let tcp = endpoints.iter().filter(|endpoint| endpoint.protocol == Protocol::Tcp);
    tcp.flat_map(|endpoint| endpoint.addresses.iter().map(|address| address.first())).collect()
}
