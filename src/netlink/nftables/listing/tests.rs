//! Recorded dumps of a table; a thread plays the kernel.

use super::*;
use crate::netlink::testing::{played, recorded};

/// The table of [`recorded`], without flowtables.
fn listing() -> Listing {
    let no_flowtables = vec![Request::new(3, &[0; 4]).finish(NlmF::MULTI, 0).to_vec()];
    let (socket, kernel) = played(vec![
        recorded!("nft_table"),
        recorded!("nft_chains"),
        recorded!("nft_sets"),
        recorded!("nft_objects"),
        no_flowtables,
        recorded!("nft_rules"),
    ]);
    let mut tables = Tables(socket);
    let mut listing = tables.list("proxygw").expect("listed").expect("it exists");
    assert!(listing.chains.values().all(|chain| chain.rules == 0));
    tables.count_rules("proxygw", &mut listing).expect("counted");
    let requests = kernel.join().expect("played");
    for (request, kind) in requests.iter().zip([1, 4, 10, 19, 23, 7]) {
        assert_eq!(request[4..6], [kind, 10]);
        // nfgenmsg of inet; NFTA_TABLE_NAME
        assert_eq!(&request[16..], b"\x01\0\0\0\x0c\0\x01\0proxygw\0");
    }
    listing
}

#[test]
fn a_recorded_table_is_listed() {
    let listing = listing();
    assert!(!listing.dormant && listing.flowtables.is_empty());
    let base = |kind: &str, hook, priority, policy| Some(Base { kind: kind.to_owned(), hook, priority, policy });
    let chains = [
        ("cold-x", Chain { base: None, rules: 1 }),
        ("forward", Chain { base: base("filter", 2, 5, Policy::Drop), rules: 2 }),
        ("output", Chain { base: base("nat", 3, -100, Policy::Accept), rules: 0 }),
    ];
    assert_eq!(listing.chains, chains.map(|(name, chain)| (name.to_owned(), chain)).into());
    let sets = [("cold", SetKind::Map), ("known", SetKind::Set)];
    assert_eq!(listing.sets, sets.map(|(name, kind)| (name.to_owned(), kind)).into(), "no anonymous set");
    // NFT_OBJECT_CT_TIMEOUT
    assert_eq!(listing.objects, [("slow".to_owned(), 7)].into());
}

#[test]
fn a_base_chain_is_printed_as_nft_does() {
    let base = |name| listing().chains[name].base.as_ref().map(Base::to_string);
    assert_eq!(base("output").as_deref(), Some("type nat hook output priority -100; policy accept"));
    assert_eq!(base("forward").as_deref(), Some("type filter hook forward priority 5; policy drop"));
}

#[test]
fn objects_of_other_tables_and_families_are_left_out() {
    let flowtable = |family, table: &str, name: &str| {
        // NFT_MSG_NEWFLOWTABLE
        Request::new(0xa16, &[family, 0, 0, 0]).string(TABLE, table).string(NAME, name).finish(NlmF::MULTI, 0).to_vec()
    };
    let done = Request::new(3, &[0; 4]).finish(NlmF::MULTI, 0).to_vec();
    let dormant = Request::new(0xa00, &INET).be32(TABLE_FLAGS, 3).finish(NlmF::empty(), 0).to_vec();
    let acknowledged = Request::new(2, &[0; 4]).finish(NlmF::empty(), 0).to_vec();
    let flowtables = [(1, "proxygw", "fast"), (1, "other", "no"), (2, "proxygw", "no")];
    let flowtables = flowtables.map(|(family, table, name)| flowtable(family, table, name)).concat();
    let empty = || vec![done.clone()];
    let (socket, kernel) =
        played(vec![vec![dormant, acknowledged], empty(), empty(), empty(), vec![flowtables, done.clone()]]);
    let listing = Tables(socket).list("proxygw").expect("listed").expect("it exists");
    let flowtables = ["fast".to_owned()].into();
    assert_eq!(listing, Listing { dormant: true, flowtables, ..Listing::default() });
    kernel.join().expect("played");
}

#[test]
fn a_missing_table_is_none_and_need_not_be_deleted() {
    let (socket, kernel) = played(vec![recorded!("nft_no_table")]);
    assert_eq!(Tables(socket).list("absent").expect("listed"), None);
    let (mut socket, other) = played(vec![recorded!("nft_no_table")]);
    delete_table_over(&mut socket, "absent").expect("gone");
    // A batch of three messages: the table's deletion is the second.
    let requests = other.join().expect("played");
    assert_eq!(requests[0][20 + 4..20 + 8], [2, 10, 5, 0]);
    assert_eq!(&requests[0][20 + 16..20 + 31], b"\x01\0\0\0\x0b\0\x01\0absent\0");
    kernel.join().expect("played");
}

#[test]
fn the_recorded_generation_is_read() {
    let without = vec![Request::new(2, &[0; 4]).finish(NlmF::empty(), 0).to_vec()];
    let (socket, kernel) = played(vec![recorded!("nft_generation"), without]);
    let mut tables = Tables(socket);
    assert!((1..100).contains(&tables.generation().expect("a number")));
    assert_eq!(tables.generation().expect_err("no number").kind(), io::ErrorKind::InvalidData);
    kernel.join().expect("played");
}

#[test]
fn objects_of_an_interrupted_dump_are_read_again_and_not_added_up() {
    let rules = |chains: &[&str], flags| {
        // NFT_MSG_NEWRULE
        let rule = |chain: &&str| Request::new(0xa06, &INET).string(TABLE, "proxygw").string(RULE_CHAIN, chain);
        let rules: Vec<_> = chains.iter().flat_map(|chain| rule(chain).finish(NlmF::MULTI, 0).to_vec()).collect();
        vec![rules, Request::new(3, &[0; 4]).finish(NlmF::MULTI | flags, 0).to_vec()]
    };
    let interrupted = rules(&["gone", "a", "a"], NlmF::DUMP_INTR);
    let (socket, kernel) = played(vec![interrupted, rules(&["a", "b"], NlmF::empty())]);
    let mut listing = Listing::default();
    Tables(socket).count_rules("proxygw", &mut listing).expect("counted");
    let expected = ["a", "b"].map(|name| (name.to_owned(), Chain { base: None, rules: 1 }));
    assert_eq!(listing.chains, expected.into());
    kernel.join().expect("played");
}
