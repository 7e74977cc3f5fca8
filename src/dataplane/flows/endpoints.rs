//! Probes the endpoints whose clients get no answer, see [`reach`](super::reach).
//!
//! The connects run on the `conntrack` thread and do not block it ([`Connects`]). An inquiry first probes the endpoint; if that
//! does not answer, the target's other TCP endpoints, all at once. So it takes twice [`ANSWER`] at most, next to any others.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::kernel::Kernel;
use super::thread::Flows;
use super::{Report, Unresponsive};
use crate::ids::FrontendId;
use crate::netlink::conntrack::TcpState;
use crate::system::connect::{Connects, is_own_failure};

/// How long an endpoint may take to answer the gateway itself.
pub(super) const ANSWER: Duration = Duration::from_secs(1);

/// An endpoint whose clients get no answer, while it or the target's others are probed.
#[derive(Debug)]
struct Inquiry {
    frontend: FrontendId,
    endpoint: SocketAddr,
    refused: bool,
    /// The target's other TCP endpoints.
    others: BTreeSet<SocketAddr>,
    /// Reason why the endpoint does not answer: then the others are probed.
    error: Option<String>,
}

/// Result of an inquiry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Finding {
    /// The endpoint answers the gateway.
    Answers,
    /// It does not, for this reason.
    Unanswered {
        /// The reason.
        error: String,
        /// Whether none of the target's other endpoints answers either.
        none: bool,
    },
    /// It could not be probed, for a reason of this host's own.
    Unknown(String),
}

/// The inquiries that are under way. Pure: the probes are made by others.
#[derive(Debug, Default)]
pub(super) struct Inquiries {
    open: Vec<Inquiry>,
}

impl Inquiries {
    /// Begins an inquiry; the endpoint is to be probed.
    fn begin(&mut self, frontend: FrontendId, endpoint: SocketAddr, refused: bool, others: &[SocketAddr]) {
        let others = others.iter().copied().filter(|other| *other != endpoint).collect();
        self.cancel(frontend);
        self.open.push(Inquiry { frontend, endpoint, refused, others, error: None });
    }

    /// Ends a frontend's inquiry without a finding.
    pub(super) fn cancel(&mut self, frontend: FrontendId) {
        self.open.retain(|inquiry| inquiry.frontend != frontend);
    }

    /// Handles the result of a probe. Returns the findings, and the addresses that are to be probed next.
    fn probed(&mut self, at: SocketAddr, result: &io::Result<()>) -> (Vec<(FrontendId, Finding)>, Vec<SocketAddr>) {
        let (mut findings, mut next) = (Vec::new(), Vec::new());
        self.open.retain_mut(|inquiry| {
            let Some(finding) = inquiry.probed(at, result, &mut next) else { return true };
            findings.push((inquiry.frontend, finding));
            false
        });
        (findings, next)
    }
}

impl Inquiry {
    fn probed(&mut self, at: SocketAddr, result: &io::Result<()>, next: &mut Vec<SocketAddr>) -> Option<Finding> {
        if self.error.is_none() && at == self.endpoint {
            let what = if self.refused { "refused a client" } else { "not answered a client" };
            let does = if result.is_ok() { "answers" } else { "does not answer" };
            log::debug!("{at}, which has {what}, {does} the gateway");
        }
        match (&self.error, result) {
            (None, _) if at != self.endpoint => None,
            (None, Ok(())) => Some(Finding::Answers),
            (None, Err(error)) if is_own_failure(error) => Some(Finding::Unknown(error.to_string())),
            (None, Err(error)) if self.others.is_empty() => {
                Some(Finding::Unanswered { error: error.to_string(), none: true })
            }
            (None, Err(error)) => {
                self.error = Some(error.to_string());
                next.extend(&self.others);
                None
            }
            (Some(_), _) if !self.others.contains(&at) => None,
            // Whether the others answer is not known; so the target is not given up.
            (Some(error), result) if result.as_ref().err().is_none_or(is_own_failure) => {
                Some(Finding::Unanswered { error: error.clone(), none: false })
            }
            (Some(error), _) => {
                self.others.remove(&at);
                let none = self.others.is_empty();
                none.then(|| Finding::Unanswered { error: error.clone(), none })
            }
        }
    }
}

impl<K: Kernel> Flows<K> {
    /// Begins to probe the endpoints whose clients were refused, or have waited for an answer for too long.
    pub(super) fn inquire(&mut self, now: Instant) -> io::Result<()> {
        for (frontend, suspect) in self.reach.due(now) {
            let waits = suspect.refused || {
                let entry = self.kernel.look_up(&suspect.key, suspect.id)?;
                entry.is_some_and(|entry| entry.tcp_state == Some(TcpState::SynSent))
            };
            self.reach.still_waits(now, frontend, &suspect, waits);
            if !waits {
                continue;
            }
            if self.connects.is_none() {
                match Connects::new(ANSWER) {
                    Ok(connects) => self.connects = Some(connects),
                    Err(error) => {
                        log::warn!("cannot probe endpoints whose clients get no answer: {error}");
                        self.reach.dismiss(frontend);
                        continue;
                    }
                }
            }
            let others = &self.tcp_endpoints[self.target_of[frontend]];
            self.inquiries.begin(frontend, suspect.endpoint, suspect.refused, others);
            if let Some(connects) = &mut self.connects {
                connects.add(suspect.endpoint);
            }
        }
        Ok(())
    }

