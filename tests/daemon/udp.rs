//! UDP clients, which keep their sockets, and so their flows.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use crate::setup::{SECOND, SOON, active, always, at, command, config, external, holds, with};
use crate::support::{
    BACKEND_V4, Daemon, Lab, backend_command, conntrack_entries, eventually, nft, require_namespaces, serve_udp_echo,
};

/// A UDP client that keeps its socket, and so its port.
fn udp_client(lab: &Lab, address: &str) -> UdpSocket {
    let socket = lab.client().run(|| UdpSocket::bind("0.0.0.0:0")).expect("a socket");
    socket.connect(at(address)).expect("connected");
    socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
    socket
}

/// Whether an answer comes to a datagram. An error can be an ICMP message about an earlier one.
fn udp_answers(socket: &UdpSocket) -> bool {
    let mut answer = [0; 256];
    socket.send(b"?").is_ok() && socket.recv(&mut answer).is_ok()
}

#[test]
fn a_udp_client_from_before_the_daemon_reaches_the_backend_with_the_same_socket() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    // conntrack watches, as it would with any firewall.
    nft(&lab.gateway, "table inet other { chain c { type filter hook input priority 0; ct state new accept; }; }");
    let client = udp_client(&lab, "198.51.100.1:53");
    assert!(!udp_answers(&client));
    assert!(!udp_answers(&client));
    assert!(!conntrack_entries(&lab.gateway).is_empty(), "there is a stale flow");
    let target = command("b", &["e=udp/127.0.0.1:5353"], &backend_command("--udp 127.0.0.1:5353 --delay 1"));
    let daemon = Daemon::start(&lab, &config(&[target], &[always("f", "udp/0.0.0.0:53", "b:e")]));
    // It goes on while the target is cold.
    eventually("it is active", SOON, || {
        udp_answers(&client);
        daemon.target("b")["state"] == "active"
    });
    eventually("its next datagrams reach the backend", 2 * SECOND, || udp_answers(&client));
}

#[test]
fn a_udp_client_of_another_target_than_now_reaches_the_new_one() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let _old = serve_udp_echo(&lab.backend, (BACKEND_V4, 1000).into(), "old");
    let _new = serve_udp_echo(&lab.backend, (BACKEND_V4, 1001).into(), "new");
    let setup = |port: u16| {
        let target = external("b", &[&format!("e=udp/203.0.113.2:{port}")]);
        config(&[target], &[always("f", "udp/0.0.0.0:53", "b:e")])
    };
    let client = udp_client(&lab, "198.51.100.1:53");
    let answer = || {
        let mut answer = [0; 256];
        client.send(b"?").ok()?;
        let length = client.recv(&mut answer).ok()?;
        Some(String::from_utf8_lossy(&answer[..length]).into_owned())
    };
    let mut first = Daemon::start(&lab, &setup(1000));
    eventually("the old backend answers", SOON, || answer().is_some_and(|answer| answer.starts_with("old")));
    first.signal(Signal::KILL);
    first.process().wait(SOON);
    let second = Daemon::start(&lab, &setup(1001));
    second.await_target("b", "active", SOON);
    eventually("the new backend answers", 2 * SECOND, || answer().is_some_and(|answer| answer.starts_with("new")));
}

#[test]
fn a_target_drains_idle_timeout_after_its_last_udp_flow_has_timed_out() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let target = command("b", &["e=udp/198.51.100.1:5353"], &backend_command("--udp 198.51.100.1:5353"));
    let frontend = with(always("f", "udp/0.0.0.0:53", "b:e"), json!({"flow_timeout": "2s"}));
    let daemon = Daemon::start(&lab, &config(&[with(target, json!({"idle_timeout": "5s"}))], &[frontend]));
    daemon.await_target("b", "active", SOON);
    let client = udp_client(&lab, "198.51.100.1:53");
    eventually("an answer", SOON, || udp_answers(&client));
    // The frontend no longer keeps its target warm, but the flow that there is goes on.
    daemon.request(18, json!({"name": "f"}));
    daemon.await_frontend("f", "stopped", SOON);
    assert_eq!(active(&lab.gateway), "");
    let mut last = Instant::now();
    holds("it is active and answers", 8 * SECOND, || {
        last = Instant::now();
        udp_answers(&client) && daemon.target("b")["state"] == "active"
    });
    eventually("it drains", 20 * SECOND, || daemon.target("b")["state"] != "active");
    let took = last.elapsed();
    assert!((7 * SECOND..Duration::from_millis(8500)).contains(&took), "{took:?}\n{}", daemon.log());
    daemon.await_target("b", "inactive", SOON);
}
