//! Asks the endpoints themselves whose clients get no answer, see [`reach`](super::reach).

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::thread::Flows;
use super::{Answer, FlowOrder};
use crate::engine::core::{Event, FrontendId};
use crate::netlink::conntrack::TcpState;

/// How long an endpoint may take to answer the gateway itself.
const ANSWER: Duration = Duration::from_secs(1);

/// A question to an endpoint whose clients get no answer.
struct Question {
    frontend: FrontendId,
    endpoint: SocketAddr,
    refused: bool,
    /// The endpoints of the same target.
    others: Vec<SocketAddr>,
}

impl Flows {
    /// Asks the endpoints themselves whose clients were refused, or have waited for an answer for too long.
    pub(super) fn ask_endpoints(&mut self, now: Instant) -> io::Result<()> {
        if self.asking {
            return Ok(());
        }
        let mut questions = Vec::new();
        for (frontend, suspect) in self.reach.due(now) {
            let waits = suspect.refused || {
                let entry = self.with_conntrack(|conntrack, _| conntrack.look_up(&suspect.key, suspect.id))?;
                entry.is_some_and(|entry| entry.tcp_state == Some(TcpState::SynSent))
            };
            self.reach.still_waits(now, frontend, &suspect, waits);
            if waits {
                let others = self.tcp_endpoints[self.target_of[frontend]].clone();
                questions.push(Question { frontend, endpoint: suspect.endpoint, refused: suspect.refused, others });
            }
        }
        if questions.is_empty() {
            return Ok(());
        }
        let own = self.own.clone();
        let asked: Vec<_> = questions.iter().map(|question| question.frontend).collect();
        // It ends by itself: each question has a bound.
        let thread = std::thread::Builder::new()
            .name("reach".to_owned())
            .spawn(move || own.send(FlowOrder::Asked(questions.into_iter().map(Question::ask).collect())));
        match thread {
            Ok(_) => self.asking = true,
            Err(error) => {
                log::warn!("cannot ask endpoints whose clients get no answer: {error}");
                asked.into_iter().for_each(|frontend| self.reach.reset(frontend));
            }
        }
        Ok(())
    }
}

impl Question {
    fn ask(self) -> Answer {
        let connect = |endpoint| TcpStream::connect_timeout(endpoint, ANSWER);
        let endpoint = connect(&self.endpoint).map(|_| ()).map_err(|error| error.to_string());
        let what = if self.refused { "refused a client" } else { "not answered a client" };
        let does = if endpoint.is_ok() { "answers" } else { "does not answer" };
        log::debug!("{}, which has {what}, {does} the gateway", self.endpoint);
        let mut others = self.others.iter().filter(|other| **other != self.endpoint);
        let none = endpoint.is_err() && !others.any(|other| connect(other).is_ok());
        Answer { frontend: self.frontend, endpoint, none }
    }
}

impl Answer {
    /// What the core is told where clients are not answered.
    pub(super) fn event(self, endpoint: SocketAddr) -> Event {
        let Answer { frontend, none, .. } = self;
        let problem = match self.endpoint {
            Ok(()) => format!(
                "its clients get no answer from {endpoint}, though the gateway itself does: the endpoint's way back does not \
                 lead through this gateway; make it the endpoint's route to the clients, or set masquerade: always"
            ),
            Err(error) => format!("clients do not reach {endpoint}, nor does the gateway itself: {error}"),
        };
        Event::ClientsLost { frontend, problem, none }
    }
}
