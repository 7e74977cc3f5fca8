//! The schemas accept what the daemon accepts, and refuse what it refuses wherever a schema can.

mod config_kinds;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use config_kinds::parse;

const CONFIG: &str = "configs/proxygw.schema.yaml";
const PLUGINS: &str = "configs/plugins.schema.yaml";

/// The example of the README of v1, in which every text of the table below is replaced.
const EXAMPLE: &str = include_str!("config_kinds/example.yaml");

/// A target and a frontend with all keys.
const FULL: &str = "\
version: v1
log: {output: /var/log/proxygw.log, level: Debug-4}
plugins: {ctl: {socket: /run/p.sock, codec: cbor, mode: \"0660\", group: adm}, static: }
targets:
  - name: t
    kind: static:cmd
    idle_timeout: 1h30m
    endpoints: [{name: a, protocol: udp, address: '[2001:db8::1]:53'}, {name: b, protocol: tcp, address: 10.0.0.1:80}]
    readiness: {probe: http, path: /healthz, deadline: 10s}
    options: {command: run, stop_grace: 3s}
frontends:
  - {name: f, kind: static:always, protocol: udp, listen: '[::]:53', flow_timeout: 30s, target: t:a, options: {}}
  - {name: g, kind: static:http, protocol: tcp, listen: 10.0.0.2:80, flow_timeout: 30s, target: t:b, options: {content: x, endpoint: /go}}
  - {name: h, kind: packet:hold, protocol: tcp, listen: 10.0.0.3:81, flow_timeout: 30s, target: t:b, allow: [192.0.2.0/24], interfaces: [lo], options: {packets: 5, on_failure: reject}}
";

/// Both families in one place, ranges that are kept and shifted, and nothing said twice.
const SHORT: &str = "\
version: v1
targets:
  - {name: web, kind: static:none, idle_timeout: 1h, endpoints: [{name: e, protocol: tcp, address: [10.0.0.1:80, '[fd00::1]:80']}]}
  - {name: game, kind: static:none, idle_timeout: 1h, endpoints: [{name: e, protocol: udp, address: 10.0.0.1:27015-27030}]}
frontends:
  - {name: a, kind: static:always, listen: '[::]:443', dual_stack: true, flow_timeout: 30s, target: web}
  - {name: b, kind: static:always, listen: ['[fd00::2]:80', 192.0.2.1:80], flow_timeout: 30s, target: web:e}
  - {name: c, kind: static:always, listen: [192.0.2.1:27015-27030, 192.0.2.2:1-16], flow_timeout: 30s, target: game}
";

/// Replacements in [`FULL`] that keep it good.
const GOOD: &[(&str, &str)] = &[
    ("static: }", "packet: {group: 7}}"),
    ("allow: [192.0.2.0/24]", "deny: ['2001:db8::/32', 192.0.2.1, '::/0', 0.0.0.0/0], on_denied: reject"),
    ("{packets: 5, on_failure: reject}", "{per_source: 1, bytes: 1000, hold_timeout: 1h, replay: false}"),
    (", options: {packets: 5, on_failure: reject}", ""),
    ("log: {output: /var/log/proxygw.log, level: Debug-4}", "log:"),
    ("level: Debug-4", "level: eRROR"),
    ("level: Debug-4", "level: "),
    ("output: /var/log/proxygw.log", "output: stdout"),
    ("plugins: {ctl: {socket: /run/p.sock, codec: cbor, mode: \"0660\", group: adm}, static: }", "plugins: {}"),
    ("1h30m", "1.5h"),
    ("1h30m", ".5s"),
    ("1h30m", "5.s"),
    ("1h30m", "+5s"),
    ("1h30m", "1h 30min"),
    ("1h30m", "1h30min"),
    ("1h30m", "2 minutes"),
    ("1h30m", "1day"),
    ("1h30m", "1.5 hours 1d"),
    ("1h30m", "3000\u{b5}s"),
    ("1h30m", "3000\u{3bc}s"),
    ("1h30m", "5m0s"),
    ("flow_timeout: 30s, target: t:a", "flow_timeout: 300ms, target: t:a"),
    ("stop_grace: 3s", "stop_grace: 0"),
    ("stop_grace: 3s", "stop_grace: -0s"),
    ("stop_grace: 3s", "stop_grace: "),
    ("readiness: {probe: http, path: /healthz, deadline: 10s}", "readiness: {probe: none}"),
    ("readiness: {probe: http, path: /healthz, deadline: 10s}", "readiness: {probe: connect, path: , deadline: }"),
    ("readiness: {probe: http, path: /healthz, deadline: 10s}", "readiness:"),
    ("[2001:db8::1]:53", "[64:ff9b::1.2.3.4]:65535"),
    ("10.0.0.1:80", "10.0.0.1:0080"),
    ("10.0.0.2:80", "0.0.0.0:80"),
    ("protocol: udp, listen: '[::]:53'", "listen: '[::]:53'"),
    ("protocol: udp, listen: '[::]:53'", "protocol: , listen: ['[::]:53']"),
    ("'[::]:53'", "['[2001:db8::2]:53', '[2001:db8::3]:54']"),
    ("'[::]:53'", "'[::]:53', dual_stack: false"),
    ("'[::]:53'", "'[::]:53', dual_stack: "),
    ("address: 10.0.0.1:80}", "address: [10.0.0.1:80, '[2001:db8::1]:81']}"),
    ("address: 10.0.0.1:80}", "address: [10.0.0.1:80]}"),
    (
        "'[2001:db8::1]:53'}, {name: b, protocol: tcp, address: 10.0.0.1:80}]",
        "'[2001:db8::1]:53'}, {name: b, protocol: tcp, address: 10.0.0.1:80}, {name: c, protocol: udp, address: 10.0.0.1:27015-27030}]",
    ),
    (", options: {}", ", options: "),
    (", endpoint: /go", ""),
    ("name: t\n", "name: ünïcode-1.x/y\n    <<: {}\n"),
];

/// Replacements in [`FULL`] that neither the schema nor the daemon takes.
const BAD: &[(&str, &str)] = &[
    ("version: v1", "version: v2"),
    ("version: v1", "version: 1"),
    ("version: v1\n", ""),
    ("version: v1", "version: v1\nfoo: 1"),
    ("level: Debug-4", "level: loud"),
    ("level: Debug-4", "level: 4"),
    ("level: Debug-4", "levle: INFO"),
    ("output: /var/log/proxygw.log", "output: ''"),
    ("output: /var/log/proxygw.log", "output: 5"),
    ("codec: cbor", "codec: xml"),
    ("group: adm", "owner: adm"),
    ("socket: /run/p.sock", "socket: 5"),
    ("static: }", "static: {a: 1}}"),
    ("static: }", "static: 5}"),
    ("name: t\n", "name: 'a b'\n"),
    ("name: t\n", "name: 'a:b'\n"),
    ("name: t\n", "name: ''\n"),
    ("name: t\n", "name: 5\n"),
    ("name: t\n", "name: true\n"),
    ("name: t\n", "name: \"a\\e\"\n"),
    (
        "name: t\n",
        "name: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n",
    ),
    ("static: }", "packet: {group: 65536}}"),
    ("static: }", "packet: {group: 28774}}"),
    ("static: }", "packet: {groups: 1}}"),
    ("[192.0.2.0/24]", "[192.0.2.0/33]"),
    ("[192.0.2.0/24]", "[example.org]"),
    ("[192.0.2.0/24]", "[]"),
    ("[192.0.2.0/24]", "192.0.2.0/24"),
    ("[lo]", "[]"),
    ("[lo]", "['eth*']"),
    ("[lo]", "[averyveryverylongname]"),
    ("interfaces: [lo]", "on_denied: refuse"),
    ("packets: 5", "packets: 0"),
    ("packets: 5", "packets: many"),
    ("packets: 5", "hold_timeout: 5"),
    ("on_failure: reject", "on_failure: refuse"),
    ("on_failure: reject", "replay: 'no'"),
    ("packets: 5", "colour: red"),
    ("packet:hold", "packet:drop"),
    ("kind: static:cmd", "kind: static"),
    ("kind: static:cmd", "kind: static:http"),
    ("kind: static:cmd", "kind: 'a:b:c'"),
    ("kind: static:always", "kind: static:cmd"),
    ("kind: static:cmd", "colour: red\n    kind: static:cmd"),
    ("idle_timeout: 1h30m", "idle: 5m"),
    ("1h30m", "30"),
    ("1h30m", "0"),
    ("1h30m", "0s"),
    ("1h30m", "-5s"),
    ("1h30m", "5M"),
    ("1h30m", "5 months"),
    ("1h30m", "1.5.5 hours"),
    ("1h30m", "5"),
    ("1h30m", "1.5"),
    ("1h30m", "'5m '"),
    ("1h30m", "m"),
    ("1h30m", "."),
    ("1h30m", "1 0s"),
    ("1h30m", "[5m]"),
    ("1h30m", ""),
    ("flow_timeout: 30s, target: t:a", "target: t:a"),
    ("flow_timeout: 30s, target: t:a", "flow_timeout: 0, target: t:a"),
    ("deadline: 10s", "deadline: 0"),
    ("deadline: 10s", "deadline: 10"),
    ("path: /healthz", "path: healthz"),
    ("path: /healthz", "path: '/a b'"),
    ("probe: http", "probe: connect"),
    ("probe: http, ", ""),
    ("probe: http", "probe: ping"),
    ("deadline: 10s", "interval: 10s"),
    ("[2001:db8::1]:53", "[fe80::1%eth0]:53"),
    ("[2001:db8::1]:53", "[::ffff:10.0.0.1]:53"),
    ("[2001:db8::1]:53", "[::]:53"),
    ("[2001:db8::1]:53", "[ff02::1]:53"),
    ("[2001:db8::1]:53", "2001:db8::1"),
    ("10.0.0.1:80", "10.0.0.1"),
    ("10.0.0.1:80", "10.0.0.1:0"),
    ("10.0.0.1:80", "10.0.0.1:65536"),
    ("10.0.0.1:80", "10.0.0.256:80"),
    ("10.0.0.1:80", "10.0.0.01:80"),
    ("10.0.0.1:80", "0.0.0.0:80"),
    ("10.0.0.1:80", "224.0.0.1:80"),
    ("10.0.0.1:80", "255.255.255.255:80"),
    ("10.0.0.1:80", "localhost:80"),
    ("10.0.0.2:80", "':80'"),
    ("10.0.0.2:80", "239.1.1.1:80"),
    ("10.0.0.2:80", "80"),
    ("protocol: udp, address", "protocol: sctp, address"),
    ("protocol: udp, address", "protocol: UDP, address"),
    (
        "endpoints: [{name: a, protocol: udp, address: '[2001:db8::1]:53'}, {name: b, protocol: tcp, address: 10.0.0.1:80}]",
        "endpoints: []",
    ),
    (
        "endpoints: [{name: a, protocol: udp, address: '[2001:db8::1]:53'}, {name: b, protocol: tcp, address: 10.0.0.1:80}]",
        "endpoints:",
    ),
    ("{name: a, protocol: udp", "{name: a, port: 5, protocol: udp"),
    ("{name: a, protocol: udp", "{protocol: udp"),
    ("options: {command: run, stop_grace: 3s}", "options: {command: 5}"),
    ("options: {command: run, stop_grace: 3s}", "options: {command: ''}"),
    ("options: {command: run, stop_grace: 3s}", "options: {}"),
    ("options: {command: run, stop_grace: 3s}", "options:"),
    ("    options: {command: run, stop_grace: 3s}\n", ""),
    ("stop_grace: 3s", "stop_grace: 3"),
    ("stop_grace: 3s", "grace: 3s"),
    ("target: t:a", "target: 't:'"),
    ("'[::]:53'", "[]"),
    ("'[::]:53'", "['[::]:53', 53]"),
    ("'[::]:53'", "'[2001:db8::2]:53', dual_stack: true"),
    ("'[::]:53'", "['[::]:53', '[2001:db8::2]:54'], dual_stack: true"),
    ("'[::]:53'", "'[::]:53', dual_stack: 'yes'"),
    ("'[::]:53'", "'[::]:53-'"),
    ("'[::]:53'", "'[::]:53-65536'"),
    ("'[::]:53'", "'[::]:0-53'"),
    ("address: 10.0.0.1:80}", "address: []}"),
    ("address: 10.0.0.1:80}", "address: [10.0.0.1:80, 0.0.0.0:81]}"),
    ("address: 10.0.0.1:80}", "address: [10.0.0.1:80, '[fd00::1]:80', '[fd00::2]:80']}"),
    ("target: t:a", "target: 5"),
    (", options: {}", ", options: {a: 1}"),
    (", options: {}", ", options: 5"),
    (", options: {}", ", option: {}"),
    ("content: x, ", ""),
    ("content: x", "content: 5"),
    ("endpoint: /go", "endpoint: go"),
    ("frontends:\n  -", "frontends:\n  - 5\n  -"),
    ("frontends:\n  -", "frontends:\n  -\n  -"),
];

/// The first error of each document, or `None` where the validator cannot be run.
fn validate(documents: &[(&str, String)]) -> Option<Vec<Option<String>>> {
    let input = serde_json::to_vec(documents).expect("JSON");
    let mut python = Command::new("/usr/bin/python3")
        .arg("tests/schema.py")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .ok()?;
    let mut stdin = python.stdin.take().expect("a pipe");
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = python.wait_with_output().expect("an output");
    let _ = writer.join();
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(error.contains("ModuleNotFoundError"), "{error}");
        return None;
    }
    Some(serde_json::from_slice(&output.stdout).expect("JSON"))
}

/// Validates, or says that it cannot, which is a failure where everything is required.
fn required(documents: &[(&str, String)]) -> Option<Vec<Option<String>>> {
    let results = validate(documents);
    if results.is_none() {
        let required = std::env::var_os("PROXYGW_REQUIRE_ALL").is_some_and(|value| value == "1");
        assert!(!required, "python3-jsonschema and python3-yaml are required");
        // Not eprintln, which the test harness keeps to itself.
        let _ = writeln!(std::io::stderr(), "skipped: python3-jsonschema or python3-yaml is missing");
    }
    results
}

/// The files of a directory that end in `.yaml` and are no schemas.
fn examples(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.retain(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.ends_with(".yaml") && !name.ends_with(".schema.yaml")
    });
    paths.sort();
    paths
}

