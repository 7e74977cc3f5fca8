//! The fuzz target of netlink messages. See [`crate::fuzzing`].

use neli::consts::nl::NlmF;

use super::conntrack::{Entry, Tuple, fuzz_event};
use super::message::{Attributes, HEADER, Messages, Request};
use super::{addresses, loopback, nflog, nftables, sock_diag};

/// Gives a datagram to every parser, whichever sort of socket it is from.
///
/// # Panics
/// A message is not a part of the datagram, or a conntrack tuple is written in another way than it was read.
pub fn netlink(datagram: &[u8]) {
    nftables::fuzz(datagram);
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
        sock_diag::fuzz(&message);
        fuzz_event(&message);
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
