//! Errors and warnings of a configuration, without plugins: place, element, mistake and remedy.

use super::*;

/// Reads a text as if every kind existed and took no options. Returns the warnings.
fn parse(text: &str) -> Result<Vec<String>, String> {
    let finish = |draft: Draft<'_>| {
        draft.targets.into_iter().for_each(|target| target.section.finish());
        draft.frontends.into_iter().for_each(|frontend| frontend.section.finish());
    };
    super::parse("f", text, finish).map(|((), warnings)| warnings).map_err(|error| error.to_string())
}

/// A good configuration, to be spoilt. Targets begin on line 2, frontends on line 9.
const GOOD: &str = "\
version: v1
targets:
  - name: backend
    kind: static:none
    idle_timeout: 5m
    endpoints:
      - {name: http, protocol: tcp, address: 10.0.0.1:8080}
      - {name: dns, protocol: udp, address: 10.0.0.1:53}
frontends:
  - name: public
    kind: static:always
    protocol: tcp
    listen: 0.0.0.0:80
    flow_timeout: 1m
    target: backend:http
";

/// Each replaces one string of the good configuration and gives all errors that follow.
const SPOILT: &[(&str, &str, &[&str])] = &[
    // The version.
    ("version: v1", "version: v2", &[r#"f:1:10: version: unknown version "v2": write v1"#]),
    ("version: v1", "version: 1", &["f:1:10: version: v1 is expected, found the number 1"]),
    ("version: v1", "version:", &["f:1:9: version: v1 is expected, found nothing"]),
    ("version: v1\n", "", &["f:1:1: version is missing: v1 is required"]),
    (
        "version: v1",
        "verson: v1",
        &["f:1:1: version is missing: v1 is required", r#"f:1:1: unknown key "verson": did you mean version?"#],
    ),
    // Unknown keys, at every level.
    (
        "version: v1",
        "version: v1\nfoo: 1",
        &[r#"f:2:1: unknown key "foo": known keys are version, log, plugins, targets and frontends"#],
    ),
    (
        "kind: static:none",
        "kind: static:none\n    idle: 5m",
        &[
            r#"f:5:5: targets[0] "backend": unknown key "idle": known keys are name, kind, idle_timeout, min_uptime, max_uptime, endpoints, readiness and options"#,
        ],
    ),
    (
        "flow_timeout: 1m",
        "flow_timeout: 1m\n    masquerade: maybe",
        &[r#"f:15:17: frontends[0] "public": masquerade: "maybe" is not known: write auto, always or never"#],
    ),
    (
        "idle_timeout: 5m",
        "idle_timeout: 5m\n    min_uptime: 2m\n    max_uptime: 1m",
        &[r#"f:7:17: targets[0] "backend": max_uptime: shorter than min_uptime: no target can meet both"#],
    ),
    (
        "flow_timeout: 1m",
        "flow_timout: 1m",
        &[
            r#"f:10:5: frontends[0] "public": flow_timeout is missing: a duration such as 30s or 5m is required"#,
            r#"f:14:5: frontends[0] "public": unknown key "flow_timout": did you mean flow_timeout?"#,
        ],
    ),
    (
        "protocol: udp",
        "protocol: udp, port: 53",
        &[
            r#"f:8:36: targets[0] "backend": endpoints[1] "dns": unknown key "port": known keys are name, protocol and address"#,
        ],
    ),
    (
        "version: v1",
        "version: v1\nlog: {file: x}",
        &[r#"f:2:7: log: unknown key "file": known keys are output and level"#],
    ),
    // The log and the plugins.
    (
        "version: v1",
        "version: v1\nlog: {level: warning}",
        &[r#"f:2:14: log.level: "warning" is not a level: write WARN"#],
    ),
    (
        "version: v1",
        "version: v1\nlog: {level: 3, output: ''}",
        &[
            r#"f:2:14: log.level: a string is expected, found the number 3: quote it, "3""#,
            "f:2:25: log.output: a path cannot be empty",
        ],
    ),
    ("version: v1", "version: v1\nlog: stderr", &[r#"f:2:6: log: a mapping is expected, found the string "stderr""#]),
    ("version: v1", "version: v1\nplugins: [ctl]", &["f:2:11: plugins: a mapping is expected, found a list"]),
    // Names.
    (
        "name: backend",
        "name: 8080",
        &[
            r#"f:3:11: targets[0]: name: a string is expected, found the number 8080: quote it, "8080""#,
            r#"f:15:13: frontends[0] "public": target: unknown target "backend": the file has none"#,
        ],
    ),
    (
        "name: public",
        "name: true",
        &["f:10:11: frontends[0]: name: a string is expected, found the boolean true: quote it"],
    ),
    ("name: public", "name: null", &["f:10:11: frontends[0]: name: a name is expected, found nothing"]),
    ("name: public", "name: ''", &[r#"f:10:11: frontends[0] "": name: a name cannot be empty"#]),
    (
        "name: public",
        "name: a:b",
        &[
            r#"f:10:11: frontends[0] "a:b": name: "a:b" has a colon, which separates names in references: use another character"#,
        ],
    ),
    (
        "name: public",
        "name: a b",
        &[
            r#"f:10:11: frontends[0] "a b": name: "a b" has the character ' ': a name has no spaces and no control characters"#,
        ],
    ),
    (
        "name: public",
        r#"name: "a\e""#,
        &[
            r#"f:10:11: frontends[0] "a\u{1b}": name: "a\u{1b}" has the character '\u{1b}': a name has no spaces and no control characters"#,
        ],
    ),
    (
        "  - name: public\n",
        "  - {}\n  - name: public\n",
        &[
            "f:10:5: frontends[0]: name is missing: a name is required",
            "f:10:5: frontends[0]: kind is missing: a kind, namespace:name, such as static:cmd is required",
            "f:10:5: frontends[0]: listen is missing: an address such as 0.0.0.0:80 or [::]:80 is required",
            "f:10:5: frontends[0]: flow_timeout is missing: a duration such as 30s or 5m is required",
            "f:10:5: frontends[0]: target is missing: an endpoint, target:endpoint, such as backend:http is required",
        ],
    ),
    (
        "name: dns",
        "name: http",
        &[
            r#"f:8:16: targets[0] "backend": endpoints[1] "http": name: "http" is already the name of endpoints[0]: names are unique (line 7)"#,
        ],
    ),
    // Kinds.
    (
        "static:none",
        "none",
        &[r#"f:4:11: targets[0] "backend": kind: "none" is not a kind: write namespace:name, such as static:cmd"#],
    ),
    // Durations.
    ("5m", "30", &[r#"f:5:19: targets[0] "backend": idle_timeout: 30 has no unit: write 30s, 30m or 30h"#]),
    ("5m", "1.5", &[r#"f:5:19: targets[0] "backend": idle_timeout: 1.5 has no unit: write a duration such as 1.5s"#]),
    (
        "5m",
        "5M",
        &[
            r#"f:5:19: targets[0] "backend": idle_timeout: "5M" is not a duration: minutes are a small m, and months have no fixed length"#,
        ],
    ),
    (
        "5m",
        "0",
        &[r#"f:5:19: targets[0] "backend": idle_timeout: 0 is not a timeout: write a duration such as 30s or 5m"#],
    ),
    (
        "5m",
        "0s",
        &[r#"f:5:19: targets[0] "backend": idle_timeout: 0 is not a timeout: write a duration such as 30s or 5m"#],
    ),
    ("5m", "-5m", &[r#"f:5:19: targets[0] "backend": idle_timeout: "-5m" is negative: a duration cannot be"#]),
    (
        "5m",
        "-5",
        &[
            r#"f:5:19: targets[0] "backend": idle_timeout: -5 is negative and has no unit: write a duration such as 30s"#,
        ],
    ),
    ("5m", "1us", &[r#"f:5:19: targets[0] "backend": idle_timeout: 1µs is too short: at least 1ms"#]),
    ("5m", "8761h", &[r#"f:5:19: targets[0] "backend": idle_timeout: too long: at most 365 days (8760h)"#]),
    (
        "5m",
        "[5m]",
        &[r#"f:5:20: targets[0] "backend": idle_timeout: a duration such as 30s or 5m is expected, found a list"#],
    ),
    (
        "1m",
        "0",
        &[r#"f:14:19: frontends[0] "public": flow_timeout: 0 is not a timeout: write a duration such as 30s or 5m"#],
    ),
    (
        "1m",
        "17179870s",
        &[
            r#"f:14:19: frontends[0] "public": flow_timeout: too long: at most 24 days (576h), because longer kernel timers wrap"#,
        ],
    ),
    // Addresses and protocols.
    (
        "0.0.0.0:80",
        "0.0.0.0:0",
        &[r#"f:13:13: frontends[0] "public": listen: port 0 is not a port: write one from 1 to 65535"#],
    ),
    (
        "0.0.0.0:80",
        "80",
        &[
            r#"f:13:13: frontends[0] "public": listen: an address such as 0.0.0.0:80 or [::]:80 is expected, found the number 80"#,
        ],
    ),
    (
        "0.0.0.0:80",
        "224.0.0.1:80",
        &[r#"f:13:13: frontends[0] "public": listen: 224.0.0.1:80 is a multicast address: write a unicast one"#],
    ),
    (
        "0.0.0.0:80",
        "'[::]:80'",
        &[
            r#"f:13:13: frontends[0] "public": listen: [::]:80 is IPv6, but the endpoint backend:http at 10.0.0.1:8080 has no IPv6 address: add one, or remove this listen"#,
        ],
    ),
    (
        "10.0.0.1:8080",
        "0.0.0.0:8080",
        &[
            r#"f:7:46: targets[0] "backend": endpoints[0] "http": address: 0.0.0.0:8080 is the unspecified address: write the address to route to, such as 127.0.0.1:8080"#,
        ],
    ),
    (
        "10.0.0.1:8080",
        "255.255.255.255:8080",
        &[
            r#"f:7:46: targets[0] "backend": endpoints[0] "http": address: 255.255.255.255:8080 is the broadcast address: write a unicast one"#,
        ],
    ),
    (
        "protocol: tcp\n",
        "protocol: TCP\n",
        &[r#"f:12:15: frontends[0] "public": protocol: "TCP" is not a protocol: write tcp or udp"#],
    ),
    (
        "protocol: tcp\n",
        "protocol: udp\n",
        &[
            r#"f:12:15: frontends[0] "public": protocol: udp, but the endpoint backend:http uses tcp: write tcp, or remove this key"#,
        ],
    ),
    // References.
    (
        "backend:http",
        "backend",
        &[
            r#"f:15:13: frontends[0] "public": target: the target "backend" has 2 endpoints: write backend:ENDPOINT with one of http and dns"#,
        ],
    ),
    (
        "backend:http",
        "a:b:c",
        &[
            r#"f:15:13: frontends[0] "public": target: "a:b:c" is not an endpoint: write target:endpoint, such as backend:http"#,
        ],
    ),
    // Several addresses, and ranges of ports.
    (
        "0.0.0.0:80",
        "[]",
        &[
            r#"f:13:13: frontends[0] "public": listen: an empty list: an address such as 0.0.0.0:80 or [::]:80 is required"#,
        ],
    ),
    (
        "0.0.0.0:80",
        "[0.0.0.0:80, 192.0.2.1]",
        &[
            r#"f:13:14: frontends[0] "public": listen: [1]: "192.0.2.1" is not an address: the port is missing, write 192.0.2.1:PORT"#,
        ],
    ),
    (
        "0.0.0.0:80",
        "[0.0.0.0:80, 192.0.2.1:80, 0.0.0.0:80, '[::1]:80']",
        &[
            r#"f:13:14: frontends[0] "public": listen: [::1]:80 is IPv6, but the endpoint backend:http at 10.0.0.1:8080 has no IPv6 address: add one, or remove this listen"#,
            r#"f:13:14: frontends[0] "public": listen: 192.0.2.1:80 overlaps with 0.0.0.0:80 before it: remove one"#,
            r#"f:13:14: frontends[0] "public": listen: 0.0.0.0:80 overlaps with 0.0.0.0:80 before it: remove one"#,
        ],
    ),
    (
        "0.0.0.0:80",
        "0.0.0.0:80-89",
        &[
            r#"f:13:13: frontends[0] "public": listen: 0.0.0.0:80-89 has 10 ports, but the endpoint backend:http at 10.0.0.1:8080 has 1 port: the numbers must match"#,
        ],
    ),
    (
        "0.0.0.0:80",
        "[192.0.2.1:80, 10.0.0.1:8080, 10.0.0.1:8081]",
        &[
            r#"f:13:14: frontends[0] "public": listen: 10.0.0.1:8080 is the address of the endpoint backend:http (10.0.0.1:8080) itself, so nothing would be translated, and its use could not be tracked: give one of them another port or address"#,
        ],
    ),
    (
        "0.0.0.0:80",
        "0.0.0.0:89-80",
        &[
            r#"f:13:13: frontends[0] "public": listen: "0.0.0.0:89-80" is a range that ends before it begins: write 80-89"#,
        ],
    ),
    (
        "10.0.0.1:8080",
        "[10.0.0.1:8080, '[fd00::1]:80', 10.0.0.2:8080]",
        &[
            r#"f:7:47: targets[0] "backend": endpoints[0] "http": address: [2]: 10.0.0.2:8080 is a second IPv4 address, after 10.0.0.1:8080: at most one of each family"#,
        ],
    ),
    (
        "10.0.0.1:8080",
        "[10.0.0.1:8080, '[::]:80']",
        &[
            r#"f:7:47: targets[0] "backend": endpoints[0] "http": address: [1]: [::]:80 is the unspecified address: write the address to route to, such as [::1]:80"#,
        ],
    ),
    (
        "listen: 0.0.0.0:80",
        "listen: '[::]:80'\n    dual_stack: true",
        &[
            r#"f:13:13: frontends[0] "public": listen: [::]:80 is IPv6, but the endpoint backend:http at 10.0.0.1:8080 has no IPv6 address: add one, or remove this listen"#,
        ],
    ),
    (
        "listen: 0.0.0.0:80",
        "listen: 0.0.0.0:80\n    dual_stack: true",
        &[
            r#"f:14:17: frontends[0] "public": dual_stack: needs exactly one listen, on [::]: write listen: "[::]:80", or list the addresses of both families and remove this key"#,
        ],
    ),
    (
        "listen: 0.0.0.0:80",
        "listen: 0.0.0.0:80\n    dual_stack: both",
        &[r#"f:14:17: frontends[0] "public": dual_stack: true or false is expected, found the string "both""#],
    ),
    // What is left out is the endpoint's, and judged as if it were written.
    (
        "backend:http",
        "front:http",
        &[r#"f:15:13: frontends[0] "public": target: unknown target "front": the file has backend"#],
    ),
    (
        "backend:http",
        "backend:smtp",
        &[
            r#"f:15:13: frontends[0] "public": target: the target "backend" has no endpoint "smtp": it has http and dns"#,
        ],
    ),
    // Lists.
    (
        "    endpoints:\n",
        "    endpoints: []\n    readiness:\n",
        &[
            r#"f:6:16: targets[0] "backend": endpoints: at least one is required, with name, protocol and address"#,
            r#"f:8:10: targets[0] "backend": readiness: a mapping is expected, found a list"#,
        ],
    ),
    (
        "  - name: backend",
        "  - x\n  - name: backend",
        &[r#"f:3:5: targets[0]: a mapping is expected, found the string "x""#],
    ),
    ("  - name: backend", "  -\n  - name: backend", &["f:3:4: targets[0]: a mapping is expected, found nothing"]),
    // Readiness.
    (
        "5m",
        "5m\n    readiness: {probe: ping}",
        &[
            r#"f:6:24: targets[0] "backend": readiness.probe: "ping" is not a probe: write auto, bound, connect, http or none"#,
        ],
    ),
    (
        "5m",
        "5m\n    readiness: {path: /}",
        &[r#"f:6:23: targets[0] "backend": readiness.path: only for the probe http: remove it, or write probe: http"#],
    ),
    (
        "5m",
        "5m\n    readiness: {probe: http, path: healthz}",
        &[
            r#"f:6:36: targets[0] "backend": readiness.path: "healthz" does not begin with a slash: write a path such as /healthz"#,
        ],
    ),
    (
        "5m",
        "5m\n    readiness: {probe: http, path: '/a b'}",
        &[
            r#"f:6:36: targets[0] "backend": readiness.path: "/a b" has a character that a request cannot have: write it as %XX"#,
        ],
    ),
    (
        "5m",
        "5m\n    readiness: {deadline: 0, timeout: 1s}",
        &[
            r#"f:6:27: targets[0] "backend": readiness.deadline: 0 is not a timeout: write a duration such as 30s or 5m"#,
            r#"f:6:30: targets[0] "backend": readiness: unknown key "timeout": known keys are probe, path and deadline"#,
        ],
    ),
    // What is no YAML, or none of ours.
    ("version: v1", "version: v1\nversion: v1", &[r#"f:2:1: duplicate key "version""#]),
    (
        "  - name: public",
        "\t- name: public",
        &[
            "f:10:1: found character that cannot start any token, while scanning for the next token (this is a tab: indent with spaces)",
        ],
    ),
];

#[test]
fn each_mistake_has_its_place_and_its_remedy() {
    let mut wrong = Vec::new();
    for (good, bad, expected) in SPOILT {
        assert!(GOOD.contains(good), "{good}");
        let text = GOOD.replacen(good, bad, 1);
        let error = parse(&text).map(|_| ()).expect_err(bad);
        if !error.lines().eq(expected.iter().copied()) {
            wrong.push(format!("{bad}\nreturns\n{error}\ninstead of\n{}", expected.join("\n")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn whole_files() {
    for (text, expected) in [
        ("", "f:1:1: version is missing: v1 is required"),
        ("# nothing\n", "f:2:1: version is missing: v1 is required"),
        ("just text\n", r#"f:1:1: a mapping is expected, found the string "just text""#),
        ("- version: v1\n", "f:1:3: a mapping is expected, found a list"),
        ("version: v1\ntargets: {a: 1}\n", "f:2:11: targets: a list is expected, found a mapping"),
        (
            "version: v1\n---\nversion: v1\n",
            "f:3:1: more than one document: remove the --- between them, or all but the first",
        ),
    ] {
        assert_eq!(parse(text).map(|_| ()), Err(expected.to_owned()), "{text:?}");
    }
}

#[test]
fn a_hundred_mistakes_are_listed() {
    let elements: String = (0..1000).map(|_| "  - {}\n").collect();
    let error = parse(&format!("version: v1\ntargets:\n{elements}")).map(|_| ()).expect_err("bad");
    let lines: Vec<&str> = error.lines().collect();
    assert_eq!(lines.len(), 101);
    assert!(lines[0].contains("targets[0]"), "{}", lines[0]);
    assert!(lines[99].contains("targets[24]: "), "{}", lines[99]);
    assert_eq!(lines[100], "f: and 3900 more");
}

/// A frontend on a free line of its own.
fn frontend(name: &str, protocol: &str, listen: &str, target: &str) -> String {
    format!(
        "  - {{name: {name}, kind: static:always, protocol: {protocol}, listen: {listen}, flow_timeout: 1m, target: {target}}}\n"
    )
}

#[test]
fn overlaps_name_both_frontends() {
    for (protocol, listen, target, expected) in [
        ("tcp", "0.0.0.0:80", "backend:http", Some("0.0.0.0:80/tcp")),
        ("tcp", "10.0.0.9:80", "backend:http", Some("10.0.0.9:80/tcp")),
        ("tcp", "10.0.0.9:81", "backend:http", None),
        ("tcp", "[10.0.0.9:81,10.0.0.9:80]", "backend:http", Some("10.0.0.9:80/tcp")),
        ("udp", "0.0.0.0:80", "backend:dns", None),
    ] {
        let text = GOOD.to_owned() + &frontend("second", protocol, listen, target);
        let expected = expected.map(|own| {
            format!(
                r#"f:16:{}: frontends[1] "second": listen: {own} overlaps with frontends[0] "public" on 0.0.0.0:80: a packet could go to either (line 13)"#,
                // A list's place is its first element.
                if listen.starts_with('[') { 65 } else { 64 }
            )
        });
        assert_eq!(parse(&text).map(|_| ()).err(), expected, "{listen}");
    }
}

/// Four frontends on ranges, the last of which overlaps with the second.
#[test]
fn overlaps_of_ranges_are_found() {
    let ranges =
        [("a", "0.0.0.0:100-109"), ("b", "10.0.0.9:110-119"), ("c", "10.0.0.8:110-119"), ("d", "10.0.0.9:101-110")];
    let frontends: String = ranges.iter().map(|(name, listen)| frontend(name, "udp", listen, "games:udp")).collect();
    let target = "  - {name: games, kind: static:none, idle_timeout: 1m, endpoints: [{name: udp, protocol: udp, address: '10.0.0.1:200-209'}]}\n";
    let text = format!("version: v1\ntargets:\n{target}frontends:\n{frontends}");
    let expected = r#"f:8:59: frontends[3] "d": listen: 10.0.0.9:101-110/udp overlaps with frontends[1] "b" on 10.0.0.9:110-119: a packet could go to either (line 6)"#;
    assert_eq!(parse(&text).map(|_| ()), Err(expected.to_owned()));
}

#[test]
fn ranges_to_other_ports_are_bounded() {
    let target = |first: u16| {
        format!(
            "  - {{name: t{first}, kind: static:none, idle_timeout: 1m, endpoints: [{{name: udp, protocol: udp, address: '10.0.0.1:{first}-{}'}}]}}\n",
            first + 29_999
        )
    };
    let targets: String = [2, 3, 4].map(target).concat();
    let listen = |ip: u8| format!("10.0.1.{ip}:1-30000");
    let shared = [
        frontend("a", "udp", &listen(1), "t2"),
        frontend("b", "udp", &listen(2), "t2"),
        frontend("c", "udp", &listen(3), "t3"),
    ];
    let text = format!("version: v1\ntargets:\n{targets}frontends:\n{}", shared.concat());
    parse(&text).expect("two maps of 30,000 ports");
    let text = text + &frontend("d", "udp", &listen(4), "t4");
    let expected = "f:7:6: frontends: ranges that lead to other ports have 90000 ports in total, at most 65536 are supported: give endpoints the ports of their frontends";
    assert_eq!(parse(&text).map(|_| ()), Err(expected.to_owned()));
}

#[test]
fn a_duplicate_name_has_both_places() {
    let text = GOOD.to_owned() + &frontend("public", "tcp", "10.0.0.9:81", "backend:http");
    assert_eq!(
        parse(&text).map(|_| ()),
        Err(r#"f:16:12: frontends[1] "public": name: "public" is already the name of frontends[0]: names are unique (line 10)"#.to_owned())
    );
}

#[test]
fn lists_of_targets_are_cut() {
    let targets: String = (0..20)
        .map(|i| {
            format!("  - {{name: t{i}, kind: static:none, idle_timeout: 1m, endpoints: [{{name: a, protocol: tcp, address: '10.0.0.1:1'}}]}}\n")
        })
        .collect();
    let text = format!("version: v1\ntargets:\n{targets}frontends:\n{}", frontend("f", "tcp", "0.0.0.0:80", "x:a"));
    let error = parse(&text).map(|_| ()).expect_err("an unknown target");
    assert!(
        error.ends_with(r#"unknown target "x": the file has t0, t1, t2, t3, t4, t5, t6, t7, t8, t9 and 10 more"#),
        "{error}"
    );
}

#[test]
fn long_values_are_cut() {
    let long = "x".repeat(100_000);
    let text = GOOD.replacen("name: public", &format!("name: {long}"), 1);
    let error = parse(&text).map(|_| ()).expect_err("a long name");
    assert!(error.len() < 300, "{error}");
    assert!(error.contains("has 100000 bytes: a name has at most 128"), "{error}");
}

#[test]
fn a_loopback_endpoint_behind_ipv6_is_a_warning() {
    let text =
        GOOD.replace("10.0.0.1:8080", "[10.0.0.1:8080, '[::1]:8080']").replace("0.0.0.0:80", "[0.0.0.0:80, '[::]:80']");
    let expected = "f:13:14: frontends[0] \"public\": listen: on [::]:80, only clients on this host can reach the endpoint \
                    backend:http at [::1]:8080, because IPv6 has no route_localnet: let the endpoint listen on an address of \
                    an interface, or add IPv4 addresses to both";
    assert_eq!(parse(&text), Ok(vec![expected.to_owned()]));
    assert_eq!(parse(&text.replace("[::]:80", "[::1]:80")), Ok(Vec::new()));
    assert_eq!(parse(GOOD), Ok(Vec::new()));
}

#[test]
fn warnings_are_bounded() {
    let frontends: String =
        (1..=150).map(|port| frontend(&format!("f{port}"), "tcp", &format!("'[::]:{port}'"), "b")).collect();
    let target = "{name: b, kind: a:b, idle_timeout: 1m, endpoints: [{name: x, protocol: tcp, address: '[::1]:8080'}]}";
    let warnings = parse(&format!("version: v1\ntargets: [{target}]\nfrontends:\n{frontends}")).expect("warnings only");
    assert_eq!(warnings.len(), 100);
    assert!(warnings[99].starts_with("f:103:"), "{}", warnings[99]);
}

#[test]
fn a_section_is_read_without_the_rest() {
    let read = |text: &str| {
        let read = |section: &mut Section<'_>| section.optional::<String>("socket");
        with_text_section("f", text, "ctl", read).map_err(|error| error.to_string())
    };
    for (text, expected) in [
        ("version: v1\n", None),
        ("version: v1\nplugins: {aws: {x: 1}, ctl: {socket: /s, x: 1}}\ntargets: [{kind: aws:ec2}]\n", Some("/s")),
        ("version: v1\nplugins: {ctl: {socket: /s}}\ntargets: [\n", Some("/s")),
    ] {
        assert_eq!(read(text), Ok(expected.map(str::to_owned)), "{text}");
    }
    for (text, expected) in [
        ("version: v2\n", r#"f:1:10: version: unknown version "v2": write v1"#),
        ("plugins: {}\n", "f:1:1: version is missing: v1 is required"),
        ("version: v1\nplugins: {ctl: 5}\n", "f:2:16: plugins.ctl: a mapping is expected, found the number 5"),
        (
            "version: v1\nlog: {a: b}\nplugins: {ctl: {socket: 5}}\ntargets: [\n",
            r#"f:3:25: plugins.ctl.socket: a string is expected, found the number 5: quote it, "5""#,
        ),
    ] {
        assert_eq!(read(text), Err(expected.to_owned()), "{text}");
    }
}

#[test]
fn a_large_text_is_refused() {
    let text = |size: usize| format!("version: v1\n{}", "#".repeat(size - 12));
    assert_eq!(parse(&text(file::MAX_SIZE)), Ok(Vec::new()));
    assert_eq!(parse(&text(file::MAX_SIZE + 1)), Err("f: is larger than 8 MiB".to_owned()));
}

/// The first problems of the file are kept, in whatever order they are found.
#[test]
fn the_first_problems_are_listed() {
    let elements: String = (0..600).map(|_| "  - {name: a}\n").collect();
    let error = parse(&format!("frontends:\n{elements}version: v1\n")).expect_err("many problems");
    let lines: Vec<&str> = error.lines().collect();
    assert_eq!(
        lines[0],
        "f:2:6: frontends[0] \"a\": kind is missing: a kind, namespace:name, such as static:cmd is required"
    );
    assert_eq!(lines.last(), Some(&"f: and 2899 more"));
    let places: Vec<usize> = lines[..100].iter().filter_map(|line| line.split(':').nth(1)?.parse().ok()).collect();
    assert!(places.len() == 100 && places.is_sorted(), "{places:?}");
}
