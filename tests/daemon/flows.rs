//! Flows, as conntrack counts them: how long they live, and what their end means for the target.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::setup::{PAGE, SECOND, SOON, active, always, at, command, config, external, holds, page, warm, with};
use crate::support::{
    BACKEND_V4, Client, Daemon, GATEWAY_V4, Lab, Process, backend_command, conntrack_entries, eventually, http_get,
    require_namespaces, second_nft,
};

/// The seconds that a flow to this port of the gateway has left.
#[track_caller]
fn seconds_left(lab: &Lab, words: &[&str]) -> u64 {
    let entries = conntrack_entries(&lab.gateway);
    let found: Vec<_> = entries.iter().filter(|entry| words.iter().all(|word| entry.contains(word))).collect();
    assert_eq!(found.len(), 1, "{words:?}: {entries:#?}");
    // ipv4 2 tcp 6 SECONDS …
    found[0].split_whitespace().nth(4).and_then(|seconds| seconds.parse().ok()).expect("a number")
}

#[track_caller]
fn flow_timeout_governs(nft: Option<&Path>) {
    let lab = nft.map_or_else(Lab::new, Lab::with_nft);
    let backend = "--tcp 203.0.113.2:8080 --tcp [2001:db8:2::2]:8080 --udp 203.0.113.2:53 --udp [2001:db8:2::2]:53";
    let mut shell = lab.backend.command("/bin/sh");
    shell.args(["-c", &backend_command(backend)]);
    let backend = Process::start(shell);
    backend.await_line("listening", SOON);
    let target = external(
        "b",
        &[
            "t4=tcp/203.0.113.2:8080",
            "t6=tcp/[2001:db8:2::2]:8080",
            "u4=udp/203.0.113.2:53",
            "u6=udp/[2001:db8:2::2]:53",
        ],
    );
    let long = |frontend| with(frontend, json!({"flow_timeout": "1000s"}));
    let short = |frontend| with(frontend, json!({"flow_timeout": "30s"}));
    let frontends = [
        long(page("t4", "198.51.100.1:80", "b:t4")),
        long(page("t6", "[::]:80", "b:t6")),
        short(page("s4", "0.0.0.0:81", "b:t4")),
        long(always("u4", "udp/0.0.0.0:53", "b:u4")),
        long(always("u6", "udp/[2001:db8:1::1]:53", "b:u6")),
        short(always("v4", "udp/198.51.100.1:54", "b:u4")),
    ];
    let daemon = Daemon::start(&lab, &config(&[target], &frontends));
    warm(&daemon, "b");
    let tcp = [("198.51.100.1", 80, 1000), ("2001:db8:1::1", 80, 1000), ("198.51.100.1", 81, 30)];
    let udp = [("198.51.100.1", 53, 1000), ("2001:db8:1::1", 53, 1000), ("198.51.100.1", 54, 30)];
    for (ip, port, timeout) in tcp {
        let _client = Client::connect(lab.client(), SocketAddr::new(ip.parse().expect("an address"), port));
        let left = seconds_left(&lab, &["tcp ", "ESTABLISHED", &format!("dst={ip} "), &format!("dport={port} ")]);
        assert!(left <= timeout && left > timeout - 5, "tcp {ip} {port}: {left}");
    }
    for (ip, port, timeout) in udp {
        let address = SocketAddr::new(ip.parse().expect("an address"), port);
        lab.client().run(|| crate::support::udp_ask(address, b"?", SOON)).expect("an answer");
        let left = seconds_left(&lab, &["udp ", &format!("dst={ip} "), &format!("dport={port} ")]);
        assert!(left <= timeout && left > timeout - 5, "udp {ip} {port}: {left}");
    }
    // The endpoint's own address, past the frontends, keeps the kernel's defaults.
    let _direct = Client::connect(lab.client(), (BACKEND_V4, 8080).into());
    let left = seconds_left(&lab, &["ESTABLISHED", "dst=203.0.113.2 ", "src=203.0.113.2 "]);
    assert!(left > 1000, "{left}");
}

