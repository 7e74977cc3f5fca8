//! Do a frontend's clients get answers?
//!
//! A backend whose way back to the clients does not lead through this gateway never answers them, while it answers the gateway
//! itself. That shows by what happens: the SYN of the first client since the target became active stays unanswered. Then the
//! endpoint is asked by the gateway itself, and the frontend says what is wrong.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::FlowOrder;
use super::thread::Flows;
use crate::config::{Masquerade, Protocol};
use crate::engine::core::FrontendId;
use crate::netlink::conntrack::{Entry, Key, TcpState};

/// How long a client's SYN may stay unanswered: it has been sent again by then.
const PATIENCE: Duration = Duration::from_secs(3);

/// How long an endpoint may take to answer the gateway itself.
const ANSWER: Duration = Duration::from_secs(1);

/// What is known of one frontend.
#[derive(Debug, Clone, Copy)]
enum State {
    /// Nobody has come since the target became active.
    New,
    /// A client has come and is not answered yet.
    Waiting(Suspect),
    /// The endpoint is being asked.
    Asking(SocketAddr),
    /// It was said that clients are not answered.
    Told,
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
    since: Instant,
}

/// What is known of all frontends.
#[derive(Debug)]
pub(super) struct Reach(Vec<State>);

impl Reach {
    pub(super) fn new(frontends: usize) -> Reach {
        Reach(vec![State::New; frontends])
    }

    /// The target has been started anew.
    pub(super) fn reset(&mut self, frontend: FrontendId) {
        self.0[frontend] = State::New;
    }

    /// An event tells of a flow. Returns whether it takes back that clients are not answered.
    pub(super) fn told(&mut self, now: Instant, frontend: FrontendId, entry: &Entry) -> bool {
        let state = &mut self.0[frontend];
        if entry.status.answered() {
            return matches!(std::mem::replace(state, State::Answered), State::Told);
        }
        let endpoint = entry.reply.source;
        // UDP is not always answered, and a backend on this host answers by itself.
        if matches!(state, State::New) && entry.protocol == Protocol::Tcp && !endpoint.ip().is_loopback() {
            *state = State::Waiting(Suspect { key: entry.key(), id: entry.id, endpoint, since: now });
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
        self.0.iter().enumerate().filter_map(|(id, state)| match state {
            State::Waiting(suspect) => Some((id, suspect)),
            _ => None,
        })
    }

    /// Whether the flow that has waited for too long still does: if so, its endpoint is to be asked.
    pub(super) fn still_waits(&mut self, frontend: FrontendId, suspect: &Suspect, waits: bool) {
        self.0[frontend] = if waits { State::Asking(suspect.endpoint) } else { State::New };
    }

    /// The endpoint has been asked. Whether that still matters: it does not if a client was answered in the meantime.
    pub(super) fn asked(&mut self, frontend: FrontendId) -> Option<SocketAddr> {
        match self.0[frontend] {
            State::Asking(endpoint) => {
                self.0[frontend] = State::Told;
                Some(endpoint)
            }
            _ => None,
        }
    }
}

impl Flows {
    /// Asks the endpoints themselves whose clients have waited for an answer for too long.
    pub(super) fn ask_endpoints(&mut self, now: Instant) -> io::Result<()> {
        if self.asking {
            return Ok(());
        }
        let mut silent = Vec::new();
        for (frontend, suspect) in self.reach.due(now) {
            let entry = self.with_conntrack(|conntrack, _| conntrack.look_up(&suspect.key, suspect.id))?;
            let waits = entry.is_some_and(|entry| entry.tcp_state == Some(TcpState::SynSent));
            self.reach.still_waits(frontend, &suspect, waits);
            if waits {
                silent.push((frontend, suspect.endpoint));
            }
        }
        if silent.is_empty() {
            return Ok(());
        }
        let (own, asked) = (self.own.clone(), silent.clone());
        // It ends by itself: each question has a bound.
        let thread = std::thread::Builder::new().name("reach".to_owned()).spawn(move || {
            let ask = |(frontend, endpoint)| {
                (frontend, TcpStream::connect_timeout(&endpoint, ANSWER).map(|_| ()).map_err(|error| error.to_string()))
            };
            own.send(FlowOrder::Asked(asked.into_iter().map(ask).collect()));
        });
        match thread {
            Ok(_) => self.asking = true,
            Err(error) => {
                log::warn!("cannot ask endpoints whose clients get no answer: {error}");
                silent.iter().for_each(|(frontend, _)| self.reach.reset(*frontend));
            }
        }
        Ok(())
    }
}

/// What is wrong when clients are not answered, given whether the gateway itself is.
pub(super) fn words(endpoint: SocketAddr, answer: Result<(), String>, masquerade: Masquerade) -> String {
    match answer {
        Ok(()) if masquerade == Masquerade::Always => {
            format!("its clients get no answer from {endpoint}, though the gateway itself does")
        }
        Ok(()) => format!(
            "its clients get no answer from {endpoint}, though the gateway itself does: the endpoint's way back does not lead \
             through this gateway; make it the endpoint's route to the clients, or set masquerade: always"
        ),
        Err(error) => format!("its clients get no answer from {endpoint}, nor does the gateway itself: {error}"),
    }
}
