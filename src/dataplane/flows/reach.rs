//! Do a frontend's clients get answers? Pure.
//!
//! A backend whose way back to the clients does not lead through this gateway never answers them, while it answers the gateway
//! itself. That shows by what happens: the SYN of the first client since the target became active stays unanswered. Then the
//! endpoint is asked by the gateway itself, and the frontend says what is wrong. Flows that the endpoint sees come from the
//! gateway, of clients on it or masqueraded ones, say nothing of the others' way back.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::config::Protocol;
use crate::engine::core::FrontendId;
use crate::netlink::conntrack::{Entry, Key};

/// How long a client's SYN may stay unanswered: it has been sent again by then.
const PATIENCE: Duration = Duration::from_secs(3);

/// What is known of one frontend.
#[derive(Debug, Clone, Copy)]
enum State {
    /// No client has come since the target became active, whose own address the endpoint sees.
    New,
    /// A client has come and is not answered yet.
    Waiting(Suspect),
    /// The endpoint is being asked.
    Asking(Suspect),
    /// It was said that clients are not answered, and whether the gateway itself is.
    Told { gateway: bool },
    /// A client was answered.
    Answered,
}

/// A client's flow that is not answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Suspect {
    /// Its entry.
    pub key: Key,
    /// Tells the entry from later ones.
    pub id: u32,
    /// Who should answer.
    pub endpoint: SocketAddr,
    /// Whether the endpoint sees it come from the gateway.
    from_gateway: bool,
    since: Instant,
}

/// What is known of all frontends.
#[derive(Debug)]
pub(super) struct Reach {
    states: Vec<State>,
    /// An address that is the gateway's own: most often the next flow's too.
    own: Option<IpAddr>,
}

impl Reach {
    pub(super) fn new(frontends: usize) -> Reach {
        Reach { states: vec![State::New; frontends], own: None }
    }

    /// The target has been started anew.
    pub(super) fn reset(&mut self, frontend: FrontendId) {
        self.states[frontend] = State::New;
    }

    /// An event tells of a flow; `is_local` knows the gateway's own addresses. Returns whether it takes back that clients are
    /// not answered.
    pub(super) fn told(
        &mut self,
        now: Instant,
        frontend: FrontendId,
        entry: &Entry,
        is_local: impl FnOnce(IpAddr) -> bool,
    ) -> bool {
        let state = &mut self.states[frontend];
        if matches!(state, State::Answered) {
            return false;
        }
        let client = entry.original.source.ip();
        let from_gateway = entry.is_masqueraded() || self.own == Some(client) || is_local(client);
        if from_gateway && !entry.is_masqueraded() {
            self.own = Some(client);
        }
        if entry.status.answered() {
            let takes_back = matches!(state, State::Told { gateway } if !(*gateway && from_gateway));
            if !from_gateway {
                *state = State::Answered;
            } else if takes_back {
                *state = State::New;
            }
            return takes_back;
        }
        let endpoint = entry.reply.source;
        // UDP is not always answered, and a backend on this host answers by itself.
        let is_free = match state {
            State::New => true,
            State::Waiting(suspect) => suspect.from_gateway && !from_gateway,
            _ => false,
        };
        if is_free && entry.protocol == Protocol::Tcp && !endpoint.ip().is_loopback() {
            *state = State::Waiting(Suspect { key: entry.key(), id: entry.id, endpoint, from_gateway, since: now });
        }
        false
    }

    /// The flows that have waited for too long.
    pub(super) fn due(&self, now: Instant) -> Vec<(FrontendId, Suspect)> {
        let suspects = self.suspects().filter(|(_, suspect)| suspect.since + PATIENCE <= now);
        suspects.map(|(id, suspect)| (id, *suspect)).collect()
    }

