//! Options of the built-in plugins, read from whole configurations.

use std::time::Duration;

use crate::assemble::{Setup, parse};
use crate::plugin::{ColdPath, HoldOptions, OnFailure, Registry, StopSignal, TargetContext};

fn load(plugins: &str, target: &str, frontend: &str) -> Result<Setup, String> {
    load_with("tcp", "127.0.0.1:8080", plugins, target, frontend)
}

/// Reads a configuration with one target and one frontend, with these keys in flow style. `protocol` and `address` are the endpoint's.
fn load_with(protocol: &str, address: &str, plugins: &str, target: &str, frontend: &str) -> Result<Setup, String> {
    let mut registry = Registry::default();
    registry.add("ctl", super::ctl::plugin());
    registry.add("static", super::r#static::plugin());
    registry.add("packet", super::packet::plugin());
    let endpoint = format!("{{name: e, protocol: {protocol}, address: '{address}'}}");
    let text = format!(
        "version: v1\nplugins: {plugins}\ntargets:\n  - {{name: b, idle_timeout: 1m, endpoints: [{endpoint}], {target}}}\n\
         frontends:\n  - {{name: f, flow_timeout: 1m, target: 'b:e', {frontend}}}\n"
    );
    parse("test.yaml", &text, &mut registry).map_err(|error| error.to_string())
}

const NONE: &str = "kind: static:none";
const ALWAYS: &str = "kind: static:always, listen: '0.0.0.0:80'";

fn hold(options: &str) -> Result<ColdPath, String> {
    let frontend = format!("kind: packet:hold, listen: '0.0.0.0:80', options: {{{options}}}");
    load("{}", NONE, &frontend).map(|setup| setup.frontends[0].cold)
}

#[test]
fn hold_has_defaults_and_bounds() {
    let default = HoldOptions {
        group: 28775,
        packets: 4096,
        per_source: 64,
        bytes: 4 << 20,
        timeout: Duration::from_secs(60),
        on_failure: OnFailure::Drop,
        replay: true,
    };
    assert_eq!(hold(""), Ok(ColdPath::Hold(default)));
    let highest =
        "packets: 1048576, per_source: 1048576, bytes: 1073741824, hold_timeout: 1h, on_failure: reject, replay: false";
    let expected = HoldOptions {
        packets: 1 << 20,
        per_source: 1 << 20,
        bytes: 1 << 30,
        timeout: Duration::from_secs(3600),
        on_failure: OnFailure::Reject,
        replay: false,
        ..default
    };
    assert_eq!(hold(highest), Ok(ColdPath::Hold(expected)));
    assert!(hold("packets: 1, per_source: 1, bytes: 1, hold_timeout: 1ms, on_failure: drop").is_ok());
    for wrong in [
        "packets: 0",
        "packets: 1048577",
        "per_source: 0",
        "per_source: 1048577",
        "bytes: 0",
        "bytes: 1073741825",
        "hold_timeout: 0s",
        "hold_timeout: 3601s",
        "on_failure: wait",
    ] {
        let key = wrong.split(':').next().unwrap_or_default();
        let error = hold(wrong).expect_err(wrong);
        assert!(error.contains(&format!("options.{key}: ")), "{wrong}: {error}");
    }
}

#[test]
fn nflog_group_is_a_free_number_of_16_bits() {
    let hold = "kind: packet:hold, listen: '0.0.0.0:80'";
    let group = |number: u32| {
        load(&format!("{{packet: {{group: {number}}}}}"), NONE, hold).map(|setup| match setup.frontends[0].cold {
            ColdPath::Hold(options) => options.group,
            other => panic!("{other:?}"),
        })
    };
    for number in [0, 1, 65535] {
        assert_eq!(group(u32::from(number)), Ok(number));
    }
    assert!(group(65536).expect_err("17 bits").contains("packet.group: not an NFLOG group"));
    let lock = u32::from(crate::netlink::instance_lock::LOCK_GROUP);
    assert!(group(lock).expect_err("taken").contains("is reserved for the lock against a second daemon"));
}

#[test]
fn always_keeps_its_target_warm() {
    let setup = load("{}", NONE, ALWAYS).expect("it is right");
    let frontend = &setup.frontends[0];
    assert_eq!((frontend.cold, frontend.keeps_warm, frontend.has_handler), (ColdPath::Drop, true, false));
}

#[test]
fn none_is_external_and_unwatched() {
    let mut setup = load("{}", NONE, ALWAYS).expect("it is right");
    let target = &mut setup.targets[0].handler;
    assert!(target.external() && target.unwatched());
    let context = TargetContext::new("b", StopSignal::new().expect("a signal"));
    target.start(&context).expect("nothing to do");
    target.stop(&context).expect("nothing to do");
}

#[test]
fn http_needs_tcp_a_path_and_few_sockets() {
    let http = |protocol: &str, ports: &str, options: &str| {
        let frontend = format!("kind: static:http, listen: '0.0.0.0:{ports}', options: {{{options}}}");
        load_with(protocol, &format!("127.0.0.1:{ports}"), "{}", NONE, &frontend)
    };
    let setup = http("tcp", "1000-1063", "content: wait, endpoint: /wake").expect("it is right");
    let frontend = &setup.frontends[0];
    assert_eq!((frontend.cold, frontend.keeps_warm, frontend.has_handler), (ColdPath::Local, false, true));
    let error = |protocol, ports, options| http(protocol, ports, options).expect_err("it is wrong");
    assert!(error("tcp", "80", "").contains("options: content is missing"));
    assert!(error("tcp", "80", "content: x, endpoint: wake").contains("options.endpoint: \"wake\" is not a path"));
    assert!(error("udp", "80", "content: x").contains("the protocol of the frontend must be tcp"));
    let many = error("tcp", "1000-1064", "content: x");
    assert!(many.contains("would need 65 sockets for this listen, at most 64 are possible"), "{many}");
}

#[test]
fn cmd_needs_a_command_and_a_bounded_grace_time() {
    let cmd = |options: &str| load("{}", &format!("kind: static:cmd, options: {{{options}}}"), ALWAYS);
    let grace = |options| cmd(options).map(|setup| setup.targets[0].handler.stop_grace()).expect("it is right");
    assert_eq!(grace("command: sleep 1"), Duration::from_secs(5 + 5));
    assert_eq!(grace("command: sleep 1, stop_grace: 600s"), Duration::from_secs(600 + 5));
    let target = &cmd("command: sleep 1").expect("it is right").targets[0].handler;
    assert!(!target.external() && !target.unwatched());
    for (wrong, message) in [
        ("", "options: command is missing"),
        ("command: ' '", "options.command: it is empty"),
        ("command: \"a\\0b\"", "options.command: it contains a null character"),
        ("command: a, stop_grace: 601s", "options.stop_grace: 601s is too long: at most 600s"),
    ] {
        let error = cmd(wrong).expect_err(wrong);
        assert!(error.contains(message), "{wrong}: {error}");
    }
}

#[test]
fn ctl_is_a_service_with_checked_settings() {
    let ctl = |settings: &str| load(&format!("{{ctl: {{{settings}}}}}"), NONE, ALWAYS);
    let services = |setup: Setup| setup.services.into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    assert_eq!(ctl("").map(services), Ok(vec!["ctl".to_owned()]));
    assert!(ctl("socket: /run/x.sock, codec: cbor, mode: '0660', group: 7").is_ok());
    for (wrong, message) in [
        ("socket: x.sock", "ctl.socket: \"x.sock\" must be absolute"),
        ("codec: xml", "ctl.codec: unknown codec \"xml\""),
        ("mode: '0999'", "ctl.mode: \"0999\" is not an octal mode"),
        ("group: -1", "ctl.group: a group's name or number is expected"),
    ] {
        let error = ctl(wrong).expect_err(wrong);
        assert!(error.contains(message), "{wrong}: {error}");
    }
    let long = ctl(&format!("socket: /{}", "x".repeat(107))).expect_err("108 bytes");
    assert!(long.contains("is longer than 107 bytes"), "{long}");
}
