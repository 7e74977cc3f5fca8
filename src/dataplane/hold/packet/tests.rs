//! Packets with known bytes.

use super::checksum::{checksum, pseudo_header, with_ip_header};
use super::*;

/// A SYN over IPv4 with a wrong checksum.
fn syn_v4() -> Vec<u8> {
    let segment = [0x9c, 0x40, 0, 80, 0, 0, 0, 9, 0, 0, 0, 0, 5 << 4, 2, 0, 0, 0xde, 0xad, 0, 0];
    with_ip_header("198.51.100.2".parse().expect("v4"), "198.51.100.1".parse().expect("v4"), 6, &segment)
}

fn datagram_v6() -> Vec<u8> {
    let segment = [0x9c, 0x40, 0, 53, 0, 11, 0xde, 0xad, b'a', b'b', b'c'];
    with_ip_header("2001:db8::2".parse().expect("v6"), "2001:db8::1".parse().expect("v6"), 17, &segment)
}

/// The sum over a segment with its right checksum is zero.
fn verify(packet: &[u8]) {
    let packet = Packet::parse(packet).expect("a packet");
    let segment = packet.segment();
    let (from, to) = (packet.flow.source.ip(), packet.flow.destination.ip());
    assert_eq!(checksum(pseudo_header(from, to, packet.flow.protocol.number(), segment.len()), segment), 0);
}

#[test]
fn a_packet_is_read_and_gets_its_checksum() {
    let packet = Packet::parse(&syn_v4()).expect("a packet");
    assert_eq!(packet.flow.source, "198.51.100.2:40000".parse().expect("an address"));
    assert_eq!(packet.flow.destination, "198.51.100.1:80".parse().expect("an address"));
    verify(&packet.into_sendable()[0]);
    let packet = Packet::parse(&datagram_v6()).expect("a packet");
    assert_eq!(packet.flow.destination, "[2001:db8::1]:53".parse().expect("an address"));
    verify(&packet.into_sendable()[0]);
}

