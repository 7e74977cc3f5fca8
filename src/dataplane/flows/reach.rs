//! Do a frontend's clients get answers? Pure.
//!
//! Two things keep a backend from answering, and both show by what happens to a client's SYN. Its way back to the clients does
//! not lead through this gateway: then the SYN of the first client since the target became active stays unanswered, while the
//! gateway itself is answered. Or nobody is there any more: then a SYN is refused or stays unanswered at any time, and so does
//! the gateway's. So the endpoint of such a SYN is asked by the gateway itself, and the frontend or the target says what is
//! wrong. Flows that the endpoint sees come from the gateway, of clients on it or masqueraded ones, say nothing of the others'
//! way back.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::config::Protocol;
use crate::ids::FrontendId;
use crate::netlink::conntrack::{Entry, Key, TcpState};

/// How long a client's SYN may stay unanswered: it has been sent again by then.
const PATIENCE: Duration = Duration::from_secs(3);

/// The least time between two questions for refused clients of a frontend: they may be refused for who they are.
const PAUSE: Duration = Duration::from_secs(1);

/// The least time before the same is told of a frontend again: the engine keeps room for what it can miss while nft works.
const NEXT: Duration = Duration::from_secs(60);

/// What is known of one frontend.
#[derive(Debug, Clone, Copy, Default)]
struct Known {
    /// Whether a client has been answered since the target became active, whose own address the endpoint sees.
    answered: bool,
    /// When the endpoint was asked for a client that was refused, last.
    asked: Option<Instant>,
    /// When it was last told that clients are not answered; by whether the gateway was.
    told: [Option<Instant>; 2],
    doubt: Doubt,
}

/// Why it is doubted that clients are answered.
#[derive(Debug, Clone, Copy, Default)]
enum Doubt {
    #[default]
    None,
    /// A client was not answered yet, or refused.
    Waiting(Suspect),
    /// The endpoint is being asked.
    Asking(Suspect),
    /// It was said that clients are not answered, and whether the gateway itself is.
    Told { gateway: bool },
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
    /// The endpoint has refused it, so that there is no entry any more.
    pub refused: bool,
    /// Whether the endpoint sees it come from the gateway.
    from_gateway: bool,
    due: Instant,
}

/// What is known of all frontends.
#[derive(Debug)]
pub(super) struct Reach {
    frontends: Vec<Known>,
    /// An address that is the gateway's own: most often the next flow's too.
    own: Option<IpAddr>,
}

impl Reach {
    pub(super) fn new(frontends: usize) -> Reach {
        Reach { frontends: vec![Known::default(); frontends], own: None }
    }

    /// The target has been started anew.
    pub(super) fn reset(&mut self, frontend: FrontendId) {
        self.frontends[frontend] = Known::default();
    }

    /// An event tells of a flow that goes on; `is_local` knows the gateway's own addresses. Returns whether it takes back that
    /// clients are not answered.
    pub(super) fn told(
        &mut self,
        now: Instant,
        frontend: FrontendId,
        entry: &Entry,
        is_local: impl FnOnce(IpAddr) -> bool,
    ) -> bool {
        let known = &mut self.frontends[frontend];
        let is_told = matches!(known.doubt, Doubt::Told { .. });
        if known.answered && !is_told {
            // Only whether anybody is there is left to be seen, by whichever flow.
            match known.doubt {
                Doubt::None if !entry.status.answered() => known.wait(now, entry, true),
                Doubt::Waiting(suspect) | Doubt::Asking(suspect) if suspect.is_settled_by(entry) => {
                    known.doubt = Doubt::None
                }
                _ => {}
            }
            return false;
        }
        let client = entry.original.source.ip();
        let from_gateway = entry.is_masqueraded() || self.own == Some(client) || is_local(client);
        if from_gateway && !entry.is_masqueraded() {
            self.own = Some(client);
        }
        if entry.status.answered() {
            let counts = matches!(known.doubt, Doubt::Told { gateway } if !(gateway && from_gateway));
            let takes_back = counts && is_new(entry);
            known.answered |= !from_gateway;
            if takes_back || !from_gateway && !is_told {
                known.doubt = Doubt::None;
            }
            return takes_back;
        }
        let is_free = match known.doubt {
            Doubt::None => true,
            Doubt::Waiting(suspect) => suspect.from_gateway && !from_gateway,
            _ => false,
        };
        if is_free {
            known.wait(now, entry, from_gateway);
        }
        false
    }