fn spoilt(replacements: &[(&str, &str)]) -> Vec<(&'static str, String)> {
    let spoil = |(from, to): &(&str, &str)| {
        assert!(FULL.contains(from), "{from}");
        (CONFIG, FULL.replacen(from, to, 1))
    };
    replacements.iter().map(spoil).collect()
}

#[test]
fn what_is_good_is_good_for_both() {
    let mut documents = vec![
        (CONFIG, EXAMPLE.to_owned()),
        (CONFIG, FULL.to_owned()),
        (CONFIG, SHORT.to_owned()),
        (CONFIG, "version: v1\n".to_owned()),
        (CONFIG, "version: v1\nlog:\nplugins:\ntargets:\nfrontends:\n".to_owned()),
    ];
    documents.extend(spoilt(GOOD));
    for path in examples(Path::new("configs")) {
        documents.push((CONFIG, fs::read_to_string(path).expect("an example")));
    }
    for (_, text) in &documents {
        // The names that the table changes are references too.
        let text = text.replace("name: ünïcode-1.x/y", "name: t");
        parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    }
    for (result, (_, text)) in required(&documents).into_iter().flatten().zip(&documents) {
        assert_eq!(result, None, "{text}");
    }
}

#[test]
fn what_is_bad_is_bad_for_both() {
    let documents = spoilt(BAD);
    for (_, text) in &documents {
        assert!(parse(text).is_err(), "{text}");
    }
    for (result, replacement) in required(&documents).into_iter().flatten().zip(BAD) {
        let error = result.unwrap_or_else(|| panic!("the schema takes {replacement:?}"));
        assert!(error.starts_with('$'), "{error}: {replacement:?}");
    }
}

