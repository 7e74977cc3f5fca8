//! A backend, targets in front of it, and the moments at which they drain.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::support::setup::{SOON, always, external, with};
use crate::support::{Daemon, Lab, Process, backend_command};

/// How much later than it should a target may drain: 0.3 s of ours, and the rest for a machine that is busy with other tests.
pub const LATE: Duration = Duration::from_millis(700);

/// The kernel's clock ticks, and the log's milliseconds are cut off.
const TICK: Duration = Duration::from_millis(20);

/// Serves TCP and UDP at these ports of the backend's namespace.
#[track_caller]
pub fn serve(lab: &Lab, ports: &[u16]) -> Process {
    let places: String =
        ports.iter().map(|port| format!("--tcp 203.0.113.2:{port} --udp 203.0.113.2:{port} ")).collect();
    let mut shell = lab.backend.command("/bin/sh");
    shell.args(["-c", &backend_command(&places)]);
    let backend = Process::start(shell);
    backend.await_line("listening", SOON);
    backend
}

/// A target at a port of [`serve`], with an endpoint `t` for TCP and one `u` for UDP.
pub fn served(name: &str, port: u16, idle: &str) -> Value {
    let endpoints = [format!("t=tcp/203.0.113.2:{port}"), format!("u=udp/203.0.113.2:{port}")];
    let target = external(name, &endpoints.each_ref().map(String::as_str));
    with(target, json!({"idle_timeout": idle, "readiness": {"probe": "none"}}))
}

/// A frontend of kind `packet:hold` at a port of the gateway; `endpoint` is `TARGET:t` or `TARGET:u`.
pub fn held(port: u16, endpoint: &str, flow: &str) -> Value {
    let protocol = if endpoint.ends_with(":u") { "udp" } else { "tcp" };
    let frontend = always(&endpoint.replace(':', "-"), &format!("{protocol}/198.51.100.1:{port}"), endpoint);
    with(frontend, json!({"kind": "packet:hold", "flow_timeout": flow}))
}

/// What marks the beginning of a drain by idleness in the log.
pub fn draining(target: &str) -> String {
    format!("target {target}: draining because it is idle")
}

/// When a line was logged.
#[track_caller]
pub fn logged(line: &str) -> SystemTime {
    let time = line.split(' ').next().expect("a line has a time");
    humantime::parse_rfc3339(time).unwrap_or_else(|error| panic!("{line}: {error}"))
}

/// Waits for the first drain by idleness of a target after so many lines of the log; returns its moment.
#[track_caller]
pub fn drained(daemon: &mut Daemon, after: usize, target: &str, timeout: Duration) -> SystemTime {
    logged(&daemon.process().await_line_after(after, &draining(target), timeout))
}

/// What has to be so long after a moment that is known to lie between two is neither early nor late.
#[track_caller]
pub fn assert_on_time(what: &str, at: SystemTime, due: (SystemTime, SystemTime), late: Duration, log: &str) {
    let since = |from: SystemTime| match at.duration_since(from) {
        Ok(after) => format!("{after:.3?} after"),
        Err(error) => format!("{:.3?} before", error.duration()),
    };
    assert!(at + TICK >= due.0, "{what}: early, {} what was due\n{log}", since(due.0));
    assert!(at <= due.1 + late, "{what}: late, {} what was due\n{log}", since(due.1));
}