    /// An event tells that a flow has ended.
    pub(super) fn ended(&mut self, now: Instant, frontend: FrontendId, entry: &Entry) {
        // A RST in place of the first answer ends the entry at once.
        let refused = !entry.status.answered() && entry.tcp_state == Some(TcpState::Close);
        let known = &mut self.frontends[frontend];
        if refused && matches!(known.doubt, Doubt::None | Doubt::Waiting(_)) {
            let due = known.asked.map_or(now, |asked| now.max(asked + PAUSE));
            known.doubt = Doubt::Waiting(Suspect { refused, due, ..Suspect::new(now, entry, true) });
        }
    }

    /// The flows that have waited for too long.
    pub(super) fn due(&self, now: Instant) -> Vec<(FrontendId, Suspect)> {
        let suspects = self.suspects().filter(|(_, suspect)| suspect.due <= now);
        suspects.map(|(id, suspect)| (id, *suspect)).collect()
    }

    /// When the next flow will have waited for too long.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.suspects().map(|(_, suspect)| suspect.due).min()
    }

    fn suspects(&self) -> impl Iterator<Item = (FrontendId, &Suspect)> {
        self.frontends.iter().enumerate().map(|(at, known)| (FrontendId::at(at), known)).filter_map(|(id, known)| {
            match &known.doubt {
                Doubt::Waiting(suspect) => Some((id, suspect)),
                _ => None,
            }
        })
    }

    /// Whether the flow that has waited for too long still does: if so, its endpoint is to be asked.
    pub(super) fn still_waits(&mut self, now: Instant, frontend: FrontendId, suspect: &Suspect, waits: bool) {
        let known = &mut self.frontends[frontend];
        known.doubt = if waits { Doubt::Asking(*suspect) } else { Doubt::None };
        if suspect.refused {
            known.asked = Some(now);
        }
    }

    /// What the endpoint has answered means nothing.
    pub(super) fn dismiss(&mut self, frontend: FrontendId) {
        self.frontends[frontend].doubt = Doubt::None;
    }

    /// The endpoint has been asked, and has answered the gateway or not. Returns it if that is to be told. It is not if a client
    /// was answered in the meantime; nor if the gateway is answered and the flow was its own, or was refused, or one of many.
    pub(super) fn asked(&mut self, now: Instant, frontend: FrontendId, gateway: bool) -> Option<SocketAddr> {
        let known = &mut self.frontends[frontend];
        let Doubt::Asking(suspect) = known.doubt else { return None };
        let is_wrong = !gateway || !(suspect.from_gateway || suspect.refused || known.answered);
        let told = &mut known.told[usize::from(gateway)];
        let is_told = is_wrong && told.is_none_or(|told| told + NEXT <= now);
        known.doubt = Doubt::None;
        if is_told {
            *told = Some(now);
            known.doubt = Doubt::Told { gateway };
        }
        is_told.then_some(suspect.endpoint)
    }
}

impl Known {
    /// A SYN waits for its answer.
    fn wait(&mut self, now: Instant, entry: &Entry, from_gateway: bool) {
        // UDP is not always answered, and a backend on this host answers by itself.
        if entry.protocol == Protocol::Tcp && !entry.reply.source.ip().is_loopback() {
            self.doubt = Doubt::Waiting(Suspect::new(now, entry, from_gateway));
        }
    }
}

impl Suspect {
    fn new(now: Instant, entry: &Entry, from_gateway: bool) -> Suspect {
        let due = now + PATIENCE;
        Suspect { key: entry.key(), id: entry.id, endpoint: entry.reply.source, refused: false, from_gateway, due }
    }

    /// Whether a flow shows that somebody is there after all: itself, or another one whose SYN is answered.
    fn is_settled_by(&self, entry: &Entry) -> bool {
        !self.refused && entry.status.answered() && (is_new(entry) || entry.key() == self.key)
    }
}

/// Whether an answered flow was so just now: a connection that was open before says nothing of those who come now.
fn is_new(entry: &Entry) -> bool {
    matches!(entry.tcp_state, None | Some(TcpState::None | TcpState::SynSent | TcpState::SynRecv))
}

#[cfg(test)]
mod tests;
