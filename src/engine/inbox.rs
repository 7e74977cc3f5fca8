//! The one way into the engine.
//!
//! The channel is bounded and never full, so senders do not wait, and the engine and the reactor cannot wait for each other.
//! A frontend has at most one wake, one result, one failure and five reports about its clients in it, a target at most four
//! events of its own and four about its flows, and requests are counted.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crossbeam_channel::{Receiver, Sender};

use super::core::Event;
use super::request::Request;
use crate::dataplane::flows::{self, Reports, Survey};
use crate::dataplane::plan::OnLink;
use crate::ids::{FrontendId, RequestId};

/// Requests that can wait for the engine; further ones are refused.
const MAX_REQUESTS: usize = 256;

/// Space for messages that do not depend on a frontend, target or request: signals and surveys.
const SPARE: usize = 64;

/// A message to the engine.
#[derive(Debug)]
pub enum Message {
    /// An event for the core.
    Event(Event),
    /// A request of a handler on the reactor.
    Request(RequestId, Request),
    /// The flows, or the reason why they are not known.
    Surveyed(Result<Survey, String>),
    /// Another program has changed our table; the table's notices have the details.
    RulesChanged,
    /// The addresses on the links have changed; [`Inbox::on_link`] has them.
    OnLink,
}

/// The sending side. Clones share all bounds.
#[derive(Debug, Clone)]
pub struct Inbox {
    sender: Sender<Message>,
    /// Frontends with a wake in the channel.
    wakes: Arc<Mutex<BTreeSet<FrontendId>>>,
    requests: Arc<AtomicUsize>,
    /// Addresses on the links that the engine has not received yet.
    on_link: Arc<Mutex<Option<BTreeSet<OnLink>>>>,
}

impl Inbox {
    /// An inbox for an engine of this size.
    pub fn new(targets: usize, frontends: usize) -> (Inbox, Receiver<Message>) {
        let capacity = 8 * frontends + 8 * targets + MAX_REQUESTS + SPARE;
        let (sender, receiver) = crossbeam_channel::bounded(capacity);
        (Inbox { sender, wakes: Arc::default(), requests: Arc::default(), on_link: Arc::default() }, receiver)
    }

    /// Sends a message that the bounds above allow for.
    pub fn send(&self, message: Message) {
        // The engine is gone only at the end.
        let _ = self.sender.send(message);
    }

    /// Sends a request; returns false if too many wait.
    pub fn try_send(&self, message: Message) -> bool {
        let taken = self
            .requests
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| (count < MAX_REQUESTS).then_some(count + 1));
        taken.is_ok() && self.sender.try_send(message).is_ok()
    }

    /// Reports a client of a frontend, unless the engine has an earlier wake of the frontend to handle.
    pub fn wake(&self, frontend: FrontendId, source: Option<SocketAddr>) {
        if lock(&self.wakes).insert(frontend) {
            self.send(Message::Event(Event::Wake { frontend, source }));
        }
    }

    /// Reports the addresses on the links; one message, however often they change before the engine handles it.
    pub fn report_on_link(&self, links: BTreeSet<OnLink>) {
        let before = lock(&self.on_link).replace(links);
        if before.is_none() {
            self.send(Message::OnLink);
        }
    }

    /// For the engine: the addresses that [`Message::OnLink`] announced.
    pub(super) fn on_link(&self) -> Option<BTreeSet<OnLink>> {
        lock(&self.on_link).take()
    }

    /// For the engine: records that a message was received, so that another of its kind may follow.
    pub(crate) fn taken(&self, message: &Message) {
        match message {
            Message::Event(Event::Wake { frontend, .. }) => _ = lock(&self.wakes).remove(frontend),
            Message::Request(..) => {
                self.requests.fetch_sub(1, Ordering::Relaxed);
            }
            Message::Event(_) | Message::Surveyed(_) | Message::RulesChanged | Message::OnLink => {}
        }
    }
}

impl Reports for Inbox {
    fn report(&self, report: flows::Report) {
        self.send(Message::Event(Event::Flows(report)));
    }

    fn surveyed(&self, survey: Result<Survey, String>) {
        self.send(Message::Surveyed(survey));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::HandlerId;

    #[test]
    fn wakes_are_merged_until_one_is_received() {
        let (inbox, receiver) = Inbox::new(1, 2);
        for _ in 0..10_000 {
            inbox.wake(FrontendId::new(0), None);
            inbox.wake(FrontendId::new(1), None);
        }
        assert_eq!(receiver.len(), 2);
        let message = receiver.recv().expect("there is one");
        inbox.taken(&message);
        inbox.wake(FrontendId::new(0), None);
        assert_eq!(receiver.len(), 2);
    }

    #[test]
    fn excess_requests_are_refused_and_leave_space_for_events() {
        let (inbox, receiver) = Inbox::new(0, 1);
        let request = || Message::Request(RequestId { handler: HandlerId::Service(0), tag: 0 }, Request::Status);
        let sent = (0..1000).filter(|_| inbox.try_send(request())).count();
        assert_eq!(sent, MAX_REQUESTS);
        inbox.wake(FrontendId::new(0), None);
        inbox.taken(&receiver.recv().expect("there is one"));
        assert!(inbox.try_send(request()) && !inbox.try_send(request()));
    }
}
