use serde_json::{Value as Json, json};

use super::*;
use crate::config::Protocol;

fn at(text: &str) -> std::net::SocketAddr {
    text.parse().expect("an address")
}

/// A first SYN of which the source is not known, after a DNAT.
fn packet() -> Packet<'static> {
    Packet {
        protocol: Protocol::Tcp,
        source: None,
        destination: at("203.0.113.2:8080"),
        translated_from: Some(at("198.51.100.1:80")),
        input: Some(Interface { name: "clients", index: 2 }),
        output: Some(Interface { name: "backends", index: 3 }),
        segment: Segment::First,
        source_type: None,
        destination_type: None,
    }
}

fn chain(policy: &str) -> Json {
    json!({"chain": {"family": "inet", "table": "t", "name": "forward", "type": "filter", "hook": "forward", "prio": 0,
        "policy": policy}})
}

fn rule(chain: &str, expr: &Json) -> Json {
    json!({"rule": {"chain": chain, "expr": expr}})
}

/// Trace of a packet through a chain `forward` whose policy is drop.
fn trace(packet: &Packet<'_>, rules: &[(&str, Json)]) -> Trace {
    let rules = rules.iter().map(|(chain, expr)| rule(chain, expr));
    let objects: Vec<Json> = [chain("drop")].into_iter().chain(rules).collect();
    let rules = Ruleset::read(&json!({ "nftables": objects }), Elements::Omitted);
    rules.trace(&rules.base_chains()[0], packet)
}

fn drops(rules: &[(&str, Json)]) -> bool {
    trace(&packet(), rules).drops()
}

fn matches(op: &str, left: Json, right: Json) -> Json {
    json!({"match": {"op": op, "left": left, "right": right}})
}

fn ct(key: &str) -> Json {
    json!({"ct": {"key": key}})
}

