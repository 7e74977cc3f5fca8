//! Requests and recorded results; a thread plays the kernel.

use super::*;
use crate::netlink::testing::{played, recorded};

const TCP: &str = "10.9.0.2:33316>10.9.0.1:80";
const UDP: &str = "[fd09::2]:50955>[fd09::1]:80";

fn tuple(text: &str) -> Tuple {
    let (source, destination) = text.split_once('>').expect("two addresses");
    Tuple { source: source.parse().expect("one"), destination: destination.parse().expect("one") }
}

fn acknowledged(errno: i32) -> Vec<Vec<u8>> {
    vec![Request::new(2, &(-errno).to_ne_bytes()).finish(NlmF::empty(), 0).to_vec()]
}

/// The entries of the recorded dump that `dump` passes on, and the requests.
fn dumped(
    dumps: usize,
    dump: impl FnOnce(&mut Conntrack, &mut dyn FnMut(&Entry)) -> io::Result<()>,
) -> (Vec<Entry>, Vec<Vec<u8>>) {
    let (socket, kernel) = played(vec![recorded!("conntrack_dump"); dumps]);
    let mut entries = Vec::new();
    dump(&mut Conntrack { socket }, &mut |entry| entries.push(*entry)).expect("dumped");
    (entries, kernel.join().expect("played"))
}

/// The result of an operation that the kernel answers with an error number, and its request.
fn performed<T>(errno: i32, operate: impl FnOnce(&mut Conntrack) -> T) -> (T, Vec<u8>) {
    let (socket, kernel) = played(vec![acknowledged(errno)]);
    let result = operate(&mut Conntrack { socket });
    (result, kernel.join().expect("played").remove(0))
}

/// `CTA_TUPLE_ORIG` of a TCP flow from 10.0.0.1:5 to 192.0.2.3:80.
#[rustfmt::skip]
const TUPLE: [u8; 52] = [
    52, 0, 1, 128,
    20, 0, 1, 128, 8, 0, 1, 0, 10, 0, 0, 1, 8, 0, 2, 0, 192, 0, 2, 3,
    28, 0, 2, 128, 5, 0, 1, 0, 6, 0, 0, 0, 6, 0, 2, 0, 0, 5, 0, 0, 6, 0, 3, 0, 0, 80, 0, 0,
];

/// An entry with that tuple, in zone 7.
fn entry() -> Entry {
    let (entries, _) = dumped(1, |conntrack, each| conntrack.dump_dnat(each));
    Entry {
        protocol: Protocol::Tcp,
        original: tuple("10.0.0.1:5>192.0.2.3:80"),
        zone: 7,
        id: 0x0102_0304,
        ..entries[0]
    }
}

#[test]
fn a_dump_of_dnated_flows_leaves_out_others() {
    let (mut entries, requests) = dumped(1, |conntrack, each| conntrack.dump_dnat(each));
    entries.sort_by_key(|entry| entry.protocol.number());
    assert_eq!(entries.iter().map(|entry| entry.original).collect::<Vec<_>>(), [tuple(TCP), tuple(UDP)]);
    let backends = entries.iter().map(|entry| entry.reply.source.to_string()).collect::<Vec<_>>();
    assert_eq!(backends, ["10.9.0.1:8080", "[fd09::1]:8080"]);
    let udp = entries[1];
    assert_eq!(udp.sent, Some(Counters { packets: 1, bytes: 53 }));
    assert_eq!(udp.received, Some(Counters { packets: 1, bytes: 54 }));
    assert!(udp.start.is_some_and(|start| start > 1_700_000_000_000_000_000));
    assert_eq!(udp.key(), Key { protocol: Protocol::Udp, original: tuple(UDP), zone: 0 });
    assert!(!udp.is_masqueraded());
    assert!(Entry { reply: tuple("[fd09::1]:8080>[fd09::1]:9"), ..udp }.is_masqueraded());
    // IPCTNL_MSG_CT_GET, REQUEST | DUMP; CTA_STATUS and CTA_STATUS_MASK
    assert_eq!(requests[0][4..8], [1, 1, 1, 3]);
    assert_eq!(requests[0][16..], [0, 0, 0, 0, 8, 0, 3, 0, 0, 0, 0, 0x20, 8, 0, 26, 0, 0, 0, 0, 0x20]);
}

