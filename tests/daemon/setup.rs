//! What the tests share: the support's configurations, and what is asserted of more than one thing.

use std::time::Instant;

use serde_json::Value;

pub use crate::support::setup::*;
use crate::support::{Daemon, Lab};

/// `proxygwctl status` works, and says what.
#[track_caller]
pub fn assert_answers(daemon: &Daemon) -> Value {
    let began = Instant::now();
    let output = ctl(daemon, &["status"]);
    assert!(output.status.success(), "{}\n{}", String::from_utf8_lossy(&output.stderr), daemon.log());
    assert!(began.elapsed() < 5 * SECOND, "an answer after {:?}", began.elapsed());
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// Nothing of the daemon is left in its namespace.
#[track_caller]
pub fn assert_nothing_left(lab: &Lab, daemon: &Daemon) {
    assert_eq!(lab.gateway.sh("nft list tables"), "", "a table is left\n{}", daemon.log());
    assert_eq!(processes(lab), [] as [String; 0], "processes are left\n{}", daemon.log());
    assert!(!daemon.socket().exists(), "the socket is left\n{}", daemon.log());
    assert_eq!(lab.gateway.read_sysctl("ipv4/conf/all/route_localnet"), "0", "{}", daemon.log());
}

/// The command lines in the gateway that are not zombies.
pub fn processes(lab: &Lab) -> Vec<String> {
    let alive = |pid: i32| {
        std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
            let state = stat.rsplit_once(") ").map(|(_, rest)| rest.starts_with(['Z', 'X']));
            state == Some(false)
        })
    };
    lab.gateway
        .processes()
        .into_iter()
        .filter(|(pid, _)| alive(*pid))
        .map(|(pid, line)| format!("{pid} {line}"))
        .collect()
}

/// The daemon's resident memory in KiB.
pub fn memory(daemon: &Daemon) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).expect("the daemon runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}
