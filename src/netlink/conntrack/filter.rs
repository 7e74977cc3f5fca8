//! The classic BPF program that passes only the events of DNATed flows to a subscription's socket, so that unrelated
//! flows neither wake the daemon nor fill its buffer (`linux/filter.h`).

use std::io;
use std::os::fd::AsFd;

use socket2::{SockFilter, SockRef};

use super::{Status, cta};
use crate::netlink::{message, netfilter};

/// `BPF_LD | BPF_IMM`: A = k.
const LOAD: u16 = 0x00;
/// `BPF_LDX | BPF_IMM`: X = k.
const LOAD_X: u16 = 0x01;
/// `BPF_LD | BPF_W | BPF_ABS`: A = the big-endian word at k, or an extension's result.
const LOAD_WORD: u16 = 0x20;
/// `BPF_LD | BPF_W | BPF_IND`: A = the big-endian word at X + k.
const LOAD_WORD_AT_X: u16 = 0x40;
/// `BPF_MISC | BPF_TAX`: X = A.
const MOVE_TO_X: u16 = 0x07;
/// `BPF_JMP | BPF_JEQ | BPF_K`.
const JUMP_IF_EQUAL: u16 = 0x15;
/// `BPF_JMP | BPF_JSET | BPF_K`.
const JUMP_IF_ANY: u16 = 0x45;
/// `BPF_RET | BPF_K`: pass k bytes.
const RETURN: u16 = 0x06;
/// `SKF_AD_OFF + SKF_AD_NLATTR`: A = offset of the attribute of type X, searched from A; 0 if there is none.
const FIND_ATTRIBUTE: u32 = (-0x1000i32 + 12) as u32;

/// Passes only messages whose `CTA_STATUS` has `IPS_DST_NAT`.
const ONLY_DNAT: [SockFilter; 9] = [
    SockFilter::new(LOAD, 0, 0, (message::HEADER + netfilter::HEADER) as u32),
    SockFilter::new(LOAD_X, 0, 0, cta::STATUS as u32),
    SockFilter::new(LOAD_WORD, 0, 0, FIND_ATTRIBUTE),
    SockFilter::new(JUMP_IF_EQUAL, 4, 0, 0),
    SockFilter::new(MOVE_TO_X, 0, 0, 0),
    // The value follows the attribute's header of four bytes.
    SockFilter::new(LOAD_WORD_AT_X, 0, 0, 4),
    SockFilter::new(JUMP_IF_ANY, 0, 1, Status::DST_NAT),
    SockFilter::new(RETURN, 0, 0, u32::MAX),
    SockFilter::new(RETURN, 0, 0, 0),
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
    use crate::netlink::recorded::recorded;

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
