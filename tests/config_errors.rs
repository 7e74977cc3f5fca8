//! Errors of a configuration with the daemon's own plugins. Errors that need no plugin are tested in src/config.

mod config_kinds;

use config_kinds::parse;

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

#[test]
fn the_good_one_is_good() {
    parse(GOOD).expect("a good configuration");
}

/// Each replaces one string of the good configuration and gives all errors that follow.
const SPOILT: &[(&str, &str, &[&str])] = &[
    // Unknown keys, at every level.
    (
        "kind: static:always",
        "kind: static:always\n    options: {a: 1}",
        &[r#"f:12:15: frontends[0] "public": options: unknown key "a": no keys are known here"#],
    ),
    (
        "kind: static:always",
        "kind: packet:hold\n    options: {packets: 0, on_failure: give up, hold_timeout: 2h}\n    allow: [192.0.2.1/24]\n    interfaces: []",
        &[
            r#"f:12:24: frontends[0] "public": options.packets: 0 is out of bounds: from 1 to 1048576"#,
            r#"f:12:39: frontends[0] "public": options.on_failure: "give up" is not known: write drop or reject"#,
            r#"f:12:62: frontends[0] "public": options.hold_timeout: 7200s is out of bounds: more than 0s, at most 1h"#,
            r#"f:13:13: frontends[0] "public": allow: [0]: "192.0.2.1/24" has bits set after its prefix: did you mean 192.0.2.0/24?"#,
            r#"f:14:17: frontends[0] "public": interfaces: an empty list would deny every client: leave it out to allow every client"#,
        ],
    ),
    (
        "version: v1",
        "version: v1\nplugins: {ctl: {sockets: x}}",
        &[r#"f:2:17: plugins.ctl: unknown key "sockets": did you mean socket?"#],
    ),
    // The log and the plugins.
    (
        "version: v1",
        "version: v1\nplugins: {aws: {}}",
        &[r#"f:2:11: plugins: unknown plugin "aws": this program has ctl, static and packet"#],
    ),
    (
        "version: v1",
        "version: v1\nplugins:\n  ctl: {codec: xml}",
        &[r#"f:3:16: plugins.ctl.codec: unknown codec "xml": write json or cbor"#],
    ),
    // Kinds.
    (
        "static:none",
        "static:nine",
        &[
            r#"f:4:11: targets[0] "backend": kind: unknown target kind "static:nine": the target kinds are static:cmd and static:none"#,
        ],
    ),
    (
        "static:none",
        "static:http",
        &[
            r#"f:4:11: targets[0] "backend": kind: "static:http" is a frontend kind: the target kinds are static:cmd and static:none"#,
        ],
    ),
    (
        "static:always",
        "aws:ec2",
        &[
            r#"f:11:11: frontends[0] "public": kind: unknown frontend kind "aws:ec2": the frontend kinds are static:always, static:http and packet:hold"#,
        ],
    ),
    (
        "static:always",
        "static:cmd",
        &[
            r#"f:11:11: frontends[0] "public": kind: "static:cmd" is a target kind: the frontend kinds are static:always, static:http and packet:hold"#,
        ],
    ),
    // Options.
    (
        "static:none",
        "static:cmd",
        &[r#"f:3:5: targets[0] "backend": options: command is missing: a string is required"#],
    ),
    (
        "static:none",
        "static:cmd\n    options:",
        &[r#"f:5:13: targets[0] "backend": options: command is missing: a string is required"#],
    ),
    (
        "static:none",
        "static:cmd\n    options:\n      command: 5\n      stop_grace: 5",
        &[
            r#"f:6:16: targets[0] "backend": options.command: a string is expected, found the number 5: quote it, "5""#,
            r#"f:7:19: targets[0] "backend": options.stop_grace: 5 has no unit: write 5s, 5m or 5h"#,
        ],
    ),
    (
        "static:none",
        "static:cmd\n    options: [a]",
        &[r#"f:5:15: targets[0] "backend": options: a mapping is expected, found a list"#],
    ),
    // What is left out is the endpoint's, and judged as if it were written.
    (
        "kind: static:always\n    protocol: tcp\n    listen: 0.0.0.0:80\n    flow_timeout: 1m\n    target: backend:http",
        "kind: static:http\n    options: {content: x}\n    listen: 0.0.0.0:80\n    flow_timeout: 1m\n    target: backend:dns",
        &[
            r#"f:12:15: frontends[0] "public": options: static:http serves HTTP, so the protocol of the frontend must be tcp"#,
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
fn a_page_on_too_many_ports_is_refused() {
    let text = |last: u16| {
        GOOD.replace("kind: static:always", "kind: static:http\n    options: {content: x}")
            .replace("0.0.0.0:80", &format!("[0.0.0.0:1-{last}, 10.0.0.9:100-{}]", 99 + last))
            .replace("10.0.0.1:8080", &format!("10.0.0.1:1001-{}", 1000 + last))
    };
    parse(&text(32)).expect("64 sockets");
    let expected = r#"f:12:15: frontends[0] "public": options: static:http would need 66 sockets for this listen, at most 64 are possible; packet:hold needs none"#;
    assert_eq!(parse(&text(33)).map(|_| ()), Err(expected.to_owned()));
}
