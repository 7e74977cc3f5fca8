//! Notices clients of a frontend that get no answer. Pure.
//!
//! A backend does not answer for one of two reasons, which show in what happens to a client's SYN. Its way back to the clients
//! does not lead through this gateway: then the SYN of the first client since the target became active stays unanswered, while
//! the gateway itself is answered. Or it has ended: then a SYN is refused or stays unanswered at any time, and so is the
//! gateway's. So the gateway probes the endpoint of such a SYN, and the frontend or the target reports the problem. Flows that
//! the endpoint sees come from the gateway (its own clients', and masqueraded ones) show nothing about the others' way back.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::config::Protocol;
use crate::ids::FrontendId;
use crate::netlink::conntrack::{Entry, Key, TcpState};

/// Time for which a client's SYN may stay unanswered: it has been sent again by then.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Minimum time between two probes for refused clients of a frontend: they may be refused for who they are.
const PAUSE: Duration = Duration::from_secs(1);

/// Minimum time between two reports of the same problem of a frontend: the engine's inbox has space for those that come while
/// nft works.
const REPORT_PAUSE: Duration = Duration::from_secs(60);

/// What is known of one frontend.
#[derive(Debug, Clone, Copy, Default)]
struct Known {
    clients: Clients,
    /// Time of the last probe for a refused client.
    probed: Option<Instant>,
    /// Times of the last reports, by the gateway's own experience.
    reported: [Option<Instant>; 2],
    state: State,
}

/// Clients whose own address the endpoint sees, since the target became active.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Clients {
    /// None was answered yet.
    #[default]
    Unproven,
    /// One was answered.
    Answered,
}

/// State of a frontend.
#[derive(Debug, Clone, Copy, Default)]
enum State {
    /// No client waits.
    #[default]
    Good,
    /// A client was not answered yet, or refused.
    Waiting(Candidate),
    /// The endpoint is being probed.
    Probing(Candidate),
    /// The problem was reported.
    Reported(Gateway),
}

/// The gateway's own experience with an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gateway {
    /// It is not answered either.
    Unanswered,
    /// It is answered.
    Answered,
}

/// Address that an endpoint sees a flow come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Client,
    Gateway,
}

/// Reason for a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// A client's SYN stays unanswered.
    Unanswered,
    /// The endpoint has refused a client, so that the entry is gone.
    Refused,
}

/// A client's flow that is not answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate {
    /// Its entry.
    pub key: Key,
    /// Distinguishes the entry from later ones.
    pub id: u32,
    /// Where it was sent.
    pub endpoint: SocketAddr,
    /// Its fate.
    pub cause: Cause,
    source: Source,
    due: Instant,
}

/// What is known of all frontends.
#[derive(Debug, Default)]
pub(super) struct Reach {
    frontends: BTreeMap<FrontendId, Known>,
    /// An address that is the gateway's own: most often the next flow's too.
    own: Option<IpAddr>,
}

impl Reach {
    /// Handles the start of the target: nothing is known.
    pub(super) fn reset(&mut self, frontend: FrontendId) {
        self.frontends.remove(&frontend);
    }

    /// Handles an event that shows a flow's entry; `is_local` knows the gateway's own addresses. Returns whether clients are
    /// answered again, after a report that they are not.
    pub(super) fn changed(
        &mut self,
        now: Instant,
        frontend: FrontendId,
        entry: &Entry,
        is_local: impl FnOnce(IpAddr) -> bool,
    ) -> bool {
        let known = self.frontends.entry(frontend).or_default();
        let is_reported = matches!(known.state, State::Reported(_));
        if known.clients == Clients::Answered && !is_reported {
            // Only the backend's end remains to be noticed, and any flow shows it.
            match known.state {
                State::Good if !entry.status.answered() => known.wait(now, entry, Source::Gateway),
                State::Waiting(candidate) | State::Probing(candidate) if candidate.is_settled_by(entry) => {
                    known.state = State::Good
                }
                _ => {}
            }
            return false;
        }
        let client = entry.original.source.ip();
        let is_own = !entry.is_masqueraded() && (self.own == Some(client) || is_local(client));
        if is_own {
            self.own = Some(client);
        }
        let source = if is_own || entry.is_masqueraded() { Source::Gateway } else { Source::Client };
        if entry.status.answered() {
            // To the gateway, which was answered before, an answer is not new.
            let counts = match known.state {
                State::Reported(Gateway::Answered) => source == Source::Client,
                State::Reported(Gateway::Unanswered) => true,
                _ => false,
            };
            let is_answered = counts && is_new(entry);
            if source == Source::Client {
                known.clients = Clients::Answered;
            }
            if is_answered || source == Source::Client && !is_reported {
                known.state = State::Good;
            }
            return is_answered;
        }
        let is_free = match known.state {
            State::Good => true,
            State::Waiting(candidate) => candidate.source == Source::Gateway && source == Source::Client,
            _ => false,
        };
        if is_free {
            known.wait(now, entry, source);
        }
        false
    }

