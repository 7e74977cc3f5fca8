//! The one way into the engine.
//!
//! The channel is bounded, and never full: a frontend has at most one wake, one answer, one failure and five words about its
//! clients in it, a target at most four events of its own and four about its flows, and requests are counted. So nobody waits for
//! room, and the engine and the reactor cannot wait for each other.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crossbeam_channel::{Receiver, Sender};

use super::core::Event;
use super::status::Request;
use crate::dataplane::flows::{self, Reports, Survey};
use crate::dataplane::plan::OnLink;
use crate::ids::{FrontendId, RequestId};

/// How many requests can wait for the engine; a further one is refused.
const MOST_REQUESTS: usize = 256;

/// Room for what is not counted by frontend, target or request: signals, and the answers about flows.
const SPARE: usize = 64;

/// What comes to the engine.
#[derive(Debug)]
pub enum Message {
    /// Something for the core.
    Event(Event),
    /// A request of a handler on the reactor.
    Request(RequestId, Request),
    /// What there is of flows, or why nobody can tell.
    Surveyed(Result<Survey, String>),
    /// Another program has changed our table: the table's notices have the details.
    RulesChanged,
    /// An address of an interface has come or gone: [`Inbox::on_link`] has what there is now.
    OnLink,
}

/// The sending side. Clones share all bounds.
#[derive(Debug, Clone)]
pub struct Inbox {
    sender: Sender<Message>,
    /// Frontends with a wake in the channel.
    wakes: Arc<Mutex<BTreeSet<FrontendId>>>,
    requests: Arc<AtomicUsize>,
    /// Who is on which link, where the engine does not know yet.
    on_link: Arc<Mutex<Option<BTreeSet<OnLink>>>>,
}

impl Inbox {
    /// An inbox for an engine of this size.
    pub fn new(targets: usize, frontends: usize) -> (Inbox, Receiver<Message>) {
        let room = 8 * frontends + 8 * targets + MOST_REQUESTS + SPARE;
        let (sender, receiver) = crossbeam_channel::bounded(room);
        (Inbox { sender, wakes: Arc::default(), requests: Arc::default(), on_link: Arc::default() }, receiver)
    }

    /// Sends what the bounds above allow for.
    pub fn send(&self, message: Message) {
        // The engine is gone only at the end, when nothing matters to it any more.
        let _ = self.sender.send(message);
    }

    /// Sends a request, if there is room for one more.
    pub fn try_send(&self, message: Message) -> bool {
        let taken = self
            .requests
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| (count < MOST_REQUESTS).then_some(count + 1));
        taken.is_ok() && self.sender.try_send(message).is_ok()
    }

    /// Says that a client has come to a frontend; nothing if that has been said and not been taken in yet.
    pub fn wake(&self, frontend: FrontendId, source: Option<SocketAddr>) {
        if lock(&self.wakes).insert(frontend) {
            self.send(Message::Event(Event::Wake { frontend, source }));
        }
    }

    /// Says who is on which link; one message, however often that changes before it is taken in.
    pub fn tell_on_link(&self, links: BTreeSet<OnLink>) {
        let before = lock(&self.on_link).replace(links);
        if before.is_none() {
            self.send(Message::OnLink);
        }
    }

    /// For the engine: what [`Message::OnLink`] has announced.
    pub(super) fn on_link(&self) -> Option<BTreeSet<OnLink>> {
        lock(&self.on_link).take()
    }

    /// For the engine: a message has been taken out, so there is room for another of its sort.
    pub(super) fn taken(&self, message: &Message) {
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
    fn any_number_of_wakes_is_one_until_it_is_taken_in() {
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
    fn requests_beyond_the_bound_are_refused_and_leave_room_for_events() {
        let (inbox, receiver) = Inbox::new(0, 1);
        let request = || Message::Request(RequestId { handler: HandlerId::Service(0), tag: 0 }, Request::Status);
        let sent = (0..1000).filter(|_| inbox.try_send(request())).count();
        assert_eq!(sent, MOST_REQUESTS);
        inbox.wake(FrontendId::new(0), None);
        inbox.taken(&receiver.recv().expect("there is one"));
        assert!(inbox.try_send(request()) && !inbox.try_send(request()));
    }
}
