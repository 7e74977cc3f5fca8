//! Inquiries about endpoints whose clients get no answer. Pure: [`Clients`](super::Clients) makes the probes.
//!
//! An inquiry first probes the endpoint; if that does not answer, the target's other TCP endpoints, all at once. So it takes
//! twice the time of a probe at most, next to any others.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;

use super::reach::{Cause, Gateway};
use crate::dataplane::flows::Unresponsive;
use crate::ids::FrontendId;
use crate::system::connect::is_own_failure;

/// An endpoint whose clients get no answer, while it or the target's others are probed.
#[derive(Debug)]
struct Inquiry {
    endpoint: SocketAddr,
    cause: Cause,
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
    /// It does not.
    Unanswered { error: String, unresponsive: Unresponsive },
    /// It could not be probed, for a reason of this host's own.
    Unknown(String),
}

impl Finding {
    /// The gateway's own experience.
    pub(super) fn gateway(&self) -> Gateway {
        if *self == Finding::Answers { Gateway::Answered } else { Gateway::Unanswered }
    }
}

/// The inquiries that are under way, one for each frontend at most.
#[derive(Debug, Default)]
pub(super) struct Inquiries {
    open: BTreeMap<FrontendId, Inquiry>,
}

impl Inquiries {
    /// Begins an inquiry; the endpoint must be probed.
    pub(super) fn begin(&mut self, frontend: FrontendId, endpoint: SocketAddr, cause: Cause, all: &[SocketAddr]) {
        let others = all.iter().copied().filter(|other| *other != endpoint).collect();
        self.open.insert(frontend, Inquiry { endpoint, cause, others, error: None });
    }

    /// Ends a frontend's inquiry without a finding.
    pub(super) fn cancel(&mut self, frontend: FrontendId) {
        self.open.remove(&frontend);
    }

    /// Handles the result of a probe. Returns the findings, and the addresses to probe next.
    pub(super) fn probed(
        &mut self,
        at: SocketAddr,
        result: &io::Result<()>,
    ) -> (Vec<(FrontendId, Finding)>, Vec<SocketAddr>) {
        let (mut findings, mut next) = (Vec::new(), Vec::new());
        self.open.retain(|frontend, inquiry| {
            let Some(finding) = inquiry.probed(at, result, &mut next) else { return true };
            findings.push((*frontend, finding));
            false
        });
        (findings, next)
    }
}

impl Inquiry {
    fn probed(&mut self, at: SocketAddr, result: &io::Result<()>, next: &mut Vec<SocketAddr>) -> Option<Finding> {
        let Some(error) = &self.error else {
            if at != self.endpoint {
                return None;
            }
            let did = if self.cause == Cause::Refused { "refused a client" } else { "not answered a client" };
            let does = if result.is_ok() { "answers" } else { "does not answer" };
            log::debug!("{at}, which has {did}, {does} the gateway");
            return match result {
                Ok(()) => Some(Finding::Answers),
                Err(error) if is_own_failure(error) => Some(Finding::Unknown(error.to_string())),
                Err(error) if self.others.is_empty() => Some(unanswered(&error.to_string(), Unresponsive::Target)),
                Err(error) => {
                    self.error = Some(error.to_string());
                    next.extend(&self.others);
                    None
                }
            };
        };
        if !self.others.contains(&at) {
            return None;
        }
        // If it is not known whether one answers, the target is not given up.
        if result.as_ref().err().is_none_or(is_own_failure) {
            return Some(unanswered(error, Unresponsive::Endpoint));
        }
        self.others.remove(&at);
        self.others.is_empty().then(|| unanswered(error, Unresponsive::Target))
    }
}

fn unanswered(error: &str, unresponsive: Unresponsive) -> Finding {
    Finding::Unanswered { error: error.to_owned(), unresponsive }
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

    fn refused(unresponsive: Unresponsive) -> Finding {
        unanswered(&io::Error::from(Errno::CONNREFUSED).to_string(), unresponsive)
    }

    #[test]
    fn each_finding_is_returned_with_the_result_that_settles_it() {
        let mut inquiries = Inquiries::default();
        inquiries.begin(FrontendId::new(0), at(1), Cause::Refused, &[at(1)]);
        inquiries.begin(FrontendId::new(1), at(2), Cause::Unanswered, &[at(2), at(3), at(4)]);
        inquiries.begin(FrontendId::new(2), at(1), Cause::Unanswered, &[at(1), at(5)]);
        assert_eq!(inquiries.probed(at(9), &Ok(())), (vec![], vec![]));
        let (findings, next) = inquiries.probed(at(1), &failed(Errno::CONNREFUSED));
        assert_eq!(findings, [(FrontendId::new(0), refused(Unresponsive::Target))]);
        assert_eq!(next, [at(5)]);
        assert_eq!(inquiries.probed(at(2), &Ok(())), (vec![(FrontendId::new(1), Finding::Answers)], vec![]));
        assert_eq!(
            inquiries.probed(at(5), &Ok(())),
            (vec![(FrontendId::new(2), refused(Unresponsive::Endpoint))], vec![])
        );
        assert!(inquiries.open.is_empty());
    }

    #[test]
    fn a_target_is_unresponsive_only_if_none_of_its_endpoints_answers() {
        let others = [at(1), at(2), at(3)];
        let mut inquiries = Inquiries::default();
        inquiries.begin(FrontendId::new(0), at(1), Cause::Refused, &others);
        assert_eq!(inquiries.probed(at(1), &failed(Errno::CONNREFUSED)), (vec![], vec![at(2), at(3)]));
        assert_eq!(inquiries.probed(at(1), &Ok(())), (vec![], vec![]), "another inquiry's probe");
        assert_eq!(inquiries.probed(at(3), &failed(Errno::TIMEDOUT)), (vec![], vec![]));
        assert_eq!(
            inquiries.probed(at(2), &failed(Errno::TIMEDOUT)),
            (vec![(FrontendId::new(0), refused(Unresponsive::Target))], vec![])
        );
    }

    #[test]
    fn a_lack_of_descriptors_shows_nothing_about_an_endpoint() {
        let mut inquiries = Inquiries::default();
        inquiries.begin(FrontendId::new(0), at(1), Cause::Refused, &[at(1), at(2)]);
        let (findings, next) = inquiries.probed(at(1), &failed(Errno::MFILE));
        assert!(matches!(findings[..], [(_, Finding::Unknown(_))]) && next.is_empty());
        // Nor is an endpoint that cannot be probed unresponsive.
        inquiries.begin(FrontendId::new(0), at(1), Cause::Refused, &[at(1), at(2)]);
        assert!(inquiries.probed(at(1), &failed(Errno::CONNREFUSED)).0.is_empty());
        assert_eq!(
            inquiries.probed(at(2), &failed(Errno::MFILE)).0,
            [(FrontendId::new(0), refused(Unresponsive::Endpoint))]
        );
    }

    #[test]
    fn a_frontend_that_is_reset_has_no_finding() {
        let mut inquiries = Inquiries::default();
        inquiries.begin(FrontendId::new(0), at(1), Cause::Refused, &[at(1)]);
        inquiries.cancel(FrontendId::new(0));
        assert_eq!(inquiries.probed(at(1), &Ok(())), (vec![], vec![]));
    }
}
