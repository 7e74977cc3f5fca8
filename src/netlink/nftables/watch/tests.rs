//! Recorded and built notifications; a thread plays the kernel.

use std::os::unix::net::UnixDatagram;
use std::thread::JoinHandle;

use neli::consts::nl::NlmF;

use super::*;
use crate::netlink::message::Request;
use crate::netlink::testing::{played, recorded};

const OURS: &[u8] = b"proxygw\0";

fn reader() -> Reader {
    Reader::new("proxygw", 6)
}

fn message(kind: u16, attributes: &[(u16, &[u8])]) -> Vec<u8> {
    let request = Request::new(NFTABLES | kind, &INET);
    let mut request = attributes.iter().fold(request, |request, (kind, value)| request.attribute(*kind, value));
    request.finish(NlmF::empty(), 1).to_vec()
}

fn end(generation: u32) -> Vec<u8> {
    let id = 412u32.to_be_bytes();
    message(NEW_GENERATION, &[(GENERATION, &generation.to_be_bytes()), (PROCESS_ID, &id), (PROCESS_NAME, b"nft\0")])
}

fn read(reader: &mut Reader, messages: &[Vec<u8>]) -> Vec<Transaction> {
    let mut transactions = Vec::new();
    reader.datagram(&messages.concat(), &mut transactions);
    transactions
}

#[test]
fn a_transaction_names_its_process_and_what_it_changed() {
    let mut reader = reader();
    let messages = [
        message(8, &[(TABLE, OURS), (RULE_CHAIN, b"output\0")]),
        message(5, &[(TABLE, OURS), (CHAIN_NAME, b"output\0")]),
        message(12, &[(TABLE, OURS), (NAME, b"active_ip4\0")]),
        end(7),
    ];
    let transactions = read(&mut reader, &messages);
    assert_eq!(transactions.len(), 1);
    assert_eq!(transactions[0].process.as_ref().map(Process::to_string).as_deref(), Some("nft (pid 412)"));
    assert_eq!((transactions[0].generation, reader.seen), (7, 7));
    let printed = transactions[0].changes.to_string();
    assert_eq!(printed, "chain output was deleted, elements of active_ip4 were added");
}

#[test]
fn a_transaction_may_come_in_many_datagrams() {
    let mut reader = reader();
    assert!(read(&mut reader, &[message(2, &[(TABLE, OURS)])]).is_empty());
    let transactions = read(&mut reader, &[end(8)]);
    assert!(transactions[0].changes.deleted_table());
    assert_eq!(transactions[0].changes.to_string(), "the table was deleted");
    assert!(read(&mut reader, &[end(9)]).is_empty());
}

#[test]
fn transactions_on_other_tables_and_families_are_not_reported() {
    let mut reader = reader();
    let other = message(2, &[(TABLE, b"filter\0")]);
    let mut ip = message(2, &[(TABLE, OURS)]);
    ip[16] = 2;
    let anonymous = message(9, &[(TABLE, OURS), (NAME, b"__set0\0"), (SET_FLAGS, &1u32.to_be_bytes())]);
    assert!(read(&mut reader, &[other, ip, anonymous, end(7)]).is_empty());
    assert_eq!(reader.seen, 7);
}

#[test]
fn a_garbled_datagram_can_be_anything() {
    let mut reader = reader();
    read(&mut reader, &[vec![1, 2, 3]]);
    let transactions = read(&mut reader, &[end(7)]);
    assert!(transactions[0].changes.more && transactions[0].changes.has(&Object::Table));
}

#[test]
fn recorded_transactions_name_each_object_and_its_process() {
    let mut transactions = Vec::new();
    let mut reader = Reader::new("proxygw", 0);
    recorded!("nft_events").iter().for_each(|datagram| reader.datagram(datagram, &mut transactions));
    let printed: Vec<_> = transactions.iter().map(|transaction| transaction.changes.to_string()).collect();
    let expected = [
        "the table's flags were set, chain cold-x was added or changed, chain forward was added or changed and 4 more",
        "elements of cold were added",
        "elements of cold were deleted",
        "rules of chain forward were deleted",
        "chain output was deleted",
        "set or map known was deleted",
        "object slow was deleted",
        "the table was deleted",
    ];
    assert_eq!(printed, expected);
    let objects: Vec<_> = transactions[0].changes.objects.keys().cloned().collect();
    let name = str::to_owned;
    let created = [
        Object::Table,
        Object::Chain(name("cold-x")),
        Object::Chain(name("forward")),
        Object::Chain(name("output")),
        Object::Set(name("cold")),
        Object::Set(name("known")),
        Object::Stateful(name("slow")),
        Object::Rules(name("cold-x")),
        Object::Rules(name("forward")),
        Object::Elements(name("known")),
    ];
    assert_eq!(objects, created);
    for (before, after) in transactions.iter().zip(&transactions[1..]) {
        assert!(before.generation < after.generation && after.generation <= reader.seen);
    }
    let process = transactions[0].process.as_ref().expect("named");
    assert!(process.name == "nft" && process.id > 1 && transactions[0].port > 0);
}

