//! The control socket: its wire format and its orders.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::setup::{PAGE, SOON, active, assert_answers, command, config, ctl, page, warm};
use crate::support::{
    Daemon, DaemonOptions, GATEWAY_V4, Lab, Temporary, backend_command, eventually, http_get, nft_ruleset,
    require_namespaces,
};

fn setup() -> String {
    let target = command("b", &["e=tcp/127.0.0.1:8080"], &backend_command("--tcp 127.0.0.1:8080"));
    config(&[target], &[page("f", "0.0.0.0:80", "b:e")])
}

pub fn start(lab: &Lab, codec: &'static str) -> Daemon {
    let options = DaemonOptions { codec, ..DaemonOptions::default() };
    let mut daemon = Daemon::spawn(&lab.gateway, &setup(), options);
    daemon.process().await_line("ready after", SOON);
    daemon
}

pub fn connect(path: &Path) -> UnixStream {
    let stream = UnixStream::connect(path).expect("it listens");
    stream.set_read_timeout(Some(SOON)).expect("a timeout");
    stream.set_write_timeout(Some(SOON)).expect("a timeout");
    stream
}

/// Sends bytes, and reads as many as are expected.
#[track_caller]
fn exchange(stream: &mut UnixStream, sent: &[u8], expected: &[u8]) {
    stream.write_all(sent).expect("sent");
    let mut answer = vec![0; expected.len()];
    stream.read_exact(&mut answer).expect("an answer");
    assert_eq!(answer, expected, "{}", String::from_utf8_lossy(&answer));
}

pub const STATUS: &[u8] = b"{\"id\":1,\"method\":2,\"body\":{}}\n";

/// A status without its times.
fn without_since(mut status: Value) -> Value {
    for target in status["targets"].as_array_mut().expect("targets") {
        let since = target.as_object_mut().and_then(|target| target.remove("since")).expect("a since");
        let since = since.as_str().expect("a text").to_owned();
        assert!(since.starts_with("20") && since.ends_with('Z') && since.len() == 24, "{since}");
    }
    status
}

/// Body of [`setup`]'s status while nothing runs, without times.
fn quiet() -> Value {
    json!({
        "closed": false,
        "targets": [{"name": "b", "kind": "static:cmd", "state": "inactive", "flows": 0,
            "endpoints": [{"name": "e", "protocol": "tcp", "address": "127.0.0.1:8080"}]}],
        "frontends": [{"name": "f", "kind": "static:http", "state": "running", "flows": 0, "protocol": "tcp", "listen": "0.0.0.0:80",
            "target_name": "b", "endpoint_name": "e", "proxyaddress": "127.0.0.1:8080"}],
    })
}

#[test]
fn json_has_the_bytes_that_existing_clients_use() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let daemon = start(&lab, "json");
    let mut stream = connect(daemon.socket());
    exchange(
        &mut stream,
        b"{\"id\":7,\"method\":10,\"body\":{\"name\":\"b\"}}",
        b"{\"id\":7,\"method\":11,\"body\":{}}\n",
    );
    // An unsupported method and an unknown name: an error each, and the connection goes on.
    exchange(&mut stream, b"{\"id\":8,\"method\":4,\"body\":{}}\n", b"{\"id\":8,\"method\":1,\"body\":{\"msg\":\"");
    let mut rest = Vec::new();
    while rest.last() != Some(&b'\n') {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("the rest of the line");
        rest.push(byte[0]);
    }
    exchange(
        &mut stream,
        b"{\"id\":9,\"method\":8,\"body\":{\"name\":\"x\"}}\n",
        b"{\"id\":9,\"method\":1,\"body\":{\"msg\":\"",
    );
    drop(stream);
    // Several packets at once, one of them a notification, which is not answered.
    let mut stream = connect(daemon.socket());
    let packets = b"{\"id\":1,\"method\":18,\"body\":{\"name\":\"f\"}}{\"id\":0,\"method\":2,\"body\":{}}\n\n {\"id\":2,\"method\":16,\"body\":{\"name\":\"f\"}}";
    exchange(&mut stream, packets, b"{\"id\":1,\"method\":19,\"body\":{}}\n{\"id\":2,\"method\":17,\"body\":{}}\n");
    daemon.await_frontend("f", "running", SOON);
    let mut stream = connect(daemon.socket());
    exchange(&mut stream, STATUS, b"{\"id\":1,\"method\":3,\"body\":{\"closed\":false,\"targets\":[{\"name\":\"b\",");
    assert_eq!(without_since(daemon.status()), quiet());
}

#[test]
fn cbor_has_the_bytes_that_existing_clients_use() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let daemon = start(&lab, "cbor");
    // {"id": 7, "method": 10, "body": {"name": "b"}}
    let drain = b"\xa3\x62id\x07\x66method\x0a\x64body\xa1\x64name\x61b";
    let done = b"\xa3\x62id\x07\x66method\x0b\x64body\xa0";
    let status = b"\xa3\x62\x69\x64\x01\x66\x6d\x65\x74\x68\x6f\x64\x02\x64\x62\x6f\x64\x79\xa0";
    // {"id": 1, "method": 3, "body": {"closed": false, "targets": [{"name": "b", …
    let begins = b"\xa3\x62id\x01\x66method\x03\x64body\xa3\x66closed\xf4\x67targets\x81";
    let mut stream = connect(daemon.socket());
    exchange(&mut stream, &[&drain[..], &status[..]].concat(), &[&done[..], &begins[..]].concat());
    let unknown = b"\xa3\x62id\x08\x66method\x04\x64body\xa0";
    let mut stream = connect(daemon.socket());
    exchange(&mut stream, unknown, b"\xa3\x62id\x08\x66method\x01\x64body\xa1\x63msg");
    assert_eq!(without_since(assert_answers(&daemon)), quiet());
}

