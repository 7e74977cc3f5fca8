//! What a good configuration becomes, and which files are read at all.

mod config_kinds;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use config_kinds::{parse, registry};
use log::LevelFilter;
use proxygw::assemble;
use proxygw::config::{self, LogOutput, Probe, Protocol};
use proxygw::plugin::{ColdPath, Registry};

/// A directory of the test's own, removed at its end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("proxygw-config-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).expect("a directory");
        Scratch(path)
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, content).expect("a file");
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn the_example_of_v1() {
    let setup = parse(include_str!("config_kinds/example.yaml")).expect("the example");
    assert_eq!((setup.log.output.clone(), setup.log.level), (LogOutput::Stderr, LevelFilter::Info));
    let target = &setup.targets[0].spec;
    assert_eq!((target.name.as_str(), target.kind.to_string().as_str()), ("backend", "static:cmd"));
    assert_eq!(target.idle_timeout, Duration::from_secs(300));
    assert_eq!((target.readiness.probe.clone(), target.readiness.deadline), (Probe::Auto, Duration::from_secs(30)));
    let frontend = &setup.frontends[0].spec;
    assert_eq!((frontend.name.as_str(), frontend.protocol), ("public-http", Protocol::Tcp));
    assert_eq!(frontend.listen[0].to_string(), "0.0.0.0:8088");
    assert_eq!(frontend.flow_timeout, Duration::from_secs(60));
    let endpoint = &frontend.endpoint;
    assert_eq!((endpoint.name.as_str(), endpoint.addresses[0].to_string().as_str()), ("http", "127.0.0.1:8080"));
    assert_eq!(setup.targets.len(), 1);
    assert_eq!((setup.frontends[0].cold, setup.frontends[0].keeps_warm), (ColdPath::Drop, true));
}

#[test]
fn everything_but_the_version_may_be_missing_or_null() {
    for text in
        ["version: v1", "version: v1\nlog:\nplugins: ~\ntargets: null\nfrontends: []", "version: v1\ntargets: []"]
    {
        let setup = parse(text).expect(text);
        assert_eq!((setup.log.output, setup.log.level), (LogOutput::Stderr, LevelFilter::Info), "{text}");
        assert!(setup.targets.is_empty() && setup.frontends.is_empty(), "{text}");
    }
}

#[test]
fn references_are_resolved_and_shared() {
    let setup = parse(
        "version: v1
log: {output: /var/log/p, level: warn}
targets:
  - &t
    name: a
    kind: static:none
    idle_timeout: 1m
    endpoints: [{name: x, protocol: udp, address: 10.0.0.1:1}, {name: y, protocol: udp, address: '[fe80::1]:1'}]
    readiness: {probe: http, deadline: 2 minutes}
  - {<<: *t, name: b, readiness: {probe: http, path: /up}}
frontends:
  - {name: a, kind: static:always, protocol: udp, listen: '[::]:1', flow_timeout: 1500ms, target: b:y}
  - {name: b, kind: static:always, protocol: udp, listen: 0.0.0.0:1, flow_timeout: 1s, target: b:x}
",
    )
    .expect("a good configuration");
    assert_eq!((setup.log.output.clone(), setup.log.level), (LogOutput::File("/var/log/p".into()), LevelFilter::Warn));
    assert_eq!(setup.targets[0].spec.readiness.probe, Probe::Http { path: "/".to_owned() });
    assert_eq!(setup.targets[0].spec.readiness.deadline, Duration::from_secs(120));
    assert_eq!(setup.targets[1].spec.readiness.probe, Probe::Http { path: "/up".to_owned() });
    let ends: Vec<_> = setup
        .frontends
        .iter()
        .map(|new| (new.target, new.spec.target.as_str(), new.spec.endpoint.name.as_str()))
        .collect();
    let id = setup.targets[1].id;
    assert_eq!(ends, [(id, "b", "y"), (id, "b", "x")]);
    assert_eq!(setup.frontends[0].spec.flow_timeout, Duration::from_secs(2));
}

