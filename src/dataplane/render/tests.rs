//! Structure of the rules, and restorations of parts of them.

use std::time::Duration;

use serde_json::Value;

use super::*;
use crate::config::{Access, Masquerade, Prefix, Protocol};
use crate::dataplane::plan::{ColdPath, HoldOptions, OnFailure, OnLink};
use crate::netlink::nftables::Policy;
use samples::{ids, plan, rules};

/// The commands of a table in which the only frontend is cold and active.
fn commands(rules: Rules) -> Vec<Value> {
    commands_of(vec![rules], State { cold: ids(&[0]), active: ids(&[0]), ..State::default() })
}

/// The commands of a table in a state.
fn commands_of(frontends: Vec<Rules>, state: State) -> Vec<Value> {
    let text = table(&plan(frontends), &state);
    let document: Value = serde_json::from_str(&text).expect("JSON");
    document["nftables"].as_array().expect("a list").clone()
}

/// The names of the objects of one sort.
fn names<'c>(commands: &'c [Value], sort: &str) -> Vec<&'c str> {
    commands.iter().filter_map(|command| command["add"][sort]["name"].as_str()).collect()
}

/// The elements of a map or a set, as they are added.
fn elements(commands: &[Value], map: &str) -> Vec<String> {
    let added = commands.iter().filter_map(|command| command["add"].get("element"));
    let elements = added.filter(|element| element["name"] == map).flat_map(|element| element["elem"].as_array());
    elements.flatten().map(Value::to_string).collect()
}

/// The statements of the rules in a chain.
fn chain(commands: &[Value], name: &str) -> Vec<String> {
    let rules = commands.iter().filter_map(|command| command["add"].get("rule"));
    rules.filter(|rule| rule["chain"] == name).map(|rule| rule["expr"].to_string()).collect()
}