#[test]
fn a_dump_of_a_port_has_translated_and_other_flows_of_both_families() {
    let to = |protocol, port| {
        let (entries, requests) = dumped(2, |conntrack, each| conntrack.dump_to(protocol, port, each));
        // The recorded dump is played for each family.
        assert_eq!((entries.len() % 2, requests.len()), (0, 2));
        (entries[..entries.len() / 2].iter().map(|entry| entry.original).collect::<Vec<_>>(), requests)
    };
    let zoned = tuple("10.9.0.2:55857>10.9.0.1:9001");
    let (udp, requests) = to(Protocol::Udp, None);
    assert_eq!(udp.len(), 2);
    assert!(udp.contains(&tuple(UDP)) && udp.iter().any(|udp| udp.destination == zoned.destination), "{udp:?}");
    for (request, family) in requests.iter().zip([2, 10]) {
        // CTA_FILTER of the protocol; CTA_TUPLE_ORIG with it
        let filter = [12, 0, 25, 128, 8, 0, 1, 0, 8, 0, 0, 0, 16, 0, 1, 128, 12, 0, 2, 128, 5, 0, 1, 0, 17, 0, 0, 0];
        assert_eq!(request[16..], [&[family, 0, 0, 0][..], &filter].concat());
    }
    let (udp, requests) = to(Protocol::Udp, Some(80));
    assert_eq!(udp, [tuple(UDP)]);
    // Of the protocol and the destination's port.
    let filter = [8, 0, 1, 0, 0x28, 0, 0, 0];
    let tuple = [24, 0, 1, 128, 20, 0, 2, 128, 5, 0, 1, 0, 17, 0, 0, 0, 6, 0, 3, 0, 0, 80, 0, 0];
    assert_eq!(requests[0][24..], [&filter[..], &tuple].concat());
    assert_eq!(to(Protocol::Tcp, Some(80)).0, [self::tuple(TCP)]);
    assert_eq!(to(Protocol::Tcp, Some(81)).0, []);
}

#[test]
fn a_lookup_finds_the_entry_of_this_id_only() {
    let look_up = |recorded, change| {
        let (entries, _) = dumped(1, |conntrack, each| conntrack.dump_dnat(each));
        let udp = entries.iter().find(|entry| entry.protocol == Protocol::Udp).expect("in the dump");
        let (socket, kernel) = played(vec![recorded]);
        let found = Conntrack { socket }.look_up(&udp.key(), udp.id ^ change).expect("a result");
        assert!(found.is_none_or(|found| found.key() == udp.key() && found.id == udp.id));
        (found.is_some(), kernel.join().expect("played").remove(0))
    };
    let (found, request) = look_up(recorded!("conntrack_lookup"), 0);
    assert!(found);
    // IPCTNL_MSG_CT_GET of IPv6, REQUEST | ACK; CTA_ZONE
    assert_eq!((&request[4..8], request[16]), (&[1, 1, 5, 0][..], 10));
    assert_eq!(request[request.len() - 8..], [6, 0, 18, 0, 0, 0, 0, 0]);
    assert!(!look_up(recorded!("conntrack_lookup"), 1).0, "another came after it");
    assert!(!look_up(recorded!("conntrack_gone"), 0).0);
}

#[test]
fn requests_name_the_entry_by_tuple_zone_and_id() {
    let zone = [6, 0, 18, 0, 0, 7, 0, 0];
    let (result, request) = performed(0, |conntrack| conntrack.delete(&entry()));
    assert!(result.expect("deleted"));
    // IPCTNL_MSG_CT_DELETE, REQUEST | ACK
    assert_eq!(request[4..8], [2, 1, 5, 0]);
    assert_eq!(request[16..], [&[2, 0, 0, 0][..], &TUPLE, &zone, &[8, 0, 12, 0, 1, 2, 3, 4]].concat());
    let (result, request) = performed(0, |conntrack| conntrack.set_timeout(&entry(), 0x0a0b));
    assert!(result.expect("set"));
    // IPCTNL_MSG_CT_NEW without CREATE
    assert_eq!(request[4..8], [0, 1, 5, 0]);
    assert_eq!(request[16..], [&[2, 0, 0, 0][..], &TUPLE, &zone, &[8, 0, 7, 0, 0, 0, 0x0a, 0x0b]].concat());
    let flow = entry().original;
    let delete = |conntrack: &mut Conntrack| conntrack.delete_flow(Protocol::Tcp, flow.source, flow.destination);
    let (result, request) = performed(0, delete);
    assert!(result.expect("deleted"));
    assert_eq!(request[16..], [&[2, 0, 0, 0][..], &TUPLE, &[6, 0, 18, 0, 0, 0, 0, 0]].concat());
}

#[test]
fn an_entry_that_is_gone_is_no_error_and_others_are() {
    assert!(!performed(2, |conntrack| conntrack.delete(&entry())).0.expect("gone"));
    assert!(!performed(2, |conntrack| conntrack.set_timeout(&entry(), 1)).0.expect("gone"));
    let error = performed(1, |conntrack| conntrack.delete(&entry())).0.expect_err("refused");
    assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
}

#[test]
fn messages_of_other_kinds_are_no_entries() {
    let recorded = recorded!("conntrack_events");
    let payload = &recorded[0][16..];
    for (kind, count) in [(NEW, 1), (GET, 0), (DELETE, 0)] {
        let mut seen = 0;
        let message = Message { kind, flags: NlmF::empty(), sequence: 1, port: 0, payload };
        entries(|_| true, &mut |_| seen += 1)(&message);
        assert_eq!(seen, count, "{kind}");
    }
}