/// The error of a file, without the directory.
fn refused(scratch: &Scratch, path: &Path) -> String {
    let error = assemble::load(path, &mut registry()).map(|_| ()).expect_err("not a configuration");
    error.to_string().replace(&format!("{}/", scratch.0.display()), "")
}

#[test]
fn a_file_that_cannot_be_read_is_an_error() {
    let scratch = Scratch::new("files");
    assert_eq!(refused(&scratch, &scratch.0.join("none")), "none: there is no such file (--config names another)");
    let binary = scratch.file("binary", b"version: v1\n# \xff\n");
    assert_eq!(refused(&scratch, &binary), "binary:2:3: not UTF-8: save the file in that encoding");
}

#[test]
fn a_client_reads_one_section_without_knowing_the_rest() {
    let scratch = Scratch::new("client");
    let path = scratch.file(
        "a.yaml",
        "version: v1\nplugins: {aws: {x: 1}, ctl: {socket: /run/s, codec: cbor, mode: '0660'}}\ntargets: [{kind: aws:ec2}]\n",
    );
    let read = |path: &Path| {
        config::with_plugin_section(path, "ctl", |section| {
            (section.optional::<PathBuf>("socket"), section.optional::<String>("codec"))
        })
    };
    assert_eq!(read(&path), Ok((Some("/run/s".into()), Some("cbor".to_owned()))));
    assert_eq!(read(&scratch.file("b.yaml", "version: v1\n")), Ok((None, None)));
    for broken in
        ["targets: [{name: a, name: b}]\n", "targets:\n  - name: a\n   kind: b\n", "targets: *none\n", "x: 1\n"]
    {
        let text = format!("version: v1\nplugins: {{ctl: {{socket: /run/s}}}}\n{broken}");
        assert_eq!(read(&scratch.file("broken.yaml", text)), Ok((Some("/run/s".into()), None)), "{broken}");
    }

    for (text, expected) in [
        ("version: v2\n", r#"c.yaml:1:10: version: unknown version "v2": write v1"#),
        (
            "version: v1\nplugins: {ctl: {socket: 5}}\n",
            concat!("c.yaml:2:25: plugins.ctl.socket: ", r#"a string is expected, found the number 5: quote it, "5""#),
        ),
        (
            "version: v1\nlog: {level: INFO}\nplugins: {ctl: {socket: 5}}\ntargets: [\n",
            concat!("c.yaml:3:25: plugins.ctl.socket: ", r#"a string is expected, found the number 5: quote it, "5""#),
        ),
        ("version: v1\nplugins: {ctl: 5}\n", "c.yaml:2:16: plugins.ctl: a mapping is expected, found the number 5"),
        ("version: [\n", "c.yaml:2:1: did not find expected node content, while parsing a flow node"),
    ] {
        let error = read(&scratch.file("c.yaml", text)).expect_err(text).to_string();
        assert_eq!(error.replace(&format!("{}/", scratch.0.display()), ""), expected, "{text}");
    }
}

#[test]
fn a_program_without_plugins_says_so() {
    let text = "version: v1\nplugins: {ctl: }\ntargets: [{name: a, kind: static:none, idle_timeout: 1s, endpoints: [{name: a, protocol: tcp, address: '10.0.0.1:1'}]}]\n";
    let error = assemble::parse("f", text, &mut Registry::default()).map(|_| ()).expect_err("no plugins");
    assert_eq!(
        error.lines(),
        [
            r#"f:2:11: plugins: unknown plugin "ctl": this program has none"#,
            r#"f:3:27: targets[0] "a": kind: unknown target kind "static:none": the target kinds are none"#,
        ]
    );
}

/// Every prefix of a file and every byte changed: an error or a configuration, and never a panic.
#[test]
fn damaged_files_do_no_damage() {
    let text = include_str!("config_kinds/example.yaml");
    for end in 0..text.len() {
        let _ = parse(&text[..end]);
    }
    for index in 0..text.len() {
        for replacement in ["[", "{", "}", "*", "&a ", "- ", "\n", ": ", "!", "'", "\"", "|", "\t", "#", "<<: "] {
            let damaged = format!("{}{replacement}{}", &text[..index], &text[index + 1..]);
            let _ = parse(&damaged);
        }
    }
}
