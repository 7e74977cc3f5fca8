//! Whole tables and transactions, held against the files in `golden/`. With `GOLDEN=write` they are written.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::*;
use crate::config::{Masquerade, Protocol};
use crate::dataplane::plan::Timeouts;
use crate::ids::TargetId;
use samples::{ids, on_link, state, wildcards};

/// One command per line: verb, kind and name of the object, and the rest of it.
fn lines(transaction: &str) -> String {
    let mut document: Value = serde_json::from_str(transaction).expect("JSON");
    let commands = document["nftables"].as_array_mut().expect("a list");
    commands.iter_mut().map(|command| line(command) + "\n").collect()
}

fn line(command: &mut Value) -> String {
    let (verb, object) = command.as_object_mut().and_then(|command| command.iter_mut().next()).expect("a verb");
    let (kind, fields) = object.as_object_mut().and_then(|object| object.iter_mut().next()).expect("an object");
    let mut line = format!("{verb} {kind}");
    let fields = fields.as_object_mut().expect("fields");
    assert_eq!(fields.remove("family"), Some("inet".into()));
    let table = if kind == "table" { "name" } else { "table" };
    assert_eq!(fields.remove(table), Some(TABLE.into()));
    for name in ["chain", "name", "expr", "elem"] {
        match fields.remove(name) {
            Some(Value::String(name)) => line.extend([" ", &name]),
            Some(Value::Array(parts)) if name == "elem" => {
                line.extend(parts.iter().map(|part| format!("\n    {part}")))
            }
            Some(Value::Array(parts)) => line.extend(parts.iter().map(|part| format!(" {part}"))),
            Some(other) => panic!("{other}"),
            None => {}
        }
    }
    if !fields.is_empty() {
        line.push_str(&format!(" {}", Value::Object(fields.clone())));
    }
    line
}

