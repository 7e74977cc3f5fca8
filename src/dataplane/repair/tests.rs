//! Golden tables: one change each, and what restores it.

use super::*;
use crate::netlink::nftables::{Base, Chain, Policy};

const ADDED: Action = Action::Added;
const DELETED: Action = Action::Deleted;

fn base(hook: u32, policy: Policy) -> Chain {
    Chain { base: Some(Base { kind: "nat".to_owned(), hook, priority: -101, policy }), rules: 0 }
}

fn wanted() -> Listing {
    Listing {
        chains: [
            ("prerouting".to_owned(), base(0, Policy::Accept)),
            ("output".to_owned(), base(3, Policy::Accept)),
            ("frontend-0".to_owned(), Chain::default()),
            ("timeout-60s".to_owned(), Chain::default()),
        ]
        .into(),
        sets: [("active_ip4".to_owned(), SetKind::Map), ("allow4-0".to_owned(), SetKind::Set)].into(),
        objects: [("tcp4-60s".to_owned(), 7)].into(),
        ..Listing::default()
    }
}

fn changes(all: &[(Object, Action)]) -> Changes {
    let mut changes = Changes::default();
    all.iter().for_each(|(object, action)| changes.add(object.clone(), *action));
    changes
}

fn chain(name: &str) -> Object {
    Object::Chain(name.to_owned())
}

fn rules(name: &str) -> Object {
    Object::Rules(name.to_owned())
}

fn names<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.map(str::to_owned).into()
}

/// The repair after `change`, which is reported as `reported`.
fn after(change: impl FnOnce(&mut Listing), reported: &[(Object, Action)]) -> Repair {
    let mut listed = wanted();
    change(&mut listed);
    repair(&wanted(), Some(&listed), &changes(reported), Extent::Changed)
}

fn everything(deleted_chains: BTreeSet<String>) -> Parts {
    Parts {
        chains: wanted().chains.into_keys().collect(),
        deleted_chains,
        new_sets: wanted().sets.into_keys().collect(),
        deleted_sets: wanted().sets,
        ..Parts::default()
    }
}

#[test]
fn an_intact_table_needs_nothing() {
    assert_eq!(after(|_| {}, &[]), Repair::Nothing);
    // It was added and deleted again.
    assert_eq!(after(|_| {}, &[(chain("extra"), ADDED), (chain("extra"), DELETED)]), Repair::Nothing);
}

#[test]
fn changed_rules_are_reloaded_for_their_chain_only() {
    for action in [ADDED, DELETED, Action::Replaced] {
        let parts = Parts { chains: names(["prerouting"]), ..Parts::default() };
        assert_eq!(after(|_| {}, &[(rules("prerouting"), action)]), Repair::Parts(parts), "{action:?}");
    }
}

#[test]
fn changed_elements_are_reloaded_for_their_map_only() {
    for action in [ADDED, DELETED] {
        let sets = [("active_ip4".to_owned(), SetKind::Map)].into();
        let reported = [(Object::Elements("active_ip4".to_owned()), action)];
        assert_eq!(after(|_| {}, &reported), Repair::Parts(Parts { sets, ..Parts::default() }));
    }
}

#[test]
fn a_deleted_chain_is_added() {
    let delete = |listed: &mut Listing| _ = listed.chains.remove("output");
    let parts = Parts { new_chains: names(["output"]), ..Parts::default() };
    assert_eq!(after(delete, &[(chain("output"), DELETED), (rules("output"), DELETED)]), Repair::Parts(parts));
}

#[test]
fn a_changed_policy_is_set_and_a_changed_hook_readds_the_chain() {
    let drop = |listed: &mut Listing| _ = listed.chains.insert("prerouting".to_owned(), base(0, Policy::Drop));
    let one = || names(["prerouting"]);
    let parts = Parts { chains: one(), new_chains: one(), ..Parts::default() };
    assert_eq!(after(drop, &[(chain("prerouting"), ADDED)]), Repair::Parts(parts));

    let kind = |kind: &str| Base { kind: kind.to_owned(), hook: 0, priority: -101, policy: Policy::Accept };
    let others =
        [base(4, Policy::Accept).base, Some(kind("filter")), Some(Base { priority: -100, ..kind("nat") }), None];
    for other in others {
        let replace = |listed: &mut Listing| {
            listed.chains.insert("prerouting".to_owned(), Chain { base: other.clone(), rules: 0 });
        };
        let parts = Parts { deleted_chains: one(), new_chains: one(), ..Parts::default() };
        let reported = [(chain("prerouting"), Action::Replaced), (rules("prerouting"), DELETED)];
        assert_eq!(after(replace, &reported), Repair::Parts(parts), "{other:?}");
    }
}