fn field(protocol: &str, field: &str) -> Json {
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
        // As one number, and as any of the bits.
        ("!=", ct("state"), json!({"|": ["new", "untracked"]}), true),
        ("!", ct("state"), json!(["new", "untracked"]), false),
        ("==", ct("state"), json!({"|": ["new", "untracked"]}), false),
        ("==", ct("state"), json!("new"), true),
        ("!=", ct("state"), json!({"set": ["new", "untracked"]}), false),
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
        // Not known, so it may pass.
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
fn sets_of_a_terse_listing_are_unknown_until_they_are_read() {
    let by_output = json!([{"vmap": {"key": {"meta": {"key": "oifname"}}, "data": "@outputs"}}]);
    let map = |elem: Json| json!({"map": {"name": "outputs", "elem": elem}});
    let terse = json!({"map": {"name": "outputs"}});
    let listing = json!({"nftables": [chain("accept"), terse, rule("forward", &by_output), rule("in", &json!([{"drop": null}]))]});
    let mut rules = Ruleset::read(&listing, Elements::Omitted);
    assert_eq!(rules.verdict_maps().into_iter().collect::<Vec<_>>(), ["outputs"]);
    let base = rules.base_chains().remove(0);
    let trace = rules.trace(&base, &packet());
    assert_eq!(trace.verdicts.into_iter().collect::<Vec<_>>(), [Verdict::Accept, Verdict::Drop]);
    let elements = json!([["another", {"accept": null}], ["backends", {"jump": {"target": "in"}}]]);
    rules.add(&json!({"nftables": [{"metainfo": {}}, map(elements)]}), Elements::Listed);
    let trace = rules.trace(&base, &packet());
    assert_eq!((trace.verdict(), trace.path.clone()), (Ok(Verdict::Drop), vec!["forward".to_owned(), "in".to_owned()]));
    let mut full = Ruleset::read(&listing, Elements::Listed);
    assert_eq!(full.trace(&base, &packet()).verdict(), Ok(Verdict::Accept), "the map is empty");
    full.add(&json!({"nftables": [map(json!(["backends"]))]}), Elements::Listed);
    assert_eq!(full.trace(&base, &packet()).verdict(), Ok(Verdict::Accept), "no verdict");
}

/// Verdicts of single statements, or the statement that is not known.
#[test]
fn a_statement_gives_its_verdict_or_is_reported_as_unknown() {
    let verdict = |statement: Json| {
        let trace = trace(&packet(), &[("forward", json!([statement]))]);
        trace.verdict().map_err(str::to_owned)
    };
    let ports = json!({"map": {"key": field("tcp", "dport"), "data": {"set": [[8080, 90]]}}});
    let no_port = json!({"map": {"key": field("tcp", "dport"), "data": {"set": [[1, 90]]}}});
    for (statement, expected) in [
        (json!({"accept": null}), Verdict::Accept),
        (json!({"drop": null}), Verdict::Drop),
        (json!({"reject": null}), Verdict::Reject(Refusal::Icmp)),
        (json!({"reject": {"type": "icmpx", "expr": "port-unreachable"}}), Verdict::Reject(Refusal::Icmp)),
        (json!({"reject": {"type": "tcp reset"}}), Verdict::Reject(Refusal::Reset)),
        (json!({"masquerade": null}), Verdict::Masquerade),
        (json!({"dnat": {"family": "ip", "addr": "10.0.0.1", "port": 90}}), Verdict::Dnat(at("10.0.0.1:90"))),
        (json!({"dnat": {"family": "ip", "addr": "10.0.0.1"}}), Verdict::Dnat(at("10.0.0.1:8080"))),
        (json!({"dnat": {"addr": "10.0.0.1", "port": ports}}), Verdict::Dnat(at("10.0.0.1:90"))),
        (json!({"snat": {"family": "ip", "addr": "10.0.0.1"}}), Verdict::Snat(at("10.0.0.1:0").ip())),
        // Neither for another family, nor without a value for the port does the rule match.
        (json!({"snat": {"family": "ip6", "addr": "::1"}}), Verdict::Drop),
        (json!({"dnat": {"addr": "10.0.0.1", "port": no_port}}), Verdict::Drop),
    ] {
        assert_eq!(verdict(statement.clone()), Ok(expected), "{statement}");
    }
    for statement in [
        json!({"tproxy": {"port": 1}}),
        json!({"queue": {"num": 1}}),
        json!({"mangle": {"key": field("ip", "daddr"), "value": "10.0.0.1"}}),
        json!({"vmap": {"key": ct("state"), "data": "@other"}}),
        json!({"dnat": {"addr": {"map": {"key": field("tcp", "dport"), "data": "@other"}}}}),
        json!({"dnat": {"addr": "10.0.0.1", "port": 70000}}),
        json!({"limit": {"rate": 1}}),
        json!({"match": {"op": "==", "left": {"new": 1}, "right": 1}}),
        matches("==", ct("state"), json!(8)),
        matches("==", json!({"&": [ct("status"), 32]}), json!(32)),
    ] {
        let found = verdict(statement.clone()).expect_err("not known");
        let (kind, _) = statement.as_object().and_then(|object| object.iter().next()).expect("a statement");
        assert!(found.contains(kind) || found.contains("other"), "{found}");
    }
}

#[test]
fn statements_without_a_verdict_leave_the_packet_to_the_next_rule() {
    let rules = [
        json!([{"counter": {"packets": 0, "bytes": 0}}, {"mangle": {"key": {"meta": {"key": "mark"}}, "value": 1}}]),
        json!([{"mangle": {"key": {"ct": {"key": "mark"}}, "value": 1}}, {"ct helper": "h"}, {"notrack": null}]),
        json!([{"set": {"op": "add", "elem": 1, "set": "@s"}}, {"flow": {"op": "add", "flowtable": "@f"}}]),
        json!([{"log": {"group": 5}}]),
        json!([{"ct timeout": "tcp4-60s"}]),
        json!([{"accept": null}]),
    ];
    let trace = trace(&packet(), &rules.map(|rule| ("forward", rule)));
    assert_eq!(trace.verdict(), Ok(Verdict::Accept));
    assert_eq!((trace.logged, trace.timeout.as_deref()), (Some(5), Some("tcp4-60s")));
}

/// Fields and expressions of a packet of which everything is known.
#[test]
fn a_known_packet_matches_exactly() {
    let known = Packet {
        source: Some(at("198.51.100.2:4000")),
        source_type: Some("unicast"),
        destination_type: Some("local"),
        input: Some(Interface::NONE),
        ..packet()
    };
    let middle = Packet { segment: Segment::Middle, ..known.clone() };
    let untranslated = Packet { translated_from: None, ..known.clone() };
    let six = Packet {
        destination: at("[2001:db8::1]:53"),
        protocol: Protocol::Udp,
        source: Some(at("[fd00::1]:9")),
        ..known.clone()
    };
    let fib = |flags: Json| json!({"fib": {"result": "type", "flags": flags}});
    let meta = |key: &str| json!({"meta": {"key": key}});
    let original = |key: &str| json!({"ct": {"key": key, "dir": "original"}});
    let flags = json!({"&": [field("tcp", "flags"), {"|": ["fin", {"|": ["syn", "rst"]}, "ack"]}]});
    let status = json!({"&": [ct("status"), "dnat"]});
    let concat = |parts: [Json; 2]| json!({ "concat": parts });
    let range = |from: u16, to: u16| json!({"range": [from, to]});
    for (packet, left, right, expected) in [
        (&known, field("ip", "saddr"), json!({"prefix": {"addr": "198.51.100.0", "len": 24}}), true),
        (&known, field("ip", "saddr"), json!({"prefix": {"addr": "198.51.100.3", "len": 32}}), false),
        (&known, field("ip", "saddr"), json!({"prefix": {"addr": "::", "len": 0}}), false),
        (&known, field("ip", "saddr"), json!({"prefix": {"addr": "0.0.0.0", "len": 0}}), true),
        (&known, field("ip", "saddr"), json!({"range": ["198.51.100.2", "198.51.100.3"]}), true),
        (&known, field("ip", "saddr"), json!({"range": ["198.51.100.3", "198.51.100.4"]}), false),
        (&known, field("tcp", "sport"), json!(4000), true),
        (&known, field("udp", "sport"), json!(4000), false),
        (&known, field("th", "dport"), range(8080, 8081), true),
        (&known, field("th", "dport"), range(8081, 8082), false),
        (&known, field("ip", "protocol"), json!(6), true),
        (&known, field("ip", "protocol"), json!(17), false),
        (&six, field("ip6", "nexthdr"), json!(17), true),
        (&six, field("ip6", "saddr"), json!("fd00::1"), true),
        (&six, field("ip", "saddr"), json!("fd00::1"), false),
        (&six, meta("nfproto"), json!("ipv6"), true),
        (&six, meta("protocol"), json!("ip6"), true),
        (&known, meta("protocol"), json!("ip"), true),
        (&known, meta("oif"), json!("3"), true),
        (&known, meta("oif"), json!(3), true),
        (&known, meta("oif"), json!(0), false),
        (&known, meta("iif"), json!(0), true),
        (&known, meta("iifname"), json!("lo"), false),
        (&known, meta("oifname"), json!("back*"), true),
        (&known, fib(json!(["saddr"])), json!("unicast"), true),
        (&known, fib(json!("daddr")), json!({"set": ["local", "broadcast"]}), true),
        (&known, fib(json!("daddr")), json!("unicast"), false),
        (&known, flags.clone(), json!("syn"), true),
        (&known, flags.clone(), json!(["syn", "ack"]), false),
        (&middle, flags.clone(), json!("syn"), false),
        (&middle, flags, json!(0), false),
        (&known, status.clone(), json!("dnat"), true),
        (&untranslated, status.clone(), json!("dnat"), false),
        (&untranslated, status, json!(0), true),
        (&known, original("proto-dst"), json!(80), true),
        (&untranslated, original("proto-dst"), json!(8080), true),
        (&known, original("ip daddr"), json!("198.51.100.1"), true),
        (&known, original("ip6 daddr"), json!("::1"), false),
        (&six, original("daddr"), json!("198.51.100.1"), true),
        (&known, ct("direction"), json!("original"), true),
        (&known, ct("l3proto"), json!("ipv4"), true),
        (&known, ct("protocol"), json!("tcp"), true),
        (&known, concat([meta("l4proto"), field("th", "dport")]), json!({"concat": ["tcp", range(8000, 9000)]}), true),
        (&known, concat([meta("l4proto"), field("th", "dport")]), json!({"concat": ["udp", 8080]}), false),
        (&known, concat([meta("l4proto"), field("udp", "dport")]), json!({"concat": ["tcp", 8080]}), false),
        (&known, concat([meta("oif"), field("ip", "saddr")]), json!({"set": [{"concat": [3, "198.51.100.2"]}]}), true),
        (
            &known,
            concat([meta("oif"), field("ip", "saddr")]),
            json!({"set": [{"elem": {"val": {"concat": [2, "198.51.100.2"]}}}]}),
            false,
        ),
    ] {
        for (op, expected) in [("==", Some(expected)), ("!=", is_there(packet, &left).then_some(!expected))] {
            let rule = matches(op, left.clone(), right.clone());
            let trace = trace(packet, &[("forward", json!([rule, {"accept": null}]))]);
            let accepts = expected.unwrap_or(false);
            assert_eq!(trace.verdict(), Ok(if accepts { Verdict::Accept } else { Verdict::Drop }), "{rule}");
        }
    }
    for (op, bound, expected) in [
        ("<", 8081, true),
        ("<", 8080, false),
        (">", 8080, false),
        (">", 8079, true),
        ("<=", 8080, true),
        ("<=", 8079, false),
        (">=", 8080, true),
        (">=", 8081, false),
    ] {
        let rule = matches(op, field("tcp", "dport"), json!(bound));
        let trace = trace(&known, &[("forward", json!([rule, {"accept": null}]))]);
        assert_eq!(trace.verdict() == Ok(Verdict::Accept), expected, "{rule}");
    }
}

/// Whether the packet has the field at all: no comparison matches one that is absent.
fn is_there(packet: &Packet<'_>, left: &Json) -> bool {
    let absent = |field: &Json| {
        let name = field["payload"]["protocol"].as_str().or(field["ct"]["key"].as_str());
        let four = packet.destination.is_ipv4() && packet.translated_from.is_none_or(|original| original.is_ipv4());
        let other = if packet.protocol == Protocol::Tcp { "udp" } else { "tcp" };
        name == Some(other)
            || name.is_some_and(|name| name.starts_with(if four { "ip6" } else { "ip " }) || !four && name == "ip")
    };
    !absent(left) && !left["concat"].as_array().is_some_and(|parts| parts.iter().any(absent))
}

/// What is not known makes no difference where all possible ways end alike.
#[test]
fn an_unknown_match_keeps_both_ways_open() {
    let unknown = || matches("==", json!({"meta": {"key": "mark"}}), json!(1));
    let drop = json!([unknown(), {"drop": null}]);
    let found = trace(&packet(), &[("forward", drop.clone())]);
    assert!(found.drops() && found.verdict().is_err());
    assert!(!drops(&[("forward", drop), ("forward", json!([{"accept": null}]))]));
    let jump = json!([unknown(), {"jump": {"target": "other"}}]);
    assert!(!drops(&[("forward", jump.clone()), ("other", json!([{"accept": null}]))]));
    assert!(drops(&[("forward", jump), ("other", json!([{"drop": null}]))]));
    let goto = json!([unknown(), {"goto": {"target": "other"}}]);
    assert!(!drops(&[("forward", goto), ("other", json!([{"drop": null}])), ("forward", json!([{"accept": null}]))]));
    let partly = json!([{"vmap": {"key": {"concat": [{"meta": {"key": "mark"}}, field("tcp", "dport")]}, "data": {"set": [
        [{"concat": [1, 80]}, {"accept": null}],
        [{"concat": [1, 8080]}, {"drop": null}],
        [{"concat": [2, 8080]}, {"drop": null}]]}}}]);
    let found = trace(&packet(), &[("forward", partly)]);
    assert!(found.drops() && found.unknown.is_some());
}

/// Transactions change the table as nft does.
#[test]
fn transactions_add_flush_and_delete() {
    let command = |verb: &str, object: Json| json!({ verb: object });
    let elements = |elem: Json| json!({"element": {"name": "m", "elem": elem}});
    let lookup = json!([{"vmap": {"key": field("tcp", "dport"), "data": "@m"}}]);
    let mut rules = Ruleset::default();
    let mut run = |commands: Vec<Json>| {
        rules.add(&json!({ "nftables": commands }), Elements::Listed);
        rules.base_chains().first().map(|base| rules.trace(base, &packet()).verdict().map_err(str::to_owned))
    };
    let map = || command("add", json!({"map": {"name": "m"}}));
    let setup = vec![map(), command("add", chain("accept")), command("add", rule("forward", &lookup))];
    assert_eq!(run(setup.clone()), Some(Ok(Verdict::Accept)));
    let pair = json!([8080, {"drop": null}]);
    assert_eq!(run(vec![command("add", elements(json!([[1, {"accept": null}], pair])))]), Some(Ok(Verdict::Drop)));
    assert_eq!(run(vec![command("delete", elements(json!([8080])))]), Some(Ok(Verdict::Accept)));
    assert_eq!(run(vec![command("add", elements(json!([pair])))]), Some(Ok(Verdict::Drop)));
    assert_eq!(run(vec![command("flush", json!({"map": {"name": "m"}}))]), Some(Ok(Verdict::Accept)));
    assert_eq!(run(vec![command("add", rule("forward", &json!([{"drop": null}])))]), Some(Ok(Verdict::Drop)));
    assert_eq!(run(vec![command("flush", json!({"chain": {"name": "forward"}}))]), Some(Ok(Verdict::Accept)));
    assert_eq!(run(vec![command("delete", json!({"table": {"name": "t"}}))]), None);
    assert_eq!(run(setup), Some(Ok(Verdict::Accept)));
}

#[test]
fn base_chains_come_in_the_order_of_their_priorities() {
    let base = |name: &str, prio: i64| json!({"chain": {"family": "inet", "table": "t", "name": name, "type": "nat", "hook": "input", "prio": prio}});
    let rules =
        Ruleset::read(&json!({"nftables": [base("b", 5), base("a", -5), {"chain": {"name": "c"}}]}), Elements::Listed);
    let names: Vec<_> = rules.base_chains().into_iter().map(|base| (base.name, base.kind, base.drops)).collect();
    assert_eq!(names, [("a".to_owned(), "nat".to_owned(), false), ("b".to_owned(), "nat".to_owned(), false)]);
}

#[test]
fn direct_jumps_are_found() {
    let rules = json!({"nftables": [rule("a", &json!([{"counter": null}, {"jump": {"target": "b"}}])), rule("a", &json!([{"goto": {"target": "c"}}]))]});
    let rules = Ruleset::read(&rules, Elements::Listed);
    assert!(rules.jumps_to("a", "b"));
    assert!(!rules.jumps_to("a", "c") && !rules.jumps_to("b", "a"));
}

#[test]
fn a_way_on_from_an_uncertain_element_is_kept() {
    let data = json!({"set": [[80, {"continue": null}], ["*", {"drop": null}]]});
    let lookup = json!([{"vmap": {"key": {"payload": {"protocol": "th", "field": "sport"}}, "data": data}}]);
    assert!(!drops(&[("forward", lookup), ("forward", json!([{"accept": null}]))]));
}