#[test]
fn each_message_is_a_change_of_its_object() {
    use Action::{Added, Deleted};
    let name = || "x".to_owned();
    for (kind, attribute, object, action) in [
        (0, NAME, Object::Table, Added),
        (2, NAME, Object::Table, Deleted),
        (3, CHAIN_NAME, Object::Chain(name()), Added),
        (5, CHAIN_NAME, Object::Chain(name()), Deleted),
        (6, RULE_CHAIN, Object::Rules(name()), Added),
        (8, RULE_CHAIN, Object::Rules(name()), Deleted),
        (9, NAME, Object::Set(name()), Added),
        (11, NAME, Object::Set(name()), Deleted),
        (12, NAME, Object::Elements(name()), Added),
        (14, NAME, Object::Elements(name()), Deleted),
        (18, NAME, Object::Stateful(name()), Added),
        (20, NAME, Object::Stateful(name()), Deleted),
        (22, NAME, Object::Flowtable(name()), Added),
        (24, NAME, Object::Flowtable(name()), Deleted),
    ] {
        let transactions = read(&mut reader(), &[message(kind, &[(TABLE, OURS), (attribute, b"x\0")]), end(7)]);
        assert_eq!(transactions[0].changes.objects, [(object, action)].into(), "{kind}");
    }
    // A set with other flags, and messages of other kinds and subsystems.
    let set = message(9, &[(TABLE, OURS), (NAME, b"x\0"), (SET_FLAGS, &0xeu32.to_be_bytes())]);
    assert_eq!(read(&mut reader(), &[set, end(7)]).len(), 1);
    let mut other = message(2, &[(TABLE, OURS)]);
    other[5] = 9;
    let anonymous = message(9, &[(TABLE, OURS), (NAME, b"x\0"), (SET_FLAGS, &1u32.to_be_bytes())]);
    let map = message(12, &[(TABLE, OURS), (NAME, b"__map1\0")]);
    assert!(read(&mut reader(), &[message(1, &[(TABLE, OURS)]), other, anonymous, map, end(7)]).is_empty());
}

/// A watch of the notifications that the socket sends, and a kernel that reports these generations.
fn watch(generations: &[u32], after: Option<u32>) -> (TableWatch, UnixDatagram, JoinHandle<Vec<Vec<u8>>>) {
    let report = |generation: &u32| {
        let acknowledged = Request::new(2, &[0; 4]).finish(NlmF::empty(), 0).to_vec();
        let report = Request::new(NFTABLES | NEW_GENERATION, &INET).be32(GENERATION, *generation);
        vec![{ report }.finish(NlmF::empty(), 0).to_vec(), acknowledged]
    };
    let (queries, kernel) = played(generations.iter().map(report).collect());
    let (near, far) = UnixDatagram::pair().expect("a pair");
    let events = RawSocket::over(near.into());
    (TableWatch::over(events, Tables::over(queries), "proxygw", after).expect("a watch"), far, kernel)
}

#[test]
fn a_watch_reads_what_waits_and_then_nothing() {
    let (mut watch, notifications, kernel) = watch(&[6], Some(6));
    assert_eq!(watch.generation(), 6);
    let watched = watch.read().expect("read");
    assert!(watched.transactions.is_empty() && watched.lost.is_none() && !watched.more);
    notifications.send(&message(2, &[(TABLE, OURS)])).expect("sent");
    notifications.send(&end(7)).expect("sent");
    let watched = watch.read().expect("read");
    assert!(watched.transactions.len() == 1 && watched.lost.is_none() && !watched.more);
    assert_eq!(watch.generation(), 7);
    kernel.join().expect("played");
}

#[test]
fn a_watch_finds_out_whether_its_table_exists() {
    for (recorded, exists) in [(recorded!("nft_table"), true), (recorded!("nft_no_table"), false)] {
        let (queries, kernel) = played(vec![recorded]);
        let (near, _far) = UnixDatagram::pair().expect("a pair");
        let (events, queries) = (RawSocket::over(near.into()), Tables::over(queries));
        let mut watch = TableWatch { events, queries, reader: reader(), lost_after: None };
        assert_eq!(watch.exists().expect("a result"), exists);
        // NFT_MSG_GETTABLE of the table
        assert_eq!(kernel.join().expect("played")[0][24..], *b"proxygw\0");
    }
}

#[test]
fn changes_between_two_watches_count_as_lost() {
    let (mut watch, notifications, kernel) = watch(&[9, 11], Some(6));
    notifications.send(&message(2, &[(TABLE, OURS)])).expect("sent");
    notifications.send(&end(10)).expect("sent");
    notifications.send(&message(5, &[(TABLE, OURS), (CHAIN_NAME, b"x\0")])).expect("sent");
    let watched = watch.read().expect("read");
    assert_eq!((watched.lost, watched.transactions.len()), (Some((6, 11)), 0), "halves are dropped");
    assert_eq!(watch.generation(), 11);
    notifications.send(&end(12)).expect("sent");
    let watched = watch.read().expect("read");
    assert!(watched.transactions.is_empty() && watched.lost.is_none(), "once");
    kernel.join().expect("played");
}
