//! The classic BPF program that passes only the events of DNATed flows to a subscription's socket, so that unrelated
//! flows neither wake the daemon nor fill its buffer (`linux/filter.h`).

use std::io;
use std::os::fd::AsFd;

use socket2::{SockFilter, SockRef};

use super::numbers::cta;
use super::status::Status;
use crate::netlink::{message, netfilter};

/// `SKF_AD_OFF + SKF_AD_NLATTR`: A = offset of the attribute of type X, searched from A; 0 if there is none.
const FIND_ATTRIBUTE: u32 = (-0x1000i32 + 12) as u32;

/// Passes only messages whose `CTA_STATUS` has `IPS_DST_NAT`. In the comments, A and X are the registers.
#[rustfmt::skip]
const ONLY_DNAT: [SockFilter; 9] = [
    SockFilter::new(0x00, 0, 0, (message::HEADER + netfilter::HEADER) as u32), // A = the first attribute
    SockFilter::new(0x01, 0, 0, cta::STATUS as u32), // X = its type
    SockFilter::new(0x20, 0, 0, FIND_ATTRIBUTE),     // A = its offset
    SockFilter::new(0x15, 4, 0, 0),                  // if A == 0, drop
    SockFilter::new(0x07, 0, 0, 0),                  // X = A
    SockFilter::new(0x40, 0, 0, 4),                  // A = big-endian word at X + 4, after the attribute's header
    SockFilter::new(0x45, 0, 1, Status::DST_NAT),    // unless A & IPS_DST_NAT, drop
    SockFilter::new(0x06, 0, 0, u32::MAX),           // pass all bytes
    SockFilter::new(0x06, 0, 0, 0),                  // drop
];

/// Attaches the program to a socket.
pub(super) fn only_dnat(socket: &impl AsFd) -> io::Result<()> {
    SockRef::from(socket).attach_filter(&ONLY_DNAT)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;
    use crate::netlink::conntrack::Entry;
    use crate::netlink::message::Messages;
    use crate::netlink::testing::recorded;

    #[test]
    fn only_events_of_dnated_flows_reach_the_socket() {
        let (near, far) = UnixDatagram::pair().expect("a pair");
        only_dnat(&near).expect("attached");
        near.set_nonblocking(true).expect("set");
        let mut passed = 0;
        for datagram in recorded!("conntrack_events") {
            far.send(&datagram).expect("sent");
            let mut buffer = [0; 4096];
            let received = near.recv(&mut buffer).ok();
            let message = Messages::new(&datagram).next().expect("one").expect("whole");
            let is_dnated = Entry::parse(message.payload).is_some_and(|entry| entry.status.dnat());
            assert_eq!(received, is_dnated.then_some(datagram.len()));
            passed += usize::from(is_dnated);
        }
        assert_eq!(passed, 10);
    }
}