#[test]
fn the_checksum_is_that_of_rfc_1071() {
    assert_eq!(checksum(0, &[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
}

#[test]
fn cut_and_flipped_packets_do_not_panic() {
    for whole in [syn_v4(), datagram_v6()] {
        for end in 0..whole.len() {
            assert!(Packet::parse(&whole[..end]).is_err(), "{end}");
        }
        for bit in 0..whole.len() * 8 {
            let mut bad = whole.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            if let Ok(packet) = Packet::parse(&bad) {
                packet.refusal();
                packet.into_sendable();
            }
        }
    }
}

#[test]
fn a_long_datagram_goes_on_in_fragments() {
    let mut segment = vec![0x9c, 0x40, 0, 53, 0x0b, 0xb8, 0, 0];
    segment.resize(3000, b'x');
    let whole = with_ip_header("2001:db8::2".parse().expect("v6"), "2001:db8::1".parse().expect("v6"), 17, &segment);
    let fragments = Packet::parse(&whole).expect("a packet").into_sendable();
    assert_eq!(fragments.len(), 3);
    let payload: Vec<u8> = fragments.iter().flat_map(|fragment| fragment[48..].to_vec()).collect();
    assert_eq!((payload.len(), &payload[8..]), (3000, &segment[8..]));
    for (index, fragment) in fragments.iter().enumerate() {
        assert!(fragment.len() <= 1280 && fragment[6] == 44 && fragment[40] == 17);
        assert_eq!(usize::from(word(fragment, 4).expect("a word")) + 40, fragment.len());
        let offset = usize::from(word(fragment, 42).expect("a word"));
        assert_eq!((offset & !7, offset & 1), (index * 1232, usize::from(index < 2)));
    }
}

#[test]
fn fragments_and_source_routes_are_refused() {
    let mut fragment = syn_v4();
    fragment[6] = 0x20;
    assert_eq!(Packet::parse(&fragment), Err(Unfit::Fragment));
    let mut routed = syn_v4();
    routed.splice(20..20, [131, 3, 4, 0]);
    (routed[0], routed[3]) = (0x46, 44);
    assert_eq!(Packet::parse(&routed), Err(Unfit::Unsupported));
    let mut harmless = syn_v4();
    harmless.splice(20..20, [1, 1, 1, 0]);
    (harmless[0], harmless[3]) = (0x46, 44);
    assert!(Packet::parse(&harmless).is_ok());
    let mut extended = datagram_v6();
    extended.splice(40..40, [17, 0, 1, 4, 0, 0, 0, 0]);
    (extended[6], extended[5]) = (60, 19);
    assert!(Packet::parse(&extended).is_ok());
    extended[6] = 43;
    assert_eq!(Packet::parse(&extended), Err(Unfit::Unsupported));
}

#[test]
fn a_refusal_goes_back_to_the_client() {
    let reset = Packet::parse(&Packet::parse(&syn_v4()).expect("a packet").refusal()).expect("a reset");
    assert_eq!(reset.flow.destination, "198.51.100.2:40000".parse().expect("an address"));
    assert_eq!(reset.bytes[28..32], 10u32.to_be_bytes());
    verify(&reset.bytes);
    let unreachable = Packet::parse(&datagram_v6()).expect("a packet").refusal();
    assert_eq!((unreachable[6], unreachable[40], unreachable[41]), (58, 1, 4));
    assert_eq!(unreachable[48..], datagram_v6());
}

/// A UDP datagram over IPv6 with hop-by-hop and destination options of so many times eight bytes.
fn extended(hop_by_hop: u8, destination: u8, data: usize) -> Vec<u8> {
    let options = |next, units: u8| match units {
        0 => Vec::new(),
        _ => [vec![next, units - 1], vec![0; usize::from(units) * 8 - 2]].concat(),
    };
    let first = match (hop_by_hop, destination) {
        (1.., _) => 0,
        (0, 1..) => 60,
        (0, 0) => 17,
    };
    let length = (8 + data) as u16;
    let segment = [&[0x9c, 0x40, 0, 53][..], &length.to_be_bytes(), &vec![0; 2 + data]].concat();
    let next = if destination > 0 { 60 } else { 17 };
    let extensions = [options(next, hop_by_hop), options(17, destination)].concat();
    let payload = [extensions, segment].concat();
    with_ip_header("2001:db8::2".parse().expect("v6"), "2001:db8::1".parse().expect("v6"), first, &payload)
}

#[test]
fn extension_headers_must_fit_into_the_first_fragment() {
    // 40 bytes of header, 8 of fragment header, 1,224 of options and 8 of UDP header: 1,280.
    let fragments = Packet::parse(&extended(0, 153, 400)).expect("it fits").into_sendable();
    assert_eq!(fragments.iter().map(Vec::len).collect::<Vec<_>>(), [1280, 40 + 8 + 400]);
    assert_eq!(Packet::parse(&extended(0, 154, 400)), Err(Unfit::LongHeaders));
    assert_eq!(Packet::parse(&extended(0, 155, 400)), Err(Unfit::LongHeaders));
    assert_eq!(Packet::parse(&extended(1, 153, 400)), Err(Unfit::LongHeaders));
    assert_eq!(Packet::parse(&extended(200, 0, 400)), Err(Unfit::LongHeaders));
    // In one piece, they are limited by its length alone.
    assert_eq!(Packet::parse(&extended(0, 154, 200)).expect("1,480 bytes").into_sendable().len(), 1);
}

#[test]
fn only_hop_by_hop_options_are_repeated_in_each_fragment() {
    let fragments = Packet::parse(&extended(2, 3, 3000)).expect("it fits").into_sendable();
    let named: Vec<_> = fragments.iter().map(|fragment| (fragment[6], fragment[40], fragment[56])).collect();
    // The header of each names the hop-by-hop options, those the fragment header, that the destination options.
    assert_eq!(named, [(0, 44, 60); 3]);
    assert_eq!(fragments[1].len(), 40 + 16 + 8 + 1216);
}

#[test]
fn sources_that_no_other_host_has_are_forged() {
    let flow = |source: &str| Flow {
        protocol: Protocol::Udp,
        source: SocketAddr::new(source.parse().expect("an address"), 1),
        destination: "192.0.2.1:80".parse().expect("an address"),
    };
    for forged in ["0.0.0.0", "0.1.2.3", "127.0.0.1", "127.255.255.254", "224.0.0.1", "239.1.2.3", "255.255.255.255"] {
        assert!(flow(forged).has_forged_source(), "{forged}");
    }
    for forged in ["::", "::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:224.0.0.1"] {
        assert!(flow(forged).has_forged_source(), "{forged}");
    }
    for real in ["1.0.0.1", "126.255.255.255", "128.0.0.1", "198.51.100.2", "255.255.255.254", "fe80::1", "2001:db8::1"]
    {
        assert!(!flow(real).has_forged_source(), "{real}");
    }
}
