//! Properties of whole packets: valid ones of every shape, and what mutation makes of them.
//!
//! The checks share no code with what they check. A failure names its seed; `PROXYGW_PACKET_SEED=SEED` runs that one alone.

use std::net::IpAddr;

use super::*;
use crate::random::Random;

/// Worlds of one run: each is one valid packet and its mutations.
const SEEDS: u64 = 4000;
const MUTATIONS: u64 = 12;

/// A length that is often at a limit.
fn length(random: &mut Random, max: usize) -> usize {
    let near = [0, 1, 8, 1220, 1232, 1280, 1452, 1460, 1500, 65_000, max];
    let length = match random.below(4) {
        0 => near[random.index(near.len())] + random.index(16),
        1 => random.index(max + 1),
        _ => random.index(2000),
    };
    length.min(max)
}

/// Padding for an options header of IPv6, of `units` times eight bytes behind the first eight.
fn options_v6(random: &mut Random, next: u8, units: u8) -> Vec<u8> {
    let mut header = vec![next, units];
    let whole = (usize::from(units) + 1) * 8;
    while header.len() < whole {
        let left = whole - header.len();
        match left.min(257) {
            1 => header.push(0),
            most => {
                let length = 2 + random.index(most - 1);
                header.extend([1, (length - 2) as u8]);
                header.resize(header.len() + length - 2, 0);
            }
        }
    }
    header
}