    /// Handles an event: the kernel has removed an entry.
    pub(super) fn removed(&mut self, now: Instant, frontend: FrontendId, entry: &Entry) {
        // A RST in place of the first answer ends the entry at once.
        if entry.status.answered() || entry.tcp_state != Some(TcpState::Close) {
            return;
        }
        let known = self.frontends.entry(frontend).or_default();
        if matches!(known.state, State::Good | State::Waiting(_)) {
            let due = known.probed.map_or(now, |probed| now.max(probed + PAUSE));
            let candidate = Candidate::new(now, entry, Source::Gateway);
            known.state = State::Waiting(Candidate { cause: Cause::Refused, due, ..candidate });
        }
    }

    /// The flows that have waited for too long.
    pub(super) fn due(&self, now: Instant) -> Vec<(FrontendId, Candidate)> {
        self.waiting().filter(|(_, candidate)| candidate.due <= now).collect()
    }

    /// Time at which the next flow has waited for too long.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.waiting().map(|(_, candidate)| candidate.due).min()
    }

    fn waiting(&self) -> impl Iterator<Item = (FrontendId, Candidate)> {
        self.frontends.iter().filter_map(|(id, known)| match known.state {
            State::Waiting(candidate) => Some((*id, candidate)),
            _ => None,
        })
    }

    /// Handles the begin of a probe, because a flow still waits.
    pub(super) fn probing(&mut self, now: Instant, frontend: FrontendId, candidate: &Candidate) {
        let known = self.frontends.entry(frontend).or_default();
        known.state = State::Probing(*candidate);
        if candidate.cause == Cause::Refused {
            known.probed = Some(now);
        }
    }

    /// Ends a wait, or a probe that shows nothing.
    pub(super) fn dismiss(&mut self, frontend: FrontendId) {
        self.frontends.entry(frontend).or_default().state = State::Good;
    }

    /// Handles the result of a probe. Returns the endpoint if that must be reported. It must not if a client was answered in
    /// the meantime; nor if the gateway is answered and the flow was its own, or was refused, or one of many.
    pub(super) fn probed(&mut self, now: Instant, frontend: FrontendId, gateway: Gateway) -> Option<SocketAddr> {
        let known = self.frontends.entry(frontend).or_default();
        let State::Probing(candidate) = known.state else { return None };
        let shows_way_back = candidate.source == Source::Client
            && candidate.cause == Cause::Unanswered
            && known.clients == Clients::Unproven;
        let reported = &mut known.reported[gateway as usize];
        let is_due = reported.is_none_or(|reported| reported + REPORT_PAUSE <= now);
        known.state = State::Good;
        if (gateway == Gateway::Answered && !shows_way_back) || !is_due {
            return None;
        }
        *reported = Some(now);
        known.state = State::Reported(gateway);
        Some(candidate.endpoint)
    }
}

impl Known {
    /// A SYN waits for its answer.
    fn wait(&mut self, now: Instant, entry: &Entry, source: Source) {
        // UDP is not always answered, and a backend on this host answers in any case.
        if entry.protocol == Protocol::Tcp && !entry.reply.source.ip().is_loopback() {
            self.state = State::Waiting(Candidate::new(now, entry, source));
        }
    }
}

impl Candidate {
    fn new(now: Instant, entry: &Entry, source: Source) -> Candidate {
        let (due, cause) = (now + TIMEOUT, Cause::Unanswered);
        Candidate { key: entry.key(), id: entry.id, endpoint: entry.reply.source, cause, source, due }
    }

    /// Whether a flow shows that the endpoint answers: this one, or another one whose SYN is answered.
    fn is_settled_by(&self, entry: &Entry) -> bool {
        self.cause == Cause::Unanswered && entry.status.answered() && (is_new(entry) || entry.key() == self.key)
    }
}

/// Whether an answered flow was so just now: a connection that was open before shows nothing about new ones.
fn is_new(entry: &Entry) -> bool {
    matches!(entry.tcp_state, None | Some(TcpState::None | TcpState::SynSent | TcpState::SynRecv))
}

#[cfg(test)]
mod tests;
