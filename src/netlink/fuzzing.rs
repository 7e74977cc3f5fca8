//! The fuzz target of netlink messages. See [`crate::fuzzing`].

use neli::consts::nl::NlmF;

use super::conntrack::{Entry, Tuple, parse_event};
use super::message::{Attributes, HEADER, Messages, Request};
use super::nftables::Reader;
use super::sock_diag::{Bound, Found};
use super::{addresses, loopback, nflog};

/// Passes a datagram to every parser, of any kind of socket.
///
/// # Panics
/// A message is not a part of the datagram, a conntrack tuple is written in another way than it was read, or a socket does not
/// receive packets to its own address.
pub fn netlink(datagram: &[u8]) {
    let mut transactions = Vec::new();
    Reader::new("proxygw", 0).datagram(datagram, &mut transactions);
    transactions.iter().for_each(|transaction| _ = transaction.changes.to_string());
    nflog::for_each_packet(datagram, &mut |_| {});
    let mut total = 0;
    for message in Messages::new(datagram) {
        let Ok(message) = message else { break };
        total += message.payload.len() + HEADER;
        assert!(total <= datagram.len(), "{total} of {} bytes", datagram.len());
        let in_attributes: usize = Attributes::after(message.payload, 4).map(|(_, value)| value.len() + 4).sum();
        assert!(in_attributes <= message.payload.len());
        addresses::parse(message.payload);
        loopback::ours(&message);
        parse_event(&message);
        if let Some(found) = Found::parse(&message) {
            let is_wildcard = found.how() == Bound::Wildcard;
            assert!(found.receives(found.ip.to_canonical(), 0) || is_wildcard, "{found:?}");
        }
        if let Some(entry) = Entry::parse(message.payload) {
            check_tuple(&entry);
        }
    }
}

/// A query for an entry has the same tuple as the entry.
fn check_tuple(entry: &Entry) {
    const TUPLE_ORIG: u16 = 1;
    let mut request = entry.original.put(Request::new(0, &[0; 4]), TUPLE_ORIG, entry.protocol);
    let bytes = request.finish(NlmF::empty(), 1);
    let value = Attributes::after(&bytes[HEADER..], 4).find(TUPLE_ORIG).expect("the tuple");
    assert_eq!(Tuple::parse(value), Some((entry.protocol, entry.original)));
}