/// A valid TCP or UDP packet with any headers that a sender may put before it.
fn valid(random: &mut Random) -> Vec<u8> {
    const V6: usize = 40;
    let (v6, udp) = (random.chance(60), random.chance(50));
    let protocol = if udp { 17 } else { 6 };
    let mut extensions = Vec::new();
    let mut options = Vec::new();
    let mut first = protocol;
    if v6 {
        let (hop, destination) = (random.chance(40), random.chance(60));
        let units = |random: &mut Random| {
            if random.chance(50) { random.index(6) as u8 } else { 140 + random.index(20) as u8 }
        };
        first = if hop {
            0
        } else if destination {
            60
        } else {
            protocol
        };
        if hop {
            let units = units(random);
            extensions.extend(options_v6(random, if destination { 60 } else { protocol }, units));
        }
        if destination {
            let units = units(random);
            extensions.extend(options_v6(random, protocol, units));
        }
    } else {
        // Router alert, record route, time stamp, no operation.
        let all: [&[u8]; 4] = [&[148, 4, 0, 0], &[7, 7, 4, 0, 0, 0, 0], &[68, 12, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[1]];
        while random.chance(50) && options.len() < 24 {
            options.extend(all[random.index(4)]);
        }
        options.resize(options.len().next_multiple_of(4), 0);
    }
    let before = if v6 { extensions.len() } else { 20 + options.len() };
    let (source_port, destination_port) = (random.next() as u16, random.next() as u16);
    let mut segment = [source_port.to_be_bytes(), destination_port.to_be_bytes()].concat();
    let most = 65_535 - before;
    if udp {
        let length = length(random, most - 8);
        segment.extend(((8 + length) as u16).to_be_bytes());
        segment.extend(random.bytes(2 + length));
    } else {
        let words = 5 + random.index(11);
        let length = if random.chance(80) { 0 } else { length(random, most - 4 * words) };
        segment.extend(random.bytes(4 * words + length - 4));
        (segment[12], segment[13]) = ((words as u8) << 4, 2);
    }
    let packet = if v6 {
        let length = (extensions.len() + segment.len()) as u16;
        let head = [&[0x60, 0, 0, 0][..], &length.to_be_bytes(), &[first, 64]].concat();
        let packet = [head, random.bytes(32), extensions, segment].concat();
        assert!(packet.len() <= V6 + 65_535);
        packet
    } else {
        let header = 20 + options.len();
        let length = (header + segment.len()) as u16;
        let head = [&[0x40 | (header / 4) as u8, 0][..], &length.to_be_bytes(), &[1, 2, 0x40, 0, 64, first, 0, 0]];
        [head.concat(), random.bytes(8), options, segment].concat()
    };
    // What NFLOG may have behind the packet: padding.
    let padding = if random.chance(10) { random.index(8) } else { 0 };
    [packet, random.bytes(padding)].concat()
}

/// A packet in which a few fields are not what they were.
fn mutated(random: &mut Random, mut packet: Vec<u8>) -> Vec<u8> {
    const FIELDS: [u8; 16] = [0, 1, 2, 6, 17, 43, 44, 50, 51, 58, 59, 60, 131, 137, 0x80, 0xff];
    for _ in 0..=random.index(3) {
        // Mostly among the headers.
        let at = if random.chance(80) { random.index(packet.len().min(120)) } else { random.index(packet.len()) };
        match random.index(5) {
            0 => packet[at] ^= 1 << random.index(8),
            1 => packet[at] = FIELDS[random.index(16)],
            2 => packet[at] = random.next() as u8,
            3 => packet.truncate(at.max(1)),
            _ => {
                let more = random.index(64);
                packet.splice(at..at, random.bytes(more));
            }
        }
    }
    packet
}

/// The sum of RFC 1071, with the carry added in each step.
fn sum(parts: &[&[u8]]) -> u16 {
    let bytes = parts.concat();
    let mut sum = 0u16;
    for pair in bytes.chunks(2) {
        let (next, carry) = sum.overflowing_add(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        sum = next + u16::from(carry);
    }
    sum
}

/// The transport header's position, found from the front.
fn transport_of(packet: &[u8]) -> usize {
    if packet[0] >> 4 == 4 {
        return usize::from(packet[0] & 15) * 4;
    }
    let (mut next, mut at) = (packet[6], 40);
    while next == 0 || next == 60 {
        next = packet[at];
        at += 8 + 8 * usize::from(packet[at + 1]);
    }
    at
}

/// A packet whose lengths are right and whose checksum is.
fn check_whole(packet: &[u8]) {
    let number = |at: usize| usize::from(u16::from_be_bytes([packet[at], packet[at + 1]]));
    let at = transport_of(packet);
    let segment = &packet[at..];
    let length = (segment.len() as u32).to_be_bytes();
    let (addresses, protocol) = if packet[0] >> 4 == 4 {
        assert_eq!(number(2), packet.len());
        (&packet[12..20], packet[9])
    } else {
        assert_eq!(number(4) + 40, packet.len());
        (&packet[8..40], if at == 40 { packet[6] } else { last_name(packet) })
    };
    assert_eq!(sum(&[addresses, &length, &[0, protocol], segment]), 0xffff);
    assert!(protocol == 6 || segment[6..8] != [0, 0]);
}

/// The protocol that the last extension header names.
fn last_name(packet: &[u8]) -> u8 {
    let (mut next, mut at) = (packet[6], 40);
    while next == 0 || next == 60 {
        next = packet[at];
        at += 8 + 8 * usize::from(packet[at + 1]);
    }
    next
}

/// Puts fragments together as a receiver does (RFC 8200, section 4.5); checks what it demands of each.
fn reassembled(fragments: &[Vec<u8>]) -> Vec<u8> {
    let mut whole = Vec::new();
    let mut payload = Vec::new();
    for (index, fragment) in fragments.iter().enumerate() {
        assert!(fragment.len() <= 1280, "{} bytes", fragment.len());
        assert_eq!(usize::from(u16::from_be_bytes([fragment[4], fragment[5]])) + 40, fragment.len());
        // Only hop-by-hop options are repeated.
        let (name, at) = if fragment[6] == 0 { (40, 48 + 8 * usize::from(fragment[41])) } else { (6, 40) };
        assert_eq!(fragment[name], 44);
        let (header, part) = (&fragment[at..at + 8], &fragment[at + 8..]);
        let offset = usize::from(u16::from_be_bytes([header[2], header[3]]));
        assert_eq!((offset & !7, offset & 1 == 1), (payload.len(), index + 1 < fragments.len()));
        assert!(offset & 1 == 0 || part.len() % 8 == 0);
        if index == 0 {
            whole = fragment[..at].to_vec();
            whole[name] = header[0];
        } else {
            assert_eq!(header[4..8], fragments[0][at + 4..at + 8]);
        }
        payload.extend_from_slice(part);
    }
    let length = whole.len() - 40 + payload.len();
    whole[4..6].copy_from_slice(&u16::try_from(length).expect("a length").to_be_bytes());
    // RFC 7112: all headers are in the first.
    let all = [whole, payload].concat();
    let transport = transport_of(&all);
    let header = if last_name(&all) == 6 { usize::from(all[transport + 12] >> 4) * 4 } else { 8 };
    assert!(transport + header + 8 <= fragments[0].len());
    all
}

/// Bytes that the captured packet has in common with the one that is sent: all but the checksum, and those behind its end.
fn without_checksum(packet: &[u8], like: &[u8]) -> Vec<u8> {
    let mut packet = packet[..like.len()].to_vec();
    let at = transport_of(&packet) + if last_protocol(&packet) == 6 { 16 } else { 6 };
    packet[at..at + 2].fill(0);
    packet
}

fn last_protocol(packet: &[u8]) -> u8 {
    if packet[0] >> 4 == 4 { packet[9] } else { last_name(packet) }
}

/// All that holds for bytes of any kind. Whether they were a packet that is held.
fn check(bytes: &[u8]) -> bool {
    let Ok(packet) = Packet::parse(bytes) else { return false };
    let flow = packet.flow;
    let refusal = packet.refusal();
    assert!(refusal.len() <= 1280);
    let addresses = match (flow.destination.ip(), flow.source.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => [from.octets(), to.octets()].concat(),
        (IpAddr::V6(from), IpAddr::V6(to)) => [from.octets(), to.octets()].concat(),
        families => panic!("{families:?}"),
    };
    let (at, next, body) = if refusal[0] >> 4 == 4 { (12, refusal[9], 20) } else { (8, refusal[6], 40) };
    assert_eq!(refusal[at..at + addresses.len()], addresses);
    let body = &refusal[body..];
    let length = (body.len() as u32).to_be_bytes();
    match (flow.protocol, next) {
        (Protocol::Tcp, 6) => {
            check_whole(&refusal);
            let reset = Packet::parse(&refusal).expect("a reset");
            assert_eq!((reset.flow.source, reset.flow.destination), (flow.destination, flow.source));
        }
        (Protocol::Udp, 1) => assert_eq!(sum(&[body]), 0xffff),
        (Protocol::Udp, 58) => assert_eq!(sum(&[&addresses, &length, &[0, 58], body]), 0xffff),
        other => panic!("{other:?}"),
    }
    let sent = packet.into_sendable();
    let v4 = flow.source.is_ipv4();
    let mut whole = if v4 || sent.len() == 1 { sent[0].clone() } else { reassembled(&sent) };
    assert!(v4 || sent.len() > 1 || whole.len() <= 1500);
    assert!(!v4 || sent.len() == 1);
    check_whole(&whole);
    let again = Packet::parse(&whole).expect("it is a packet still");
    assert_eq!(again.flow, flow);
    if v4 && whole.len() > 1500 {
        assert_eq!(whole[6] & 0x40, 0);
        whole[6] = bytes[6];
    }
    assert_eq!(without_checksum(&whole, &whole), without_checksum(bytes, &whole));
    true
}

#[test]
fn parsed_packets_can_be_sent_and_refused() {
    let only = std::env::var("PROXYGW_PACKET_SEED").ok().map(|seed| seed.parse().expect("a number"));
    let (mut held, mut unfit, mut in_fragments, mut survivors) = (0, 0, 0, 0);
    for seed in only.map_or(0..SEEDS, |seed| seed..seed + 1) {
        let result = std::panic::catch_unwind(|| {
            let mut random = Random(seed);
            let whole = valid(&mut random);
            let parsed = Packet::parse(&whole);
            match &parsed {
                Ok(_) => assert!(check(&whole)),
                // A valid packet is refused for this alone.
                Err(unfit) => assert_eq!(*unfit, Unfit::LongHeaders),
            }
            let fragments = parsed.as_ref().map_or(0, |packet| packet.clone().into_sendable().len());
            let mutants = (0..MUTATIONS).filter(|_| {
                let mutant = mutated(&mut random, whole.clone());
                check(&mutant)
            });
            (parsed.is_ok(), fragments, mutants.count())
        });
        let Ok((ok, fragments, mutants)) = result else { panic!("PROXYGW_PACKET_SEED={seed}") };
        held += u32::from(ok);
        unfit += u32::from(!ok);
        in_fragments += u32::from(fragments > 1);
        survivors += mutants;
    }
    // The generator reaches what it is there for.
    if only.is_none() {
        assert!(
            held > 2000 && unfit > 50 && in_fragments > 300 && survivors > 5000,
            "{held} {unfit} {in_fragments} {survivors}"
        );
    }
}

#[test]
fn random_bytes_do_not_panic() {
    let mut random = Random(7);
    for _ in 0..20_000 {
        let length = random.index(200);
        let mut noise = random.bytes(length);
        if let Some(first) = noise.first_mut() {
            *first = if *first & 1 == 0 { 0x40 | (*first >> 4) } else { 0x60 };
        }
        check(&noise);
    }
}
