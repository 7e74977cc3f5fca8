//! Changes of our table by other programs: each test asserts that the rule set is restored, and that a client is served
//! meanwhile.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use crate::setup::{SECOND, SOON, always, at, command, config, external, holds, page, warm, with};
use crate::support::{
    BACKEND_V4, Client, Daemon, Lab, Namespace, backend_command, conntrack_entries, eventually, http_get_within, nft,
    require_namespaces, serve_http, serve_udp_echo, udp_ask,
};

const PAGE: &str = "198.51.100.1:80";
const DIRECT: &str = "198.51.100.1:82";

/// The blocks of our table as nft lists them, without handles, in an order of their own; `None` if there is no table.
fn table(namespace: &Namespace) -> Option<Vec<String>> {
    let output = namespace.command("nft").args(["-s", "list", "table", "inet", "proxygw"]).output().expect("nft");
    if !output.status.success() {
        return None;
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut blocks: Vec<String> = text
        .split("\n\n")
        .map(|block| block.trim_end_matches(|end: char| end == '}' || end.is_whitespace()).to_owned())
        .collect();
    // The first block begins with the table's own line.
    blocks[0] = blocks[0].trim_start_matches("table inet proxygw {").to_owned();
    blocks.iter_mut().for_each(|block| *block = block.trim().to_owned());
    blocks.sort();
    Some(blocks)
}

/// A table with something of everything: pages, DNAT to this host and to others, ranges, access lists, both families.
struct World {
    lab: Lab,
    daemon: Daemon,
    before: Vec<String>,
    client: Client,
    _echo: crate::support::Server,
}

impl World {
    fn new() -> World {
        let lab = Lab::new();
        let echo = serve_udp_echo(&lab.backend, (BACKEND_V4, 5353).into(), "hello");
        let targets = [
            command("b", &["e=tcp/127.0.0.1:8080"], &backend_command("--tcp 127.0.0.1:8080")),
            external("u", &["e=udp/203.0.113.2:5353", "s=udp/203.0.113.2:7000-7003"]),
            external("p", &["e=tcp/203.0.113.2:5354"]),
            external("cold", &["e=tcp/203.0.113.2:1"]),
        ];
        let mut shifted = always("s", "udp/0.0.0.0:6000", "u:s");
        shifted["listen"] = json!("0.0.0.0:6000-6003");
        let frontends = [
            page("f", "0.0.0.0:80", "b:e"),
            with(page("g", PAGE_OF_G, "b:e"), json!({"allow": ["198.51.100.0/24"], "flow_timeout": "70s"})),
            always("d", "tcp/198.51.100.1:82", "b:e"),
            with(always("u", "udp/0.0.0.0:53", "u:e"), json!({"interfaces": ["clients"]})),
            shifted,
            page("p", "0.0.0.0:91", "p:e"),
            with(always("cold", "tcp/0.0.0.0:90", "cold:e"), json!({"flow_timeout": "7s"})),
        ];
        let daemon = Daemon::start(&lab, &config(&targets, &frontends));
        daemon.await_target("u", "active", SOON);
        warm(&daemon, "b");
        let before = table(&lab.gateway).expect("a table");
        let client = Client::connect(lab.client(), at(PAGE));
        let world = World { lab, daemon, before, client, _echo: echo };
        world.assert_served();
        world
    }

    /// New clients are served as before.
    #[track_caller]
    fn assert_served(&self) {
        for address in [PAGE, DIRECT] {
            let answer = self.lab.client().run(|| http_get_within(at(address), "/", 5 * SECOND));
            let (status, body) = answer.unwrap_or_else(|error| panic!("{address}: {error}\n{}", self.daemon.log()));
            assert!(status == 200 && body.contains("127.0.0.1:8080"), "{address}: {body}\n{}", self.daemon.log());
        }
        let local = self.lab.gateway.run(|| http_get_within(at("127.0.0.1:80"), "/", 5 * SECOND)).expect("an answer");
        assert!(local.1.contains("127.0.0.1:8080"), "{local:?}");
        let listen: SocketAddr = at("198.51.100.1:53");
        let answer = self.lab.client().run(|| udp_ask(listen, b"?", 5 * SECOND)).expect("an answer");
        assert!(answer.contains("198.51.100.2"), "{answer}");
    }

    #[track_caller]
    fn await_repair(&self) {
        let until = Instant::now() + SOON;
        loop {
            let now = table(&self.lab.gateway).unwrap_or_default();
            if now == self.before {
                return;
            }
            let differs = |one: &[String], other: &[String]| {
                one.iter().filter(|block| !other.contains(block)).cloned().collect::<Vec<_>>().join("\n")
            };
            let (lacks, has) = (differs(&self.before, &now), differs(&now, &self.before));
            assert!(Instant::now() < until, "not repaired, lacks {lacks}\nhas {has}\n{}", self.daemon.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The seconds that the open connection's entry has left.
    fn seconds_left(&self) -> u64 {
        let entries = conntrack_entries(&self.lab.gateway);
        let words = ["ESTABLISHED", "dst=198.51.100.1 ", "dport=80 "];
        let entry = entries.iter().find(|entry| words.iter().all(|word| entry.contains(word)));
        entry.and_then(|entry| entry.split_whitespace().nth(4)?.parse().ok()).expect("an entry")
    }

    /// Other programs' scripts change the table; each change is repaired and logged, and no client notices. Each three get
    /// a world of their own, because further repairs come with a delay.
    #[track_caller]
    fn tamper_each(scripts: &[(&str, &str)]) {
        for scripts in scripts.chunks(3) {
            let mut world = World::new();
            scripts.iter().for_each(|(script, logged)| world.tamper(script, logged));
        }
    }

    /// One of them.
    #[track_caller]
    fn tamper(&mut self, script: &str, logged: &str) {
        let log = self.daemon.log().len();
        nft(&self.lab.gateway, script);
        self.await_repair();
        self.assert_served();
        assert!(self.client.ask().contains("127.0.0.1:8080"), "{script}");
        assert!(self.seconds_left() <= 60, "{script}: its timeouts are ours: {}", self.seconds_left());
        let log = &self.daemon.log()[log..];
        let lines: Vec<_> = log.lines().filter(|line| line.contains("table inet proxygw")).collect();
        assert!(lines.len() == 1, "{script}: {lines:#?}");
        assert!(lines[0].contains(logged) && lines[0].contains(" by nft (pid "), "{script}: {lines:#?}");
        assert!(lines[0].ends_with("; restoring it"), "{script}: {lines:#?}");
    }
}

const PAGE_OF_G: &str = "0.0.0.0:81";

#[test]
fn changes_of_elements_and_maps_are_repaired() {
    if !require_namespaces() {
        return;
    }
    World::tamper_each(&[
        ("flush map inet proxygw active_any4", "elements of active_any4 were deleted"),
        ("flush map inet proxygw active_ip4", "elements of active_ip4 were deleted"),
        ("delete element inet proxygw active_ip4 { tcp . 198.51.100.1 . 82 }", "elements of active_ip4 were deleted"),
        ("add element inet proxygw active_any4 { tcp . 99 : drop }", "elements of active_any4 were added"),
        ("flush map inet proxygw ports-6000-6003-to-7000", "elements of ports-6000-6003-to-7000 were deleted"),
        ("flush set inet proxygw allow4-1", "elements of allow4-1 were deleted"),
        ("flush map inet proxygw active_range_any4", "elements of active_range_any4 were deleted"),
        ("add set inet proxygw extra { type inet_service; }", "set or map extra was added"),
    ]);
}

#[test]
fn changes_of_rules_and_chains_are_repaired() {
    if !require_namespaces() {
        return;
    }
    World::tamper_each(&[
        ("flush chain inet proxygw prerouting", "rules of chain prerouting were deleted"),
        ("flush chain inet proxygw output\ndelete chain inet proxygw output", "chain output was deleted"),
        ("insert rule inet proxygw prerouting drop", "rules of chain prerouting were added"),
        ("flush chain inet proxygw timeout-60s", "rules of chain timeout-60s were deleted"),
        ("flush chain inet proxygw guard\ndelete chain inet proxygw guard", "chain guard was deleted"),
    ]);
    let mut world = World::new();
    let mut list = world.lab.gateway.command("nft");
    let listed = list.args(["-a", "list", "chain", "inet", "proxygw", "frontend-0"]).output().expect("nft");
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let handle = listed.lines().find(|line| line.contains("dnat")).and_then(|line| line.split("handle ").nth(1));
    let script = format!("replace rule inet proxygw frontend-0 handle {} drop", handle.expect("a handle").trim());
    world.tamper(&script, "rules of chain frontend-0 were replaced");
}

#[test]
fn changes_of_the_structure_are_repaired() {
    if !require_namespaces() {
        return;
    }
    const EXTRA: &str = "add chain inet proxygw extra { type filter hook forward priority 0; policy drop; }";
    World::tamper_each(&[
        ("add table inet proxygw { flags dormant; }", "the table's flags were set"),
        ("add chain inet proxygw prerouting { policy drop; }", "chain prerouting was added or changed"),
        (EXTRA, "chain extra was added or changed"),
        ("rename chain inet proxygw frontend-0 renamed", "chain renamed was added or changed"),
        ("add counter inet proxygw extra", "object extra was added"),
    ]);
    // Everything but the table and its policies.
    let mut world = World::new();
    let names = |sort: &str| -> Vec<String> {
        let names = world.before.iter().filter_map(|block| block.strip_prefix(sort)?.split(' ').next());
        names.map(str::to_owned).collect()
    };
    let mut script: String =
        names("chain ").iter().map(|chain| format!("flush chain inet proxygw {chain}\n")).collect();
    names("map ").iter().for_each(|map| script += &format!("delete map inet proxygw {map}\n"));
    names("set ").iter().for_each(|set| script += &format!("delete set inet proxygw {set}\n"));
    names("chain ").iter().for_each(|chain| script += &format!("delete chain inet proxygw {chain}\n"));
    world.tamper(&script, "was deleted");
}

#[test]
fn a_missing_table_or_policy_is_reloaded() {
    if !require_namespaces() {
        return;
    }
    let world = World::new();
    for (script, logged) in [
        ("flush ruleset", "table inet proxygw was deleted by nft (pid "),
        ("delete table inet proxygw", "table inet proxygw was deleted by nft (pid "),
        (
            "flush chain inet proxygw timeout-7s\ndelete ct timeout inet proxygw tcp4-7s",
            "table inet proxygw: object tcp4-7s was deleted, rules of chain timeout-7s were deleted by nft (pid ",
        ),
    ] {
        let log = world.daemon.log().len();
        nft(&world.lab.gateway, script);
        world.await_repair();
        world.assert_served();
        let log = &world.daemon.log()[log..];
        let lines: Vec<_> = log.lines().filter(|line| line.contains("table inet proxygw")).collect();
        assert!(lines.len() == 1 && lines[0].contains(logged) && lines[0].ends_with("; reloading it"), "{lines:#?}");
    }
}

#[test]
fn own_and_unrelated_changes_are_not_repaired() {
    if !require_namespaces() {
        return;
    }
    let world = World::new();
    let _backend = serve_http(&world.lab.backend, (BACKEND_V4, 5354).into(), "hello");
    for _ in 0..10 {
        nft(&world.lab.gateway, "add table inet other\nadd chain inet other c\nadd rule inet other c drop");
        nft(&world.lab.gateway, "delete table inet other\nadd table ip proxygw\ndelete table ip proxygw");
        world.daemon.request(10, json!({"name": "p"}));
        world.daemon.await_target("p", "inactive", SOON);
        warm(&world.daemon, "p");
    }
    world.daemon.request(10, json!({"name": "p"}));
    world.await_repair();
    let log = world.daemon.log();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("WARN") || line.contains("ERROR")).collect();
    assert!(!lines.iter().any(|line| line.contains("table inet proxygw")), "{lines:#?}");
}

#[test]
fn repairs_slow_down_when_a_program_keeps_changing_the_table() {
    if !require_namespaces() {
        return;
    }
    let world = World::new();
    let until = Instant::now() + 12 * SECOND;
    let mut rounds = 0;
    while Instant::now() < until || rounds < 50 {
        nft(&world.lab.gateway, "flush map inet proxygw active_any4");
        rounds += 1;
    }
    let log = world.daemon.log();
    let count = |word: &str| log.lines().filter(|line| line.contains(word)).count();
    assert_eq!(count("keeps changing it"), 1, "{log}");
    let repairs = count("; restoring it");
    assert!((4..=8).contains(&repairs), "{repairs} repairs after {rounds} changes\n{log}");
    // It ends, and so does its effect.
    eventually("the table is repaired", 20 * SECOND, || table(&world.lab.gateway).as_ref() == Some(&world.before));
    world.assert_served();
    let repairs = || world.daemon.log().lines().filter(|line| line.contains("; restoring it")).count();
    let last = repairs();
    holds("nothing is repaired that is whole", Duration::from_secs(10), || repairs() == last);
    world.assert_served();
    nft(&world.lab.gateway, "flush map inet proxygw active_any4");
    eventually("it is repaired at once", 3 * SECOND / 2, || table(&world.lab.gateway).as_ref() == Some(&world.before));
}

/// The daemon cannot read while another program makes more notifications than fit, and changes our table among them.
#[test]
fn changes_are_repaired_after_lost_notifications() {
    if !require_namespaces() {
        return;
    }
    let mut world = World::new();
    world.daemon.signal(Signal::STOP);
    let many: Vec<String> = (0..60_000).map(|n| format!("10.{}.{}.{}", n / 65536, n / 256 % 256, n % 256)).collect();
    let set = "add table inet other\nadd set inet other many { type ipv4_addr; }\nadd element inet other many";
    nft(&world.lab.gateway, &format!("{set} {{ {} }}", many.join(", ")));
    nft(&world.lab.gateway, "delete table inet other");
    nft(&world.lab.gateway, "flush chain inet proxygw prerouting");
    world.daemon.signal(Signal::CONT);
    world.await_repair();
    world.assert_served();
    assert!(world.client.ask().contains("127.0.0.1:8080"));
    assert!(world.seconds_left() <= 60, "its timeouts are ours");
    let log = world.daemon.log();
    assert!(log.contains("notifications of changes were lost; restoring it"), "{log}");
    holds("it is restored once", 2 * SECOND, || world.daemon.log().matches("; restoring it").count() == 1);
}

/// Our own notifications can be more than fit, too.
#[test]
fn a_large_table_is_loaded_and_reloaded_once() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let targets = [external("b", &["e=tcp/203.0.113.2:8080"])];
    let frontends: Vec<_> =
        (0..3000).map(|n| always(&format!("f{n}"), &format!("tcp/198.51.100.1:{}", 1000 + n), "b:e")).collect();
    let _backend = serve_http(&lab.backend, (BACKEND_V4, 8080).into(), "hello");
    let daemon = Daemon::start(&lab, &config(&targets, &frontends));
    daemon.await_target("b", "active", SOON);
    let get = || lab.client().run(|| http_get_within(at("198.51.100.1:3999"), "/", 5 * SECOND));
    get().expect("an answer");
    let before = table(&lab.gateway).expect("a table");
    nft(&lab.gateway, "flush ruleset");
    eventually("it is loaded again", SOON, || table(&lab.gateway).as_ref() == Some(&before));
    get().expect("an answer");
    nft(&lab.gateway, "flush chain inet proxygw frontend-2999");
    eventually("it is repaired", SOON, || table(&lab.gateway).as_ref() == Some(&before));
    get().expect("an answer");
    let lines = || daemon.log().lines().filter(|line| line.contains("table inet proxygw")).count();
    holds("nothing else is done", 2 * SECOND, || lines() == 2);
}