#[test]
fn no_maps_of_intervals_without_ranges() {
    let commands =
        commands(rules(Protocol::Tcp, &["0.0.0.0:80>10.0.0.1:81", "192.0.2.1:82>10.0.0.1:81", "[::]:80>[fd00::1]:80"]));
    let maps = names(&commands, "map");
    assert_eq!(maps.len(), 8, "{maps:?}");
    assert!(names(&commands, "set").is_empty());
    // One translation for each family, wherever it comes from.
    let dnats: Vec<_> = chain(&commands, "frontend-0").into_iter().filter(|rule| rule.contains("dnat")).collect();
    assert_eq!(dnats.len(), 2, "{dnats:?}");
    assert_eq!(elements(&commands, "active_any4"), [r#"[{"concat":["tcp",80]},{"goto":{"target":"frontend-0"}}]"#]);
    assert_eq!(elements(&commands, "active_ip4").len(), 1);
    assert_eq!(elements(&commands, "active_any6").len(), 1);
}

#[test]
fn a_range_to_itself_is_one_element_and_keeps_its_ports() {
    let commands = commands(rules(Protocol::Udp, &["0.0.0.0:1-65535>10.0.0.1:1-65535"]));
    let key = r#"[{"concat":["udp",{"range":[1,65535]}]},{"goto":{"target":"frontend-0"}}]"#;
    assert_eq!(elements(&commands, "active_range_any4"), [key]);
    assert_eq!(elements(&commands, "cold_range_any4").len(), 1);
    assert_eq!(elements(&commands, "guarded_range_any4"), [r#"{"range":[1,65535]}"#]);
    assert_eq!(names(&commands, "map").len(), 10);
    let translation = chain(&commands, "frontend-0").pop().expect("a rule");
    assert!(translation.ends_with(r#"{"dnat":{"addr":"10.0.0.1","family":"ip"}}]"#), "{translation}");
}

#[test]
fn a_shifted_range_is_one_rule_and_a_map_of_its_ports() {
    let commands = commands(rules(Protocol::Udp, &["192.0.2.1:100-102>10.0.0.1:200-202"]));
    assert_eq!(elements(&commands, "ports-100-102-to-200"), ["[100,200]", "[101,201]", "[102,202]"]);
    assert_eq!(elements(&commands, "active_range_ip4").len(), 1);
    let translations: Vec<_> =
        chain(&commands, "frontend-0").into_iter().filter(|rule| rule.contains("dnat")).collect();
    assert_eq!(translations.len(), 1, "{translations:?}");
    assert!(translations[0].contains(r#""data":"@ports-100-102-to-200""#), "{translations:?}");
}

#[test]
fn local_endpoints_are_not_masqueraded() {
    let local = Rules { masquerade: Masquerade::Always, ..rules(Protocol::Tcp, &["0.0.0.0:80>127.0.0.1:80"]) };
    let never = rules(Protocol::Tcp, &["0.0.0.0:81>10.0.0.1:80"]);
    let commands = commands_of(vec![local, never], State::default());
    assert!(!names(&commands, "chain").contains(&"postrouting"));
    assert!(names(&commands, "set").is_empty());
}

#[test]
fn frontends_share_the_element_of_an_endpoint() {
    let with = |masquerade, route| Rules { masquerade, ..rules(Protocol::Tcp, &[route]) };
    let frontends = vec![
        with(Masquerade::Auto, "0.0.0.0:80>10.0.0.1:8080"),
        with(Masquerade::Always, "192.0.2.1:81>10.0.0.1:8080"),
        with(Masquerade::Never, "192.0.2.1:82>10.0.0.1:8080"),
        with(Masquerade::Always, "0.0.0.0:100-110>10.0.0.1:200-210"),
        with(Masquerade::Always, "0.0.0.0:120-130>10.0.0.1:205-215"),
    ];
    let prefix = Prefix::around("192.0.2.9".parse().expect("an address"), 24);
    let state = State { on_link: [OnLink { interface: 7, prefix }].into(), ..State::default() };
    let commands = commands_of(frontends, state);
    let key = r#"{"concat":["tcp","10.0.0.1",8080]}"#;
    assert_eq!(elements(&commands, "masquerade_ip4"), [format!(r#"[{key},{{"jump":{{"target":"masquerade-2"}}}}]"#)]);
    let ways = chain(&commands, "masquerade-2");
    assert_eq!(ways.len(), 2, "{ways:?}");
    assert!(ways[0].contains(r#""right":80"#) && ways[0].contains("masquerade-auto"), "{ways:?}");
    assert!(ways[1].contains(r#""right":"192.0.2.1""#) && ways[1].contains("masquerade-always"), "{ways:?}");
    // Ranges that overlap share one element.
    assert_eq!(elements(&commands, "masquerade_range4").len(), 1);
    assert_eq!(chain(&commands, "masquerade-0").len(), 2);
    let on_link = r#"{"concat":[7,{"prefix":{"addr":"192.0.2.0","len":24}}]}"#;
    assert_eq!(elements(&commands, "onlink4"), [on_link]);
}

/// A table with something of everything.
fn rich() -> (Plan, State) {
    let with = |masquerade, route| Rules { masquerade, ..rules(Protocol::Udp, &[route]) };
    let allow = vec![Prefix::around("192.0.2.9".parse().expect("an address"), 24)];
    let frontends = vec![
        with(Masquerade::Auto, "0.0.0.0:80>10.0.0.1:8080"),
        with(Masquerade::Always, "192.0.2.1:100-102>10.0.0.1:200-202"),
        Rules { access: Access { allow, ..Access::default() }, ..rules(Protocol::Tcp, &["[::]:81>[fd00::1]:80"]) },
        rules(Protocol::Tcp, &["0.0.0.0:82>127.0.0.1:80"]),
    ];
    (plan(frontends), State { active: ids(&[0, 1, 3]), cold: ids(&[0, 1, 2, 3]), ..State::default() })
}

#[test]
fn the_outline_matches_the_table() {
    let (plan, state) = rich();
    let document: Value = serde_json::from_str(&table(&plan, &state)).expect("JSON");
    let commands = document["nftables"].as_array().expect("a list");
    let outline = outline(&plan);
    let sorted = |sort| names(commands, sort).into_iter().map(str::to_owned).collect::<BTreeSet<_>>();
    assert_eq!(outline.chains.keys().cloned().collect::<BTreeSet<_>>(), sorted("chain"));
    for (kind, sort) in [(SetKind::Map, "map"), (SetKind::Set, "set")] {
        let ours = outline.sets.iter().filter(|(_, found)| **found == kind).map(|(name, _)| name.clone());
        assert_eq!(ours.collect::<BTreeSet<_>>(), sorted(sort));
    }
    let script = timeouts(&plan).expect("timeouts");
    for (name, found) in &outline.chains {
        let native = script.matches(&format!("add rule inet {TABLE} {name} ")).count();
        assert_eq!(found.rules, chain(commands, name).len() + native, "{name}");
        let added = commands.iter().map(|command| &command["add"]["chain"]).find(|chain| chain["name"] == **name);
        let priority = added.and_then(|chain| chain["prio"].as_i64());
        assert_eq!(found.base.as_ref().map(|base| i64::from(base.priority)), priority, "{name}");
        if let (Some(base), Some(chain)) = (&found.base, added) {
            let hook = ["prerouting", "input", "forward", "output", "postrouting"][base.hook as usize];
            let properties = (base.kind.as_str().into(), hook.into(), base.policy == Policy::Accept);
            assert_eq!(
                (chain["type"].clone(), chain["hook"].clone(), chain["policy"] == "accept"),
                properties,
                "{name}"
            );
        }
    }
    assert_eq!(outline.objects.len(), 4, "one policy for each protocol and family");
}

/// Restoring everything adds what loading the table adds, and deletes no table and no policy.
#[test]
fn restoring_everything_adds_what_loading_adds() {
    let (plan, state) = rich();
    let wanted = outline(&plan);
    let nothing = crate::netlink::nftables::Changes::default();
    let everything = crate::dataplane::repair::Extent::Everything;
    let repair = crate::dataplane::repair::repair(&wanted, Some(&wanted), &nothing, everything);
    let crate::dataplane::repair::Repair::Parts(parts) = repair else { panic!("{repair:?}") };
    let transactions = restoration(&plan, &state, &parts);
    let [(Language::Native, native), (Language::Json, json)] = &transactions[..] else { panic!("{transactions:?}") };
    let rules = |script: &str| -> Vec<String> {
        script.lines().filter(|line| line.starts_with("add rule")).map(str::to_owned).collect()
    };
    assert_eq!(rules(native), rules(&timeouts(&plan).expect("timeouts")));
    assert!(!native.contains("ct timeout inet"), "{native}");
    let added = |text: &str| -> Vec<String> {
        let document: Value = serde_json::from_str(text).expect("JSON");
        let commands = document["nftables"].as_array().expect("a list").clone();
        let added = commands.into_iter().filter_map(|command| command.get("add").cloned());
        added
            .filter(|object| object.get("table").is_none() && object.get("chain").is_none())
            .map(|o| o.to_string())
            .collect()
    };
    assert_eq!(added(json), added(&table(&plan, &state)));
    assert!(!json.contains(r#""delete":{"table""#) && !json.contains(r#""delete":{"ct timeout""#));
}

#[test]
fn restoring_a_chain_and_a_map_touches_nothing_else() {
    let (plan, state) = rich();
    let parts = Parts {
        chains: ["prerouting".to_owned()].into(),
        sets: [("active_any4".to_owned(), SetKind::Map)].into(),
        ..Parts::default()
    };
    let transactions = restoration(&plan, &state, &parts);
    let [(Language::Json, json)] = &transactions[..] else { panic!("{transactions:?}") };
    let document: Value = serde_json::from_str(json).expect("JSON");
    let commands = document["nftables"].as_array().expect("a list").clone();
    let flushed: Vec<String> = commands.iter().filter_map(|command| Some(command.get("flush")?.to_string())).collect();
    assert_eq!(flushed.len(), 2, "{flushed:?}");
    assert_eq!(elements(&commands, "active_any4").len(), 2);
    let whole: Value = serde_json::from_str(&table(&plan, &state)).expect("JSON");
    let whole = whole["nftables"].as_array().expect("a list").clone();
    assert_eq!(chain(&commands, "prerouting"), chain(&whole, "prerouting"));
    assert_eq!(commands.len(), 2 + 1 + chain(&whole, "prerouting").len(), "{commands:?}");
}

/// A frontend that holds packets.
fn holding(on_failure: OnFailure, access: Access, route: &str) -> Rules {
    let cold = ColdPath::Hold(HoldOptions {
        group: 28775,
        packets: 1,
        per_source: 1,
        bytes: 1,
        timeout: Duration::from_secs(1),
        on_failure,
        replay: true,
    });
    Rules { cold, access, ..rules(Protocol::Udp, &[route]) }
}

fn allowed(reject: bool) -> Access {
    let prefix = Prefix::around("192.0.2.0".parse().expect("an address"), 24);
    Access { allow: vec![prefix], reject, ..Access::default() }
}

const JUMP_FORGED: &str = r#"[{"jump":{"target":"forged"}}]"#;
const ONLY_FIRST: &str = concat!(
    r#"[{"match":{"left":{"&":[{"payload":{"field":"flags","protocol":"tcp"}},["fin","syn","rst","ack"]]},"#,
    r#""op":"!=","right":"syn"}},{"reject":{"type":"tcp reset"}}]"#
);
const LOCAL_UDP: &str = concat!(
    r#"[{"match":{"left":{"meta":{"key":"oif"}},"op":"!=","right":0}},"#,
    r#"{"match":{"left":{"meta":{"key":"l4proto"}},"op":"==","right":"udp"}},{"accept":{}}]"#
);
const DROP: &str = r#"[{"drop":{}}]"#;

#[test]
fn cold_chains_drop_forged_sources_first() {
    let commands = commands_of(
        vec![holding(OnFailure::Reject, Access::default(), "0.0.0.0:80>10.0.0.1:81")],
        State { cold: ids(&[0]), ..State::default() },
    );
    let log = r#"[{"log":{"group":28775,"snaplen":65535}}]"#;
    assert_eq!(chain(&commands, "cold-hold"), [JUMP_FORGED, ONLY_FIRST, log, LOCAL_UDP, DROP]);
    assert_eq!(chain(&commands, "cold-drop"), [JUMP_FORGED, ONLY_FIRST, LOCAL_UDP, DROP]);
    let refuse = chain(&commands, "cold-refuse");
    assert_eq!(refuse[..2], [JUMP_FORGED, ONLY_FIRST]);
    assert_eq!(refuse.len(), 4, "{refuse:?}");
    for name in ["cold-drop", "cold-hold", "cold-refuse"] {
        let any = chain(&commands, &format!("{name}-any"));
        assert_eq!(any.len(), 2, "{any:?}");
        assert!(any[0].contains(r#""right":"local""#) && any[0].ends_with(r#"{"return":{}}]"#), "{any:?}");
        assert_eq!(any[1], format!(r#"[{{"goto":{{"target":"{name}"}}}}]"#));
    }
    let forged = [
        r#"[{"match":{"left":{"meta":{"key":"oif"}},"op":"!=","right":0}},{"return":{}}]"#,
        r#"[{"match":{"left":{"meta":{"key":"iifname"}},"op":"==","right":"lo"}},{"return":{}}]"#,
        r#"[{"match":{"left":{"fib":{"flags":["saddr"],"result":"type"}},"op":"==","right":{"set":["local","broadcast","anycast","multicast"]}}},{"drop":{}}]"#,
        r#"[{"match":{"left":{"payload":{"field":"saddr","protocol":"ip"}},"op":"==","right":{"set":[{"prefix":{"addr":"0.0.0.0","len":8}},{"prefix":{"addr":"127.0.0.0","len":8}}]}}},{"drop":{}}]"#,
        r#"[{"match":{"left":{"payload":{"field":"saddr","protocol":"ip6"}},"op":"==","right":{"set":[{"prefix":{"addr":"::","len":127}},{"prefix":{"addr":"::ffff:0.0.0.0","len":96}},{"prefix":{"addr":"ff00::","len":8}}]}}},{"drop":{}}]"#,
    ];
    assert_eq!(chain(&commands, "forged"), forged);
    assert_eq!(elements(&commands, "cold_any4"), [r#"[{"concat":["udp",80]},{"goto":{"target":"cold-hold-any"}}]"#]);
    assert_eq!(elements(&commands, "guarded_any4"), ["80"]);
}

#[test]
fn forged_sources_are_dropped_before_the_gate() {
    for reject in [false, true] {
        let frontend = holding(OnFailure::Reject, allowed(reject), "0.0.0.0:80>10.0.0.1:81");
        let commands = commands_of(vec![frontend], State { cold: ids(&[0]), ..State::default() });
        for shared in ["cold-hold", "cold-refuse"] {
            let own = chain(&commands, &format!("{shared}-0"));
            assert_eq!(own.len(), 4, "{own:?}");
            assert!(own[0].contains(r#""right":"local""#), "{own:?}");
            assert_eq!(own[1], JUMP_FORGED);
            assert_eq!(own[2], r#"[{"jump":{"target":"gate-0"}}]"#);
            assert_eq!(own[3], format!(r#"[{{"goto":{{"target":"{shared}"}}}}]"#));
        }
        let away = chain(&commands, "away-0");
        assert_eq!(away == [DROP], !reject, "{away:?}");
    }
    // Without an answer to give, there is no chain for it.
    let commands = commands(holding(OnFailure::Drop, allowed(true), "192.0.2.1:80>10.0.0.1:81"));
    assert!(!names(&commands, "chain").contains(&"cold-refuse-0"));
}

#[test]
fn a_refusing_frontend_changes_one_element() {
    let plan = plan(vec![holding(OnFailure::Reject, Access::default(), "192.0.2.1:80>10.0.0.1:81")]);
    let cold = State { cold: ids(&[0]), ..State::default() };
    let refusing = State { refusing: ids(&[0]), ..cold.clone() };
    let text = changes(&plan, &cold, &refusing).expect("a change");
    let document: Value = serde_json::from_str(&text).expect("JSON");
    let commands = document["nftables"].as_array().expect("a list");
    assert_eq!(commands.len(), 2, "{text}");
    assert_eq!(commands[0]["delete"]["element"]["elem"].to_string(), r#"[{"concat":["udp","192.0.2.1",80]}]"#);
    let added = r#"[{"concat":["udp","192.0.2.1",80]},{"goto":{"target":"cold-refuse"}}]"#;
    assert_eq!(elements(commands, "cold_ip4"), [added]);
    assert_eq!(changes(&plan, &cold, &cold), None);
}
