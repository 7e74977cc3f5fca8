use serde_json::{Value, json};

use super::*;
use crate::config::Protocol;

/// Whether a chain of iptables-nft with the policy drop drops a packet after a DNAT. Its only rule accepts what an extension
/// matches.
fn drops(extension: &Value, native: &str) -> bool {
    let native = format!("table ip filter {{ # handle 1\n\t\t{native} counter accept # handle 7\n}}");
    let comment = json!({"xt": {"type": "match", "name": "comment"}});
    let expr = json!([{ "xt": extension }, comment, {"accept": null}]);
    let chain = json!({"family": "ip", "table": "filter", "name": "FORWARD", "type": "filter", "hook": "forward", "prio": 0,
        "policy": "drop"});
    let rule = json!({"chain": "FORWARD", "handle": 7, "expr": expr});
    let mut listing = json!({"nftables": [{ "chain": chain }, { "rule": rule }]});
    iptables::translate(&mut listing, &native);
    let packet = Packet {
        protocol: Protocol::Tcp,
        source: None,
        destination: "203.0.113.2:8080".parse().expect("an address"),
        translated_from: Some("198.51.100.1:80".parse().expect("an address")),
        input: Some(Interface { name: "clients", index: 2 }),
        output: Some(Interface { name: "backends", index: 3 }),
        segment: Segment::First,
        source_type: None,
        destination_type: None,
    };
    let rules = Ruleset::read(&listing, Elements::Omitted);
    rules.trace(&rules.base_chains()[0], &packet).drops()
}

#[test]
fn conntrack_extensions_are_read_in_nfts_own_language() {
    let extension = |name: &str| json!({"type": "match", "name": name});
    assert!(drops(&extension("conntrack"), "ct state related,established"));
    assert!(!drops(&extension("conntrack"), "ct status dnat"));
    assert!(drops(&extension("conntrack"), "ct state != new"));
    assert!(!drops(&extension("conntrack"), "something"), "not known");
    assert!(!drops(&extension("addrtype"), ""), "not known");
}

#[test]
fn targets_of_iptables_drop_or_go_on() {
    let target = |name: &str| json!({"type": "target", "name": name});
    assert!(drops(&target("REJECT"), "") && drops(&target("DROP"), ""));
    assert!(!drops(&target("LOG"), ""));
    let (drop, log) = (json!({"drop": null}), json!({"counter": null}));
    for (name, expected) in [("DROP", drop), ("LOG", log), ("NFQUEUE", json!({"queue": null}))] {
        let mut listing = json!({"nftables": [{"rule": {"expr": [{ "xt": target(name) }]}}]});
        iptables::translate(&mut listing, "");
        assert_eq!(
            listing["nftables"][0]["rule"]["expr"],
            json!([expected]),
            "another program may accept queued packets"
        );
    }
}

#[test]
fn only_conntrack_extensions_need_a_second_listing() {
    let listing = |name: &str| json!({"xt": {"type": "match", "name": name}}).to_string();
    assert!(iptables::needs_native(&listing("conntrack")));
    assert!(!iptables::needs_native(&listing("addrtype")));
    assert!(!iptables::needs_native("conntrack"));
}