#[track_caller]
fn assert_golden(name: &str, found: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/dataplane/render/golden").join(name);
    if std::env::var_os("GOLDEN").is_some_and(|mode| mode == "write") {
        std::fs::write(&path, found).expect("the folder of golden files");
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(expected == found, "{name} differs; with GOLDEN=write it is written. Found:\n{found}");
}

#[test]
fn cold_table() {
    let mut state = state(&[0, 1], &[0, 1, 2, 3]);
    state.refusing = ids(&[3]);
    assert_golden("cold", &lines(&table(&samples::cold(), &state)));
}

#[test]
fn access_table() {
    assert_golden("access", &lines(&table(&samples::access(), &state(&[0, 1, 2], &[0, 1, 2]))));
}

#[test]
fn masquerade_table() {
    let state = State { on_link: on_link(), ..state(&[0, 1, 2, 3, 4, 5], &[]) };
    assert_golden("masquerade", &lines(&table(&samples::masquerade(), &state)));
}

#[test]
fn ranges_table() {
    assert_golden("ranges", &lines(&table(&samples::ranges(), &state(&[0, 1], &[0, 1]))));
}

#[test]
fn wildcard_table() {
    let state = State { wildcards: wildcards(&["127.0.0.1:5300", "[::1]:5300"]), ..state(&[2], &[]) };
    assert_golden("wildcard", &lines(&table(&samples::wildcard(), &state)));
}

/// The policies: shorter than the kernel's defaults, in between, and longer.
#[test]
fn timeouts_script() {
    let after = |seconds| Rules {
        timeouts: Timeouts::new(Duration::from_secs(seconds)),
        ..samples::rules(Protocol::Tcp, &["0.0.0.0:80>10.0.0.1:80"])
    };
    let script = timeouts(&samples::plan([after(3600), after(10), after(100), after(10)])).expect("timeouts");
    assert_golden("timeouts", &script);
}

/// Parts that another program has flushed, deleted, replaced or added.
#[test]
fn restoration_of_parts() {
    let names = |names: &[&str]| -> BTreeSet<String> { names.iter().copied().map(str::to_owned).collect() };
    let sets = |sets: &[(&str, SetKind)]| sets.iter().map(|(name, kind)| ((*name).to_owned(), *kind)).collect();
    let after = |seconds, route| Rules {
        timeouts: Timeouts::new(Duration::from_secs(seconds)),
        ..samples::rules(Protocol::Udp, &[route])
    };
    let routes = ["0.0.0.0:80>10.0.0.1:80", "0.0.0.0:81>10.0.0.1:81", "0.0.0.0:82>10.0.0.1:82"];
    let plan = samples::plan([after(10, routes[0]), after(20, routes[1]), after(30, routes[2])]);
    let parts = Parts {
        wake: true,
        chains: names(&["frontend-0", "timeout-10s"]),
        new_chains: names(&["prerouting", "cold-drop", "timeout-20s", "timeout-30s"]),
        deleted_chains: names(&["cold-drop", "timeout-30s", "added"]),
        sets: sets(&[("active_any4", SetKind::Map), ("guarded_any4", SetKind::Set)]),
        new_sets: names(&["cold_any4"]),
        deleted_sets: sets(&[("added_map", SetKind::Map), ("added_set", SetKind::Set)]),
        deleted_objects: vec![("added_counter".to_owned(), "counter")],
    };
    let mut found = String::new();
    for (language, transaction) in restoration(&plan, &state(&[0], &[0, 1]), &parts) {
        found.push_str(&format!("# {language:?}\n"));
        found.push_str(&if language == Language::Json { lines(&transaction) } else { transaction });
    }
    assert_golden("restoration", &found);
    assert!(restoration(&plan, &state(&[0], &[0, 1]), &Parts::default()).is_empty());
}

/// Transactions from one state to another, and back.
#[track_caller]
fn assert_changes(name: &str, plan: &Plan, states: &[(&str, State)]) {
    let mut found = String::new();
    for (from, to) in states.iter().zip(&states[1..]).flat_map(|(from, to)| [(from, to), (to, from)]) {
        let change = changes(plan, &from.1, &to.1).expect("a change");
        found.push_str(&format!("# {} -> {}\n{}", from.0, to.0, lines(&change)));
        assert_eq!(changes(plan, &to.1, &to.1), None);
    }
    assert_golden(name, &found);
}

#[test]
fn changes_of_frontends() {
    let cold = state(&[], &[0, 1, 2, 3]);
    let refusing = State { refusing: ids(&[0, 1, 2, 3]), ..cold.clone() };
    let states = [("none", State::default()), ("cold", cold), ("active", state(&[0, 1, 2, 3], &[0, 1, 2, 3]))];
    assert_changes("changes-frontends", &samples::cold(), &states);
    let states = [states[1].clone(), ("refusing", refusing)];
    assert_changes("changes-refusing", &samples::cold(), &states);
}

#[test]
fn changes_of_ranges() {
    let states = [("none", State::default()), ("all", state(&[0, 1], &[0, 1])), ("one", state(&[0], &[1]))];
    assert_changes("changes-ranges", &samples::ranges(), &states);
}

#[test]
fn changes_of_links() {
    let all = State { on_link: on_link(), ..State::default() };
    let one = State { on_link: on_link().into_iter().take(1).collect(), ..State::default() };
    assert_changes("changes-links", &samples::masquerade(), &[("none", State::default()), ("all", all), ("one", one)]);
    // Without `masquerade: auto` there is no set of prefixes.
    let changed = State { on_link: on_link(), ..State::default() };
    assert_eq!(changes(&samples::cold(), &State::default(), &changed), None);
}

/// A map of intervals takes no overlaps: such endpoints are one element.
#[test]
fn changes_of_wildcard_endpoints_with_overlaps() {
    let with = |endpoints: &[&str]| State { wildcards: wildcards(endpoints), ..State::default() };
    let states = [
        ("none", State::default()),
        ("lower", with(&["127.0.0.1:5000-5010"])),
        ("lower and upper", with(&["127.0.0.1:5000-5010", "127.0.0.1:5005-5020"])),
        ("upper and others", with(&["127.0.0.1:5005-5020", "127.0.0.1:5300", "[::1]:5300"])),
    ];
    assert_changes("changes-wildcard", &samples::wildcard(), &states);
    // An endpoint that no frontend leads to like this is in no map.
    assert_eq!(changes(&samples::wildcard(), &State::default(), &with(&["127.0.0.1:5400", "127.0.0.2:53"])), None);
}

#[test]
fn wildcard_endpoints_are_merged_where_they_overlap() {
    let auto = |routes: &[&str]| samples::masquerading(Masquerade::Auto, Protocol::Udp, routes);
    let routes = ["10-20", "20-30", "31-40", "12-15", "50-60", "50-55"];
    let routes = routes.map(|ports| format!("192.0.2.1:{ports}>127.0.0.1:{ports}"));
    let routes: Vec<&str> = routes.iter().map(String::as_str).collect();
    let plan = samples::plan([auto(&routes), auto(&["192.0.2.1:31-40>127.0.0.2:31-40"])]);
    let all = plan
        .frontends
        .values()
        .flat_map(Rules::may_be_wildcards)
        .map(|endpoint| (TargetId::new(0), endpoint))
        .collect();
    let change = changes(&plan, &State::default(), &State { wildcards: all, ..State::default() }).expect("a change");
    let expected = [("127.0.0.1", [10, 30]), ("127.0.0.1", [31, 40]), ("127.0.0.1", [50, 60]), ("127.0.0.2", [31, 40])];
    let expected = expected.map(|(ip, range)| {
        format!("\n    [{{\"concat\":[\"{ip}\",{{\"range\":[{},{}]}}]}},\"{ip}\"]", range[0], range[1])
    });
    assert_eq!(lines(&change), format!("add element wildcard4{}\n", expected.concat()));
}

#[test]
fn comments_are_cut_at_a_character() {
    assert_eq!(shortened("web"), "web");
    assert_eq!(shortened(&"é".repeat(100)), "é".repeat(63));
    assert_eq!(shortened(&"x".repeat(127)).len(), 127);
}