    /// Handles the results of the probes that have ended, and reports each finding at once.
    pub(super) fn take_probes(&mut self, now: Instant) {
        let Some(mut connects) = self.connects.take() else { return };
        let mut results = connects.advance(now);
        while !results.is_empty() {
            for (at, result) in &results {
                let (findings, next) = self.inquiries.probed(*at, result);
                findings.into_iter().for_each(|(frontend, finding)| self.found(now, frontend, finding));
                next.into_iter().for_each(|at| connects.add(at));
            }
            // The next ones begin at once.
            results = connects.advance(now);
        }
        if !connects.is_empty() {
            self.connects = Some(connects);
        }
    }

    fn found(&mut self, now: Instant, frontend: FrontendId, finding: Finding) {
        if let Finding::Unknown(error) = &finding {
            log::warn!("cannot probe an endpoint whose clients get no answer: {error}");
            return self.reach.dismiss(frontend);
        }
        // Not every port of a range is in use.
        if matches!(finding, Finding::Unanswered { none: false, .. }) && self.index.rules(frontend).has_range() {
            return self.reach.dismiss(frontend);
        }
        if let Some(endpoint) = self.reach.asked(now, frontend, finding == Finding::Answers) {
            self.reports.report(clients_lost(frontend, endpoint, finding));
        }
    }
}

/// Report to the core that clients are not answered.
fn clients_lost(frontend: FrontendId, endpoint: SocketAddr, finding: Finding) -> Report {
    let (problem, unresponsive) = match finding {
        Finding::Unanswered { error, none } => {
            let unresponsive = if none { Unresponsive::Target } else { Unresponsive::Endpoint };
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

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    fn at(port: u16) -> SocketAddr {
        SocketAddr::from(([203, 0, 113, 2], port))
    }

    fn failed(errno: Errno) -> io::Result<()> {
        Err(errno.into())
    }

    fn unanswered(none: bool) -> Finding {
        Finding::Unanswered { error: io::Error::from(Errno::CONNREFUSED).to_string(), none }
    }

    #[test]
    fn each_finding_is_returned_with_the_result_that_settles_it() {
        let mut inquiries = Inquiries::default();
        inquiries.begin(FrontendId::new(0), at(1), true, &[at(1)]);
        inquiries.begin(FrontendId::new(1), at(2), false, &[at(2), at(3), at(4)]);
        inquiries.begin(FrontendId::new(2), at(1), false, &[at(1), at(5)]);
        assert_eq!(inquiries.probed(at(9), &Ok(())), (vec![], vec![]));
        let (findings, next) = inquiries.probed(at(1), &failed(Errno::CONNREFUSED));
        assert_eq!(findings, [(FrontendId::new(0), unanswered(true))]);
        assert_eq!(next, [at(5)]);
        assert_eq!(inquiries.probed(at(2), &Ok(())), (vec![(FrontendId::new(1), Finding::Answers)], vec![]));
        assert_eq!(inquiries.probed(at(5), &Ok(())), (vec![(FrontendId::new(2), unanswered(false))], vec![]));
        assert!(inquiries.open.is_empty());
    }

    #[test]
    fn a_target_is_silent_only_if_none_of_its_endpoints_answers() {
        let others = [at(1), at(2), at(3)];
        let mut inquiries = Inquiries::default();
        inquiries.begin(FrontendId::new(0), at(1), true, &others);
        assert_eq!(inquiries.probed(at(1), &failed(Errno::CONNREFUSED)), (vec![], vec![at(2), at(3)]));
        assert_eq!(inquiries.probed(at(1), &Ok(())), (vec![], vec![]), "another inquiry's probe");
        assert_eq!(inquiries.probed(at(3), &failed(Errno::TIMEDOUT)), (vec![], vec![]));
        assert_eq!(
            inquiries.probed(at(2), &failed(Errno::TIMEDOUT)),
            (vec![(FrontendId::new(0), unanswered(true))], vec![])
        );
    }

    #[test]
    fn a_lack_of_descriptors_is_no_endpoint_that_does_not_answer() {
        let mut inquiries = Inquiries::default();
        inquiries.begin(FrontendId::new(0), at(1), true, &[at(1), at(2)]);
        let (findings, next) = inquiries.probed(at(1), &failed(Errno::MFILE));
        assert!(matches!(findings[..], [(_, Finding::Unknown(_))]) && next.is_empty());
        // Nor is an endpoint that cannot be probed unresponsive.
        inquiries.begin(FrontendId::new(0), at(1), true, &[at(1), at(2)]);
        assert!(inquiries.probed(at(1), &failed(Errno::CONNREFUSED)).0.is_empty());
        assert_eq!(inquiries.probed(at(2), &failed(Errno::MFILE)).0, [(FrontendId::new(0), unanswered(false))]);
    }

    #[test]
    fn a_frontend_that_is_reset_has_no_finding() {
        let mut inquiries = Inquiries::default();
        inquiries.begin(FrontendId::new(0), at(1), true, &[at(1)]);
        inquiries.cancel(FrontendId::new(0));
        assert_eq!(inquiries.probed(at(1), &Ok(())), (vec![], vec![]));
    }
}