#[test]
fn unknown_objects_are_deleted() {
    let add = |listed: &mut Listing| {
        listed.chains.insert("extra".to_owned(), base(2, Policy::Drop));
        listed.sets.insert("extra".to_owned(), SetKind::Set);
        let kinds = [1, 2, 3, 4, 7, 9, 99];
        listed.objects.extend(kinds.map(|kind| (format!("object-{kind}"), kind)));
        listed.flowtables.insert("fast".to_owned());
    };
    let parts = Parts {
        deleted_chains: names(["extra"]),
        deleted_sets: [("extra".to_owned(), SetKind::Set)].into(),
        deleted_objects: [
            ("object-1", "counter"),
            ("object-2", "quota"),
            ("object-3", "ct helper"),
            ("object-4", "limit"),
            ("object-7", "ct timeout"),
            ("object-9", "ct expectation"),
            ("fast", "flowtable"),
        ]
        .map(|(name, kind)| (name.to_owned(), kind))
        .into(),
        ..Parts::default()
    };
    assert_eq!(after(add, &[(chain("extra"), ADDED)]), Repair::Parts(parts));
}

#[test]
fn a_dormant_table_is_activated() {
    let parts = Parts { wake: true, ..Parts::default() };
    assert_eq!(after(|listed| listed.dormant = true, &[(Object::Table, ADDED)]), Repair::Parts(parts));
}

#[test]
fn a_deleted_map_is_added_with_its_rules() {
    let map = Object::Set("active_ip4".to_owned());
    let delete = |listed: &mut Listing| _ = listed.sets.remove("active_ip4");
    let parts = Parts { new_sets: names(["active_ip4"]), chains: names(["prerouting"]), ..Parts::default() };
    assert_eq!(after(delete, &[(map.clone(), DELETED), (rules("prerouting"), DELETED)]), Repair::Parts(parts));
    // Made again by the other program, it may have other types, and rules refer to it.
    let replaced = Action::Replaced;
    assert_eq!(after(|_| {}, &[(map, replaced)]), Repair::Parts(everything(BTreeSet::new())));
}

#[test]
fn a_renamed_chain_restores_everything() {
    let rename = |listed: &mut Listing| {
        let chain = listed.chains.remove("frontend-0").expect("it is there");
        listed.chains.insert("renamed".to_owned(), chain);
    };
    let mut parts = everything(names(["renamed"]));
    parts.chains.remove("frontend-0");
    parts.new_chains = names(["frontend-0"]);
    assert_eq!(after(rename, &[(chain("renamed"), ADDED)]), Repair::Parts(parts));
}

#[test]
fn a_missing_table_or_policy_reloads_the_table() {
    assert_eq!(repair(&wanted(), None, &Changes::default(), Extent::Changed), Repair::Whole);
    assert_eq!(after(|listed| listed.objects.clear(), &[]), Repair::Whole);
    // Deleted and made again by another program: its flows have lost their timeouts.
    let policy = Object::Stateful("tcp4-60s".to_owned());
    assert_eq!(after(|_| {}, &[(policy, Action::Replaced)]), Repair::Whole);
    assert_eq!(after(|_| {}, &[(Object::Table, Action::Replaced)]), Repair::Whole);
}

#[test]
fn chains_that_are_made_or_emptied_get_rules() {
    let parts = Parts { chains: names(["a"]), new_chains: names(["b"]), ..Parts::default() };
    assert_eq!(["a", "b", "c"].map(|chain| parts.gets_rules(chain)), [true, true, false]);
}

#[test]
fn lost_notifications_restore_all_but_the_policies() {
    let all = Repair::Parts(everything(BTreeSet::new()));
    assert_eq!(repair(&wanted(), Some(&wanted()), &Changes::default(), Extent::Everything), all);
    let unknown = Changes { more: true, ..Changes::default() };
    assert_eq!(repair(&wanted(), Some(&wanted()), &unknown, Extent::Changed), all);
}
