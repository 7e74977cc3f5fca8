//! The transaction byte by byte, and the ownership of recorded tables.

use super::*;
use crate::netlink::netfilter::batch;
use crate::netlink::testing::{played, recorded};

/// Port id of the owner in the recording.
const PORT: u32 = 4_065_937_688;

#[test]
fn the_transaction_is_the_one_that_kernels_accept() {
    let expected = recorded!("guard_batch").concat();
    assert_eq!(batch(table(), 1), expected);
}

#[test]
fn the_recorded_table_has_its_owner_and_handle() {
    let (socket, kernel) = played(vec![recorded!("guard_table")]);
    assert_eq!(find(socket).expect("found"), Some(Found { owner: PORT, handle: 5 }));
    let request = kernel.join().expect("played").remove(0);
    // NFT_MSG_GETTABLE of ip
    assert_eq!(request[4..8], [1, 10, 5, 0]);
    assert_eq!(&request[16..], b"\x02\0\0\0\x12\0\x01\0proxygw-guard\0\0\0");
}

#[test]
fn a_missing_table_and_one_without_owner_are_not_found() {
    let (socket, kernel) = played(vec![recorded!("nft_no_table")]);
    assert_eq!(find(socket).expect("none"), None);
    kernel.join().expect("played");
    let (socket, kernel) = played(vec![recorded!("nft_table")]);
    assert_eq!(find(socket).expect("none"), None);
    kernel.join().expect("played");
}

#[test]
fn a_table_is_replaced_if_its_owner_stays_and_its_handle_changes() {
    let found = |owner, handle| Found { owner, handle };
    assert!(is_replaced(412, found(412, 5), Some(found(412, 6))));
    assert!(!is_replaced(412, found(412, 5), Some(found(412, 5))));
    assert!(!is_replaced(412, found(412, 5), Some(found(413, 6))));
    assert!(!is_replaced(412, found(412, 5), None));
}

#[test]
fn a_refused_transaction_is_an_error() {
    let answer = |errno: i32| Request::new(2, &(-errno).to_ne_bytes()).finish(NlmF::empty(), 0).to_vec();
    let (socket, kernel) = played(vec![vec![answer(22)]]);
    assert_eq!(GuardTable::replace(socket).expect_err("EINVAL").kind(), io::ErrorKind::InvalidInput);
    assert_eq!(kernel.join().expect("played").remove(0), batch(table(), 1));
    let (socket, kernel) = played(vec![vec![answer(0)]]);
    GuardTable::replace(socket).expect("replaced");
    kernel.join().expect("played");
}

#[test]
fn a_socket_that_is_not_of_netlink_owns_no_table() {
    let (near, _far) = std::os::unix::net::UnixDatagram::pair().expect("a pair");
    assert_eq!(GuardTable::adopt(near.into()).expect_err("not netlink").kind(), io::ErrorKind::NotFound);
}
