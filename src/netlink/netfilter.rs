//! Headers and transactions of netfilter's subsystems (linux/netfilter/nfnetlink.h).

use neli::consts::nl::NlmF;

use super::message::{Attributes, Message, Request};

/// Bytes in `struct nfgenmsg`: family u8, version u8, resource u16 in network byte order.
pub(super) const HEADER: usize = 4;

/// `NFNL_SUBSYS_CTNETLINK` and `NFNL_SUBSYS_NFTABLES`: the upper byte of a message's type.
pub(super) const CONNTRACK: u16 = 1 << 8;
pub(super) const NFTABLES: u16 = 10 << 8;

/// `NFNL_MSG_BATCH_BEGIN` and `NFNL_MSG_BATCH_END`.
const BEGIN: u16 = 16;
const END: u16 = 17;

/// The attributes of a message.
pub(super) fn attributes<'m>(message: &Message<'m>) -> Attributes<'m> {
    Attributes::after(message.payload, HEADER)
}

/// A transaction of nftables: all of its messages take effect, or none. The kernel acknowledges the last one, and reports an
/// error of any other before it.
pub(super) fn batch(mut messages: Vec<(Request, NlmF)>, sequence: u32) -> Vec<u8> {
    let limit = |kind| (Request::new(kind, &[0, 0, 0, NFTABLES.to_be_bytes()[0]]), NlmF::empty());
    if let Some((_, flags)) = messages.last_mut() {
        *flags |= NlmF::ACK;
    }
    let all = std::iter::once(limit(BEGIN)).chain(messages).chain([limit(END)]);
    all.flat_map(|(mut message, flags)| message.finish(NlmF::REQUEST | flags, sequence).to_vec()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_asks_for_an_acknowledgement_of_its_last_message() {
        let message = |kind| Request::new(kind, &[2, 0, 0, 0]);
        let bytes = batch(vec![(message(0xa00), NlmF::CREATE), (message(0xa02), NlmF::empty())], 7);
        let expected: [[u16; 10]; 4] = [
            // length, type, flags, sequence, port, family and version, resource
            [20, 0, 16, 0x001, 7, 0, 0, 0, 0, u16::from_ne_bytes([0, 10])],
            [20, 0, 0xa00, 0x401, 7, 0, 0, 0, u16::from_ne_bytes([2, 0]), 0],
            [20, 0, 0xa02, 0x005, 7, 0, 0, 0, u16::from_ne_bytes([2, 0]), 0],
            [20, 0, 17, 0x001, 7, 0, 0, 0, 0, u16::from_ne_bytes([0, 10])],
        ];
        assert_eq!(bytes, expected.as_flattened().iter().flat_map(|half| half.to_le_bytes()).collect::<Vec<u8>>());
    }
}