#[test]
fn orders_have_their_effect() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let daemon = start(&lab, "json");
    let get = || lab.client().run(|| http_get((GATEWAY_V4, 80).into(), "/"));
    let order = |args: &[&str]| assert!(ctl(&daemon, args).status.success(), "{args:?}");
    order(&["warm", "b"]);
    daemon.await_target("b", "active", SOON);
    assert!(get().expect("the backend").1.contains("198.51.100.2"));
    order(&["warm", "b"]);
    order(&["drain", "b"]);
    daemon.await_target("b", "inactive", SOON);
    assert_eq!(active(&lab.gateway), "");
    assert_eq!(get().expect("the page").1, PAGE);
    daemon.await_target("b", "active", SOON);
    order(&["stop", "f"]);
    daemon.await_frontend("f", "stopped", SOON);
    assert_eq!(active(&lab.gateway), "");
    assert_eq!(get().expect_err("no listener").kind(), ErrorKind::ConnectionRefused);
    assert_eq!(daemon.target("b")["state"], "active");
    order(&["start", "f"]);
    daemon.await_frontend("f", "running", SOON);
    assert!(get().expect("the backend").1.contains("198.51.100.2"));
    for args in [["warm", "x"], ["drain", "f"], ["start", "b"], ["stop", ""]] {
        let output = ctl(&daemon, &args);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert!(error.contains(&format!("{:?}", args[1])), "{args:?}: {error}");
    }
    // A notification wakes too.
    order(&["drain", "b"]);
    daemon.await_target("b", "inactive", SOON);
    connect(daemon.socket()).write_all(b"{\"id\":0,\"method\":32768,\"body\":{\"name\":\"f\"}}\n").expect("sent");
    daemon.await_target("b", "active", SOON);
}

/// The configuration with another log output.
fn logging_to(folder: &Temporary, log: &Path, socket: &Path) -> std::path::PathBuf {
    let head = json!({"output": log, "level": "INFO"});
    let ctl = json!({"ctl": {"socket": socket, "codec": "json"}});
    folder.write("proxygw.yaml", &format!("version: v1\nlog: {head}\nplugins: {ctl}\n{}", setup()))
}

#[test]
fn sighup_reopens_the_log_file() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let folder = Temporary::new();
    let log = folder.path().join("proxygw.log");
    let config = logging_to(&folder, &log, &folder.path().join("other.sock"));
    std::fs::write(&log, "kept\n").expect("written");
    let mut process = lab.gateway.command(crate::support::binary("proxygw"));
    process.arg("--config").arg(config);
    let mut daemon = crate::support::Process::start(process);
    let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
    eventually("it is ready", SOON, || read(&log).contains("ready after"));
    assert!(read(&log).starts_with("kept\n"), "it is appended to");
    let moved = folder.path().join("proxygw.log.1");
    std::fs::rename(&log, &moved).expect("moved");
    assert_eq!(lab.client().run(|| http_get((GATEWAY_V4, 80).into(), "/")).expect("an answer").1, PAGE);
    eventually("it still writes to the old file", SOON, || read(&moved).contains("target b: active"));
    assert!(!log.exists());
    daemon.signal(Signal::HUP);
    eventually("there is a new one", SOON, || log.exists());
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait(SOON).code(), Some(0));
    assert!(read(&log).contains("received SIGTERM, shutting down"), "{}", read(&log));
    assert!(!read(&moved).contains("SIGTERM"));
    assert_eq!(daemon.log(), "", "nothing goes anywhere else");
}

#[test]
fn clients_are_answered_while_a_target_stops() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let text = backend_command("--tcp 127.0.0.1:8080 --ignore-sigint");
    let target =
        crate::setup::with(command("b", &["e=tcp/127.0.0.1:8080"], &text), json!({"options": {"stop_grace": "3s"}}));
    let daemon = Daemon::start(&lab, &config(&[target], &[page("f", "0.0.0.0:80", "b:e")]));
    warm(&daemon, "b");
    daemon.request(10, json!({"name": "b"}));
    daemon.await_target("b", "draining", SOON);
    let began = Instant::now();
    // Answered before the three seconds of stop_grace have passed.
    assert_eq!(assert_answers(&daemon)["targets"][0]["state"], "draining");
    eventually("new flows are off", SOON, || {
        nft_ruleset(&lab.gateway).is_some_and(|rules| !rules.contains("goto frontend-0"))
    });
    // A new client gets the page, and its wake is remembered.
    assert_eq!(lab.client().run(|| http_get((GATEWAY_V4, 80).into(), "/")).expect("an answer").1, PAGE);
    eventually("it is active again", SOON, || daemon.log().matches("target b: active after").count() == 2);
    assert!(began.elapsed() > Duration::from_secs(2));
}