    /// When the next flow will have waited for too long.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.suspects().map(|(_, suspect)| suspect.since + PATIENCE).min()
    }

    fn suspects(&self) -> impl Iterator<Item = (FrontendId, &Suspect)> {
        self.states.iter().enumerate().filter_map(|(id, state)| match state {
            State::Waiting(suspect) => Some((id, suspect)),
            _ => None,
        })
    }

    /// Whether the flow that has waited for too long still does: if so, its endpoint is to be asked.
    pub(super) fn still_waits(&mut self, frontend: FrontendId, suspect: &Suspect, waits: bool) {
        self.states[frontend] = if waits { State::Asking(*suspect) } else { State::New };
    }

    /// The endpoint has been asked, and has answered the gateway or not. Returns it if that is to be told: not if a client was
    /// answered in the meantime, or if it was the gateway's own flow that has waited.
    pub(super) fn asked(&mut self, frontend: FrontendId, gateway: bool) -> Option<SocketAddr> {
        let State::Asking(suspect) = self.states[frontend] else { return None };
        let is_told = !(gateway && suspect.from_gateway);
        self.states[frontend] = if is_told { State::Told { gateway } } else { State::New };
        is_told.then_some(suspect.endpoint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::conntrack::{Status, TcpState, Tuple};

    const ENDPOINT: &str = "203.0.113.2:8080";

    /// A flow of a client, which the endpoint sees come from `seen`.
    fn flow(client: &str, seen: &str, answered: bool) -> Entry {
        let at = |text: &str| text.parse().expect("an address");
        Entry {
            protocol: Protocol::Tcp,
            original: Tuple { source: at(client), destination: at("198.51.100.1:80") },
            reply: Tuple { source: at(ENDPOINT), destination: at(seen) },
            status: Status(if answered { Status::SEEN_REPLY } else { 0 }),
            timeout: None,
            tcp_state: Some(TcpState::SynSent),
            zone: 0,
            id: 1,
            sent: None,
            received: None,
            start: None,
        }
    }

    /// What is told of a flow of the client 198.51.100.2, or of one that comes from the gateway, 203.0.113.1.
    fn tell(reach: &mut Reach, from_gateway: Option<&str>, answered: bool) -> bool {
        let entry = match from_gateway {
            Some(client) => flow(client, "203.0.113.1:50000", answered),
            None => flow("198.51.100.2:50000", "198.51.100.2:50000", answered),
        };
        reach.told(Instant::now(), 0, &entry, |ip| ip.to_string() == "203.0.113.1")
    }

    const OWN: Option<&str> = Some("203.0.113.1:40000");
    const MASQUERADED: Option<&str> = Some("127.0.0.1:40000");

    /// The first flow that is due by now has waited, and its endpoint is asked. Returns whether anything is told.
    fn ask(reach: &mut Reach, gateway: bool) -> bool {
        let due = reach.due(Instant::now() + PATIENCE);
        let (frontend, suspect) = due.first().expect("it waits");
        reach.still_waits(*frontend, suspect, true);
        reach.asked(*frontend, gateway).is_some()
    }

    #[test]
    fn answers_to_the_gateway_say_nothing_of_those_to_clients() {
        let mut reach = Reach::new(1);
        for from in [OWN, MASQUERADED] {
            assert!(!tell(&mut reach, from, true));
        }
        assert!(!tell(&mut reach, None, false));
        assert!(!tell(&mut reach, OWN, true), "nor do they end the wait");
        assert!(ask(&mut reach, true));
        assert!(
            !tell(&mut reach, OWN, true) && !tell(&mut reach, MASQUERADED, true),
            "the client still is not answered"
        );
        assert!(tell(&mut reach, None, true) && !tell(&mut reach, None, true));
        assert_eq!(reach.deadline(), None);
    }

    #[test]
    fn a_backend_that_answers_nobody_is_told_by_whichever_flow() {
        for from in [OWN, MASQUERADED, None] {
            let mut reach = Reach::new(1);
            tell(&mut reach, from, false);
            assert!(ask(&mut reach, false));
            assert!(tell(&mut reach, OWN, true), "it is back");
            // Clients are looked at anew.
            tell(&mut reach, None, false);
            assert!(ask(&mut reach, true));
        }
    }

    #[test]
    fn the_gateways_own_flow_says_nothing_of_a_way_back() {
        let mut reach = Reach::new(1);
        tell(&mut reach, MASQUERADED, false);
        assert!(!ask(&mut reach, true));
        tell(&mut reach, None, false);
        assert!(reach.deadline().is_some());
    }

    #[test]
    fn the_gateways_own_flow_keeps_no_client_from_being_looked_at() {
        let mut reach = Reach::new(1);
        tell(&mut reach, OWN, false);
        tell(&mut reach, OWN, true);
        tell(&mut reach, None, false);
        assert!(ask(&mut reach, true));
    }
}