#[test]
fn flow_timeout_governs_with_the_nft_of_the_path() {
    if require_namespaces() {
        flow_timeout_governs(None);
    }
}

#[test]
fn flow_timeout_governs_with_the_nft_of_another_release() {
    if require_namespaces()
        && let Some(nft) = second_nft()
    {
        flow_timeout_governs(Some(&nft));
    }
}

/// A daemon with one target behind a page, active. The idle time is 5 s unless something else is said.
fn warm_backend(lab: &Lab, idle: &str, flow: &str) -> Daemon {
    let target = command("b", &["e=tcp/127.0.0.1:8080"], &backend_command("--tcp 127.0.0.1:8080"));
    let frontend = with(page("f", "0.0.0.0:80", "b:e"), json!({"flow_timeout": flow}));
    let daemon = Daemon::start(lab, &config(&[with(target, json!({"idle_timeout": idle}))], &[frontend]));
    warm(&daemon, "b");
    daemon
}

/// How long after `since` the target drains; to be called before that.
#[track_caller]
fn drains_after(daemon: &Daemon, since: Instant) -> Duration {
    eventually("it drains", 60 * SECOND, || daemon.target("b")["state"] != "active");
    since.elapsed()
}

#[test]
fn a_target_drains_idle_timeout_after_its_last_flow() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let daemon = warm_backend(&lab, "5s", "60s");
    let first = Client::connect(lab.client(), at("198.51.100.1:80"));
    let second = Client::connect(lab.client(), at("198.51.100.1:80"));
    drop(first);
    holds("it is active", 2 * SECOND, || daemon.target("b")["state"] == "active");
    let ended = Instant::now();
    drop(second);
    let took = drains_after(&daemon, ended);
    // How exact it is, tests/idle tries; this machine may be busy.
    assert!((5 * SECOND..8 * SECOND).contains(&took), "{took:?}\n{}", daemon.log());
    daemon.await_target("b", "inactive", SOON);
    assert_eq!(active(&lab.gateway), "");
    assert_eq!(lab.client().run(|| http_get((GATEWAY_V4, 80).into(), "/")).expect("an answer").1, PAGE);
    daemon.await_target("b", "active", SOON);
}

#[test]
fn a_silent_connection_keeps_its_target_until_flow_timeout() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let daemon = warm_backend(&lab, "1s", "6s");
    let mut client = Client::connect(lab.client(), at("198.51.100.1:80"));
    client.ask();
    let silent = Instant::now();
    // Five times its idle time, and each packet starts it again.
    holds("it is active", 5 * SECOND, || daemon.target("b")["state"] == "active");
    client.ask();
    let asked = Instant::now();
    let took = drains_after(&daemon, asked);
    assert!(asked - silent >= 5 * SECOND);
    assert!((7 * SECOND..10 * SECOND).contains(&took), "flow_timeout and idle_timeout: {took:?}\n{}", daemon.log());
    drop(client);
}

#[test]
fn a_connection_silent_for_longer_than_flow_timeout_keeps_nothing_and_is_told_so() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let daemon = warm_backend(&lab, "1s", "2s");
    let mut client = Client::connect(lab.client(), at("198.51.100.1:80"));
    let silent = Instant::now();
    let took = drains_after(&daemon, silent);
    assert!((3 * SECOND..6 * SECOND).contains(&took), "{took:?}\n{}", daemon.log());
    daemon.await_target("b", "inactive", SOON);
    // Its connection is known to nobody: refused at once, rather than left hanging.
    let asked = client.stream().write_all(b"GET / HTTP/1.1\r\n\r\n").and_then(|()| client.stream().read(&mut [0]));
    assert!(matches!(&asked, Ok(0) | Err(_)), "{asked:?}");
    assert!(!matches!(&asked, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock), "{asked:?}");
}