#[test]
fn other_plugins_have_options_of_their_own() {
    let text = FULL.replace("static:always", "aws:ec2").replace("options: {}", "options: {any: [thing]}");
    let documents = vec![(CONFIG, text.replace("plugins: {", "plugins: {aws: {region: x}, "))];
    for result in required(&documents).into_iter().flatten() {
        assert_eq!(result, None);
    }
}

#[test]
fn plugins_yaml() {
    let good = ["plugins: {ctl: ctl, static: static, proxygw-aws: aws}", "plugins: {}"];
    let bad = [
        "{}",
        "plugins:",
        "plugins: [ctl]",
        "plugins: {ctl: }",
        "plugins: {ctl: 'a:b'}",
        "plugins: {ctl: 5}",
        "plugins: {'a b': x}",
        "plugins: {}\nmore: 1",
        "plugins: {ctl: ''}",
        "plugins: {'../x': x}",
    ];
    let mut documents: Vec<(&str, String)> =
        good.iter().chain(&bad).map(|text| (PLUGINS, (*text).to_owned())).collect();
    let own = fs::read_to_string("plugins.yaml").ok();
    documents.extend(own.map(|text| (PLUGINS, text)));
    for (index, result) in required(&documents).into_iter().flatten().enumerate() {
        let expected = index < good.len() || index >= good.len() + bad.len();
        assert_eq!(result.is_none(), expected, "{}: {result:?}", documents[index].1);
    }
}
