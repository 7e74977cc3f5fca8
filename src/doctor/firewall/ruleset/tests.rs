use serde_json::{Value, json};

use super::*;
use crate::config::Protocol;

fn packet(input: &'static str) -> Packet<'static> {
    let at = |text: &str| text.parse().expect("an address");
    Packet {
        protocol: Protocol::Tcp,
        destination: at("203.0.113.2:8080"),
        original: at("198.51.100.1:80"),
        dnat: true,
        input: Some(input),
        output: Some("backends"),
    }
}

/// Whether a chain `forward` of these rules, whose policy is drop, drops the packet.
fn drops(rules: &[(&str, Value)]) -> bool {
    let rule = |(index, (chain, expr)): (usize, &(&str, Value))| json!({"rule": {"chain": chain, "handle": index, "expr": expr}});
    let listing = json!({ "nftables": rules.iter().enumerate().map(rule).collect::<Vec<_>>() });
    Ruleset::read(&listing, None).drops(&chain_of("inet", "t", "forward"), &packet("clients"))
}

/// A base chain whose policy is drop.
fn chain_of(family: &str, table: &str, name: &str) -> BaseChain {
    let [family, table, name] = [family, table, name].map(str::to_owned);
    BaseChain { family, table, name, hook: "forward".to_owned(), drops: true }
}

fn matches(op: &str, left: Value, right: Value) -> Value {
    json!({"match": {"op": op, "left": left, "right": right}})
}

fn ct(key: &str) -> Value {
    json!({"ct": {"key": key}})
}

fn field(protocol: &str, field: &str) -> Value {
    json!({"payload": {"protocol": protocol, "field": field}})
}

#[test]
fn a_policy_drops_what_no_rule_accepts() {
    let accept = json!({"accept": null});
    assert!(drops(&[]));
    let established = matches("in", ct("state"), json!(["established", "related"]));
    assert!(drops(&[("forward", json!([established, accept]))]));
    let by_set = matches("==", ct("state"), json!({"set": ["established", "related"]}));
    assert!(drops(&[("forward", json!([by_set, accept]))]));
    for (op, left, right, passes) in [
        ("in", ct("status"), json!("dnat"), true),
        ("in", ct("status"), json!("snat"), false),
        ("==", json!({"&": [ct("status"), "dnat"]}), json!("dnat"), true),
        ("!=", json!({"&": [ct("status"), "dnat"]}), json!("dnat"), false),
        ("!", ct("status"), json!("dnat"), false),
        ("!", ct("status"), json!(["snat", "assured"]), true),
        ("==", field("ip", "daddr"), json!({"prefix": {"addr": "203.0.113.0", "len": 24}}), true),
        ("==", field("ip", "daddr"), json!({"prefix": {"addr": "203.0.112.0", "len": 24}}), false),
        ("!=", field("ip", "daddr"), json!("203.0.113.2"), false),
        ("==", field("ip6", "daddr"), json!("::1"), false),
        ("!=", field("ip6", "daddr"), json!("::1"), false),
        ("==", field("tcp", "dport"), json!({"set": [80, {"range": [8000, 9000]}]}), true),
        ("!=", field("udp", "dport"), json!(1), false),
        ("==", field("icmp", "type"), json!("echo-request"), false),
        ("==", json!({"meta": {"key": "l4proto"}}), json!({"set": ["tcp", "udp"]}), true),
        ("==", json!({"meta": {"key": "iifname"}}), json!({"set": ["wan", "cli*"]}), true),
        ("==", json!({"meta": {"key": "oifname"}}), json!("clients"), false),
        ("==", json!({"ct": {"key": "proto-dst", "dir": "original"}}), json!(80), true),
        ("==", json!({"&": [field("tcp", "flags"), ["fin", "syn", "rst", "ack"]]}), json!("syn"), true),
        // Nobody knows: it may pass.
        ("==", field("ip", "saddr"), json!("198.51.100.2"), true),
        ("==", field("ip", "daddr"), json!("@some"), true),
        ("==", json!({"meta": {"key": "mark"}}), json!(1), true),
    ] {
        let rule = matches(op, left, right);
        assert_eq!(drops(&[("forward", json!([rule, accept]))]), !passes, "{rule}");
    }
}

#[test]
fn jumps_are_followed_and_come_back() {
    let to = |verb: &str| json!([{"counter": {"packets": 0}}, {verb: {"target": "other"}}]);
    let accept = ("forward", json!([{"accept": null}]));
    assert!(!drops(&[("forward", to("jump")), ("other", json!([{"return": null}])), accept.clone()]));
    assert!(drops(&[("forward", to("goto")), ("other", json!([{"return": null}])), accept.clone()]));
    assert!(drops(&[("forward", to("jump")), ("other", json!([{"reject": null}])), accept.clone()]));
    // A chain without an end is left alone.
    assert!(!drops(&[("forward", to("jump")), ("other", to("jump"))]));
}

#[test]
fn verdict_maps_are_looked_up() {
    let by_state = |state: &str, verdict: &str| json!([{"vmap": {"key": ct("state"), "data": {"set": [["established", {"accept": null}], [state, {verdict: null}]]}}}]);
    assert!(drops(&[("forward", by_state("related", "accept"))]));
    assert!(!drops(&[("forward", by_state("new", "accept"))]));
    assert!(drops(&[("forward", by_state("new", "drop")), ("forward", json!([{"accept": null}]))]));
    let named = json!([{"vmap": {"key": ct("state"), "data": "@verdicts"}}]);
    assert!(!drops(&[("forward", named)]), "it could accept");
}

#[test]
fn the_elements_of_a_map_with_a_name_come_later() {
    let by_output = json!([{"vmap": {"key": {"meta": {"key": "oifname"}}, "data": "@outputs"}}]);
    let rule = |chain: &str, expr: Value| json!({"rule": {"chain": chain, "handle": 1, "expr": expr}});
    let listing = json!({"nftables": [rule("forward", by_output), rule("in", json!([{"drop": null}]))]});
    let mut rules = Ruleset::read(&listing, None);
    assert_eq!(rules.maps().into_iter().collect::<Vec<_>>(), ["outputs"]);
    let chain = BaseChain { drops: false, ..chain_of("inet", "t", "forward") };
    assert!(!rules.drops(&chain, &packet("clients")));
    for (interface, drops) in [("another", false), ("backends", true)] {
        let map = json!({"name": "outputs", "elem": [[interface, {"jump": {"target": "in"}}]]});
        rules.add_map("outputs", &json!({"nftables": [{"metainfo": {}}, {"map": map}]}));
        assert_eq!(rules.drops(&chain, &packet("clients")), drops, "{interface}");
    }
}

#[test]
fn what_iptables_matches_is_read_from_its_translation() {
    let listing = |extension: &str| {
        json!({"nftables": [{"rule": {"chain": "FORWARD", "handle": 7, "expr":
            [{"xt": {"type": "match", "name": extension}}, {"xt": {"type": "match", "name": "comment"}}, {"accept": null}]}}]})
    };
    let chain = chain_of("ip", "filter", "FORWARD");
    let drops = |extension: &str, words: &str| {
        let words = format!("table ip filter {{ # handle 1\n\t\t{words} counter accept # handle 7\n}}");
        Ruleset::read(&listing(extension), Some(&words)).drops(&chain, &packet("clients"))
    };
    assert!(drops("conntrack", "ct state related,established"));
    assert!(!drops("conntrack", "ct status dnat"));
    assert!(drops("conntrack", "ct state != new"));
    assert!(!drops("conntrack", "something"), "it is not known");
    assert!(!drops("addrtype", ""), "it is not known");
}
