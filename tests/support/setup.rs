//! Configurations, and what most tests do with a daemon.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Daemon, Namespace, Temporary, binary, nft_ruleset};

pub const SECOND: Duration = Duration::from_secs(1);

/// What a page of [`page`] says.
pub const PAGE: &str = "one moment, please";

/// How long a busy machine may take for what should happen at once.
pub const SOON: Duration = Duration::from_secs(10);

/// `targets` and `frontends`, as YAML.
pub fn config(targets: &[Value], frontends: &[Value]) -> String {
    // JSON is YAML.
    format!("targets: {}\nfrontends: {}\n", json!(targets), json!(frontends))
}

/// `NAME=PROTOCOL/ADDRESS:PORT`
fn endpoint(text: &str) -> Value {
    let (name, rest) = text.split_once('=').expect("NAME=…");
    let (protocol, address) = rest.split_once('/').expect("PROTOCOL/…");
    json!({"name": name, "protocol": protocol, "address": address})
}

fn target(name: &str, kind: &str, endpoints: &[&str], options: Value) -> Value {
    let endpoints: Vec<Value> = endpoints.iter().copied().map(endpoint).collect();
    json!({"name": name, "kind": kind, "idle_timeout": "5m", "endpoints": endpoints, "options": options})
}

/// A target of kind `static:none`.
pub fn external(name: &str, endpoints: &[&str]) -> Value {
    target(name, "static:none", endpoints, json!({}))
}

/// A target of kind `static:cmd`.
pub fn command(name: &str, endpoints: &[&str], command: &str) -> Value {
    target(name, "static:cmd", endpoints, json!({"command": command, "stop_grace": "1s"}))
}

fn frontend(name: &str, kind: &str, listen: &str, target: &str, options: Value) -> Value {
    let (protocol, listen) = listen.split_once('/').expect("PROTOCOL/…");
    json!({"name": name, "kind": kind, "protocol": protocol, "listen": listen, "flow_timeout": "1m", "target": target,
        "options": options})
}

/// A frontend of kind `static:http`.
pub fn page(name: &str, listen: &str, target: &str) -> Value {
    frontend(name, "static:http", &format!("tcp/{listen}"), target, json!({"content": PAGE}))
}

/// A frontend of kind `static:always`.
pub fn always(name: &str, listen: &str, target: &str) -> Value {
    frontend(name, "static:always", listen, target, json!({}))
}

/// With some keys replaced or added; mappings are merged.
pub fn with(mut value: Value, changes: Value) -> Value {
    merge(&mut value, changes);
    value
}

fn merge(value: &mut Value, changes: Value) {
    match (value, changes) {
        (Value::Object(old), Value::Object(new)) => {
            new.into_iter().for_each(|(key, new)| merge(old.entry(key).or_insert(Value::Null), new));
        }
        (old, new) => *old = new,
    }
}

/// An address from its text.
pub fn at(text: &str) -> SocketAddr {
    text.parse().expect("an address and a port")
}

/// Runs `proxygwctl` with the daemon's configuration, wherever the test is.
pub fn ctl(daemon: &Daemon, words: &[&str]) -> Output {
    Command::new(binary("proxygwctl")).arg("--config").arg(daemon.config()).args(words).output().expect("proxygwctl")
}

/// Warms a target and waits until it is active.
#[track_caller]
pub fn warm(daemon: &Daemon, target: &str) {
    daemon.request(8, json!({"name": target}));
    daemon.await_target(target, "active", SOON);
}

/// The elements of one of the table's maps, as nft writes them; spaces and line breaks count as one space.
#[track_caller]
pub fn elements(gateway: &Namespace, map: &str) -> String {
    let rules = nft_ruleset(gateway).expect("the table");
    let map = rules.split_once(&format!("map {map} {{")).expect("the map").1;
    let map = map.split_once("\n\t}").expect("its end").0;
    let elements = map.split_once("elements = {").map_or("", |(_, elements)| elements);
    elements.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// All elements of the active maps: empty where no frontend is active.
#[track_caller]
pub fn active(gateway: &Namespace) -> String {
    ["active_ip4", "active_any4", "active_ip6", "active_any6"].map(|map| elements(gateway, map)).concat()
}

/// The condition holds for as long as that, whenever it is looked at.
#[track_caller]
pub fn holds(what: &str, duration: Duration, mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + duration;
    while Instant::now() < until {
        assert!(condition(), "no longer: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A command that runs `script` with python, whatever quotes are in it. The folder is to live as long as the daemon.
pub fn python(folder: &Temporary, script: &str) -> String {
    let path = folder.write("backend.py", script);
    format!("exec /usr/bin/python3 -u {}", path.display())
}
