//! Events of DNATed flows.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use neli::consts::nl::NlmF;
use rustix::net::netlink;

use super::entry::Entry;
use super::filter;
use super::numbers::{DELETE, NEW};
use crate::netlink::message::{Message, Messages};
use crate::netlink::raw::{RawSocket, Received};

/// The groups `NFNLGRP_CONNTRACK_NEW`, `_UPDATE` and `_DESTROY` (numbers 1 to 3) as bits of `nl_groups`.
const GROUPS: u32 = 0b111;

/// Size of the receive buffer in bytes. The kernel counts close to 1 KiB for each event.
const RECEIVE_BUFFER: usize = 8 << 20;

/// A change in the conntrack table that concerns a DNATed flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A flow began.
    New(Entry),
    /// A flow was answered, assured, or (TCP) changed its state.
    Update(Entry),
    /// An entry is gone. This can come late: the kernel removes an expired entry when it next comes across it.
    Destroy(Entry),
    /// Events were lost because too many were unread (`ENOBUFS`): dump, and compare. Events that are kept still follow.
    Overrun,
}

/// A socket that receives the events of DNATed flows of one network namespace.
///
/// It becomes readable when an event waits. Flows that are older than the subscription may never have an event: with
/// `net.netfilter.nf_conntrack_events=2`, the default since Linux 5.19, an entry reports only if some subscription
/// existed when it was made. So dump after opening, and query those flows again when they could have expired.
#[derive(Debug)]
pub struct Subscription {
    events: RawSocket,
    /// Events of the last datagram that were not returned yet.
    received: VecDeque<io::Result<Event>>,
}

impl Subscription {
    /// Subscribes in the calling thread's network namespace.
    ///
    /// # Errors
    /// The operating system's error: `PermissionDenied` without `CAP_NET_ADMIN`; no netfilter netlink in the kernel.
    pub fn open() -> io::Result<Subscription> {
        let events = RawSocket::open(Some(netlink::NETFILTER))?;
        // Before joining, so that no event of an unrelated flow is ever queued.
        filter::only_dnat(&events)?;
        events.set_receive_buffer(RECEIVE_BUFFER)?;
        Ok(Subscription { events: events.join(GROUPS)?, received: VecDeque::new() })
    }

    /// The next event, or `None` if none waits; does not block.
    ///
    /// # Errors
    /// The operating system's error; `InvalidData` for a message that could not be read, after which the next can be.
    pub fn recv(&mut self) -> io::Result<Option<Event>> {
        loop {
            if let Some(event) = self.received.pop_front() {
                return event.map(Some);
            }
            let received = &mut self.received;
            match self.events.notification(|datagram| received.extend(events(datagram)))? {
                Received::Some => {}
                Received::Nothing => return Ok(None),
                Received::Overrun => return Ok(Some(Event::Overrun)),
            }
        }
    }
}

/// The events in a datagram.
fn events(datagram: &[u8]) -> impl Iterator<Item = io::Result<Event>> {
    Messages::new(datagram).filter_map(|message| message.map(|message| parse(&message)).transpose())
}

/// The event in a message; `None` if it is of an unrelated flow.
pub(in crate::netlink) fn parse(message: &Message<'_>) -> Option<Event> {
    let entry = Entry::parse(message.payload).filter(|entry| entry.status.dnat())?;
    match message.kind {
        NEW if message.flags.contains(NlmF::CREATE) => Some(Event::New(entry)),
        NEW => Some(Event::Update(entry)),
        DELETE => Some(Event::Destroy(entry)),
        _ => None,
    }
}

impl AsFd for Subscription {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;
    use crate::config::Protocol;
    use crate::netlink::conntrack::TcpState;
    use crate::netlink::testing::recorded;

    /// A subscription to the datagrams that the other socket sends.
    fn subscription() -> (Subscription, UnixDatagram) {
        let (near, far) = UnixDatagram::pair().expect("a pair");
        (Subscription { events: RawSocket::over(near.into()), received: VecDeque::new() }, far)
    }

    #[test]
    fn recorded_events_tell_of_the_dnated_flows_from_their_start_to_their_end() {
        let (mut subscription, kernel) = subscription();
        assert_eq!(subscription.recv().expect("received"), None);
        recorded!("conntrack_events").iter().for_each(|datagram| assert!(kernel.send(datagram).is_ok()));
        let mut seen = Vec::new();
        while let Some(event) = subscription.recv().expect("received") {
            let (kind, entry) = match event {
                Event::New(entry) => ("new", entry),
                Event::Update(entry) => ("update", entry),
                Event::Destroy(entry) => ("destroy", entry),
                Event::Overrun => panic!("no overrun"),
            };
            assert!(entry.status.dnat() && entry.reply.source.port() == 8080);
            seen.push((kind, entry.protocol, entry.tcp_state));
        }
        use Protocol::{Tcp, Udp};
        let expected = [
            ("new", Tcp, Some(TcpState::SynSent)),
            ("update", Tcp, Some(TcpState::SynRecv)),
            ("update", Tcp, Some(TcpState::Established)),
            ("update", Tcp, Some(TcpState::FinWait)),
            ("new", Udp, None),
            ("update", Tcp, Some(TcpState::LastAck)),
            ("update", Tcp, Some(TcpState::TimeWait)),
            ("update", Udp, None),
            ("destroy", Udp, None),
            ("destroy", Tcp, Some(TcpState::TimeWait)),
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn several_events_of_one_datagram_are_returned_one_by_one() {
        let (mut subscription, kernel) = subscription();
        let recorded = recorded!("conntrack_events");
        kernel.send(&[&recorded[0][..], &recorded[1]].concat()).expect("sent");
        assert!(matches!(subscription.recv().expect("received"), Some(Event::New(_))));
        assert!(matches!(subscription.recv().expect("received"), Some(Event::Update(_))));
        assert_eq!(subscription.recv().expect("received"), None);
    }

    #[test]
    fn a_damaged_message_is_an_error_and_the_next_datagram_is_read() {
        let (mut subscription, kernel) = subscription();
        let recorded = recorded!("conntrack_events");
        kernel.send(&recorded[0][..100]).expect("sent");
        kernel.send(&recorded[0]).expect("sent");
        assert_eq!(subscription.recv().expect_err("damaged").kind(), io::ErrorKind::InvalidData);
        assert!(matches!(subscription.recv().expect("received"), Some(Event::New(_))));
    }
}
