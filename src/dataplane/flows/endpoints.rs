//! Asks the endpoints themselves whose clients get no answer, see [`reach`](super::reach).

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::FlowOrder;
use super::thread::Flows;
use crate::netlink::conntrack::TcpState;

/// How long an endpoint may take to answer the gateway itself.
const ANSWER: Duration = Duration::from_secs(1);

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
pub(super) fn words(endpoint: SocketAddr, answer: Result<(), String>) -> String {
    match answer {
        Ok(()) => format!(
            "its clients get no answer from {endpoint}, though the gateway itself does: the endpoint's way back does not lead \
             through this gateway; make it the endpoint's route to the clients, or set masquerade: always"
        ),
        Err(error) => format!("its clients get no answer from {endpoint}, nor does the gateway itself: {error}"),
    }
}
