//! Entries as a kernel dumped them, whole, damaged and with parts left out.

use super::*;
use crate::netlink::message::Request;

/// A DNATed TCP connection, as Linux 6.18 dumped it.
const TCP: &str = "020000003400018014000180080001000a090002080002000a0900011c0002800500010006000000060002\
    00b512000006000300005000003400028014000180080001000a090001080002000a0900021c00028005000100060000000600020\
    01f90000006000300b512000008000300000001ae080008000000000008000c009321986508000b0000000001080007000006977f\
    300004802c0001800500010003000000050002000a000000050003000a00000006000400230000000600050023000000";

/// A UDP flow in zone 7 with counters and its start, as Linux 6.18 dumped it.
const UDP: &str = "020000003400018014000180080001000a090002080002000a0900011c0002800500010011000000060002\
    008c13000006000300232800003400028014000180080001000a090001080002000a0900021c00028005000100110000000600020\
    023280000060003008c1300000600120000070000080003000000018a080008000000000008000c00e3c4c8fb08000b0000000001\
    080007000000001d1c0009800c00010000000000000000010c000200000000000000001d1c000a800c00010000000000000000010\
    c000200000000000000001d100014800c00010018ea980fcdca7bef";

fn bytes(hex: &str) -> Vec<u8> {
    let digit = |digit: u8| char::from(digit).to_digit(16).expect("a digit") as u8;
    hex.as_bytes().chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}

#[test]
fn a_tcp_entry() {
    let entry = Entry::parse(&bytes(TCP)).expect("whole");
    assert_eq!(entry.protocol, Protocol::Tcp);
    assert_eq!(entry.original.source, "10.9.0.2:46354".parse().expect("an address"));
    assert_eq!(entry.original.destination, "10.9.0.1:80".parse().expect("an address"));
    assert_eq!(entry.reply.source, "10.9.0.1:8080".parse().expect("an address"));
    assert_eq!(entry.reply.destination, entry.original.source);
    assert!(entry.status.dnat() && entry.status.answered() && entry.status.assured());
    assert_eq!((entry.timeout, entry.tcp_state, entry.zone), (Some(431_999), Some(TcpState::Established), 0));
    assert_eq!((entry.sent, entry.received, entry.start), (None, None, None));
}

/// [`TCP`] as kernels dump it while it passes a flowtable: with the bit, and without CTA_TIMEOUT and CTA_PROTOINFO
/// (`ctnetlink_dump_extinfo` and `ctnetlink_fill_info` leave them out).
#[test]
fn an_entry_in_a_flowtable_has_neither_timeout_nor_state() {
    let whole = bytes(TCP);
    for bits in [Status::OFFLOAD, Status::OFFLOAD | Status::HW_OFFLOAD] {
        let mut shown = whole[..HEADER].to_vec();
        for (kind, value) in Attributes::after(&whole, HEADER) {
            let nested = matches!(kind, cta::TUPLE_ORIG | cta::TUPLE_REPLY);
            let value = match kind {
                cta::TIMEOUT | cta::PROTOINFO => continue,
                cta::STATUS => (u32::from_be_bytes(value.try_into().expect("a number")) | bits).to_be_bytes().to_vec(),
                _ => value.to_vec(),
            };
            assert_eq!(value.len() % 4, 0, "no padding is needed");
            shown.extend((value.len() as u16 + 4).to_ne_bytes());
            shown.extend((kind | if nested { 0x8000 } else { 0 }).to_ne_bytes());
            shown.extend(value);
        }
        let entry = Entry::parse(&shown).expect("whole");
        assert!(entry.status.offloaded() && entry.status.held() && entry.status.answered() && entry.status.dnat());
        assert_eq!((entry.timeout, entry.tcp_state), (None, None));
        assert_eq!(entry.key(), Entry::parse(&whole).expect("whole").key());
    }
    assert!(!Entry::parse(&whole).expect("whole").status.offloaded());
}

#[test]
fn a_udp_entry() {
    let entry = Entry::parse(&bytes(UDP)).expect("whole");
    assert_eq!((entry.protocol, entry.zone, entry.tcp_state), (Protocol::Udp, 7, None));
    assert!(!entry.status.dnat() && entry.status.answered() && !entry.status.assured());
    assert_eq!(entry.sent, Some(Counters { packets: 1, bytes: 29 }));
    assert_eq!(entry.received, entry.sent);
    assert_eq!(entry.start, Some(0x18ea_980f_cdca_7bef));
}

#[test]
fn a_truncated_entry_is_none_or_the_same_with_less() {
    for whole in [bytes(TCP), bytes(UDP)] {
        let entry = Entry::parse(&whole).expect("whole");
        let mut complete = 0;
        for end in 0..whole.len() {
            let Some(cut) = Entry::parse(&whole[..end]) else { continue };
            assert_eq!((cut.original, cut.reply, cut.id), (entry.original, entry.reply, entry.id), "{end}");
            complete += 1;
        }
        assert!(complete < whole.len() / 2);
    }
}

#[test]
fn garbled_messages_are_read_without_a_panic() {
    let mut state = 1u32;
    let mut random = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as usize
    };
    for _ in 0..20_000 {
        let mut garbled = bytes(if random() % 2 == 0 { TCP } else { UDP });
        for _ in 0..1 + random() % 4 {
            let at = random() % garbled.len();
            garbled[at] = random() as u8;
        }
        let _ = Entry::parse(&garbled);
    }
}

#[test]
fn other_protocols_are_none() {
    for number in [1, 33, 58, 132, 136] {
        let mut other = bytes(UDP);
        let at = other.iter().position(|&byte| byte == 17).expect("the protocol");
        other[at] = number;
        assert_eq!(Entry::parse(&other), None, "{number}");
    }
}

#[test]
fn a_tuple_is_written_as_it_is_read() {
    for (source, destination) in [("10.0.0.1:5", "192.0.2.3:80"), ("[fd00::1]:7", "[2001:db8::2]:443")] {
        let (source, destination) = (source.parse().expect("one"), destination.parse().expect("one"));
        let tuple = Tuple { source, destination };
        let mut request = tuple.put(Request::new(0, &[0; HEADER]), cta::TUPLE_ORIG, Protocol::Udp);
        let bytes = request.finish(neli::consts::nl::NlmF::empty(), 0);
        let value = Attributes::after(bytes, 16 + HEADER).find(cta::TUPLE_ORIG).expect("the tuple");
        assert_eq!(Tuple::parse(value), Some((Protocol::Udp, tuple)));
    }
}
