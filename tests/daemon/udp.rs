//! UDP clients, which keep their sockets, and so their flows.

use std::net::{IpAddr, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use crate::setup::{SECOND, SOON, active, always, at, command, config, elements, external, holds, with};
use crate::support::{
    BACKEND_V4, Daemon, Lab, Namespace, backend_command, conntrack_entries, eventually, nft, require_namespaces,
    second_nft, serve_udp_echo, udp_ask,
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
    assert!((7 * SECOND..10 * SECOND).contains(&took), "{took:?}\n{}", daemon.log());
    daemon.await_target("b", "inactive", SOON);
}

/// Whom the endpoint `b:ENDPOINT` sees when a client asks at a frontend's address, cold or warm; `None` if nobody answers.
fn seen(daemon: &Daemon, client: &Namespace, address: &str, cold: bool) -> Option<IpAddr> {
    if cold {
        daemon.request(10, json!({"name": "b"}));
        daemon.await_target("b", "inactive", SOON);
    }
    let answer = client.run(|| udp_ask(at(address), b"?", 2 * SECOND)).ok()?;
    let from = answer.strip_prefix("b from ").and_then(|rest| rest.strip_suffix(": ?"));
    Some(at(from.unwrap_or_else(|| panic!("{answer:?}"))).ip().to_canonical())
}

fn wildcard_sockets_answer(nft: Option<&Path>) {
    let lab = nft.map_or_else(Lab::new, Lab::with_nft);
    let [v4, v6] = ["0.0.0.0", "::"].map(|ip| ip.parse::<IpAddr>().expect("an address"));
    let b = external("b", &["one=udp/127.0.0.1:9000", "range=udp/127.0.0.1:9001-9003", "six=udp/[::1]:9000"]);
    let hold =
        |name: &str, listen: &str, target: &str| with(always(name, listen, target), json!({"kind": "packet:hold"}));
    let frontends = [
        hold("one", "udp/0.0.0.0:80", "b:one"),
        hold("range", "udp/198.51.100.1:9001-9003", "b:range"),
        hold("six", "udp/[::]:80", "b:six"),
    ];
    let never = with(hold("never", "udp/0.0.0.0:81", "b:one"), json!({"masquerade": "never"}));
    let six = serve_udp_echo(&lab.gateway, (v6, 9000).into(), "b");
    let range = [9001, 9002, 9003].map(|port| serve_udp_echo(&lab.gateway, (v4, port).into(), "b"));
    // Dual-stack, it serves both.
    let daemon = Daemon::start(&lab, &config(&[b], &frontends));
    let here = |ip: &str| Some(ip.parse::<IpAddr>().expect("an address"));
    for cold in [true, false] {
        for (client, address, expected) in [
            (lab.client(), "198.51.100.1:80", "127.0.0.1"),
            (lab.client(), "203.0.113.1:80", "127.0.0.1"),
            (lab.client(), "198.51.100.1:9002", "127.0.0.1"),
            (&lab.gateway, "127.0.0.1:80", "127.0.0.1"),
            (&lab.gateway, "198.51.100.1:80", "127.0.0.1"),
            (&lab.gateway, "[::1]:80", "::1"),
            (&lab.gateway, "[2001:db8:1::1]:80", "::1"),
        ] {
            let seen = seen(&daemon, client, address, cold);
            assert_eq!(seen, here(expected), "{address}, cold: {cold}\n{}", daemon.log());
        }
    }
    assert!(elements(&lab.gateway, "wildcard4").contains("127.0.0.1 . 9001-9003 : 127.0.0.1"));
    // A socket that is bound to the endpoint's address answers from there, so it sees its clients.
    drop((six, range));
    let _one = ["127.0.0.1:9000", "127.0.0.1:9001", "127.0.0.1:9002", "127.0.0.1:9003", "[::1]:9000"]
        .map(|address| serve_udp_echo(&lab.gateway, at(address), "b"));
    assert_eq!(seen(&daemon, lab.client(), "198.51.100.1:80", true), Some(Lab::client_v4(0)));
    assert_eq!(elements(&lab.gateway, "wildcard4"), "");
    drop((daemon, _one));
    // Who must not be masqueraded gets no answer.
    let _six = serve_udp_echo(&lab.gateway, (v6, 9000).into(), "b");
    let one = external("b", &["one=udp/127.0.0.1:9000"]);
    let daemon = Daemon::start(&lab, &config(&[one], &[never]));
    assert_eq!(seen(&daemon, lab.client(), "198.51.100.1:81", false), None);
}

#[test]
fn a_socket_on_all_addresses_behind_a_loopback_endpoint_answers_with_the_nft_of_the_path() {
    if require_namespaces() {
        wildcard_sockets_answer(None);
    }
}

#[test]
fn a_socket_on_all_addresses_behind_a_loopback_endpoint_answers_with_the_nft_of_another_release() {
    if require_namespaces()
        && let Some(nft) = second_nft()
    {
        wildcard_sockets_answer(Some(&nft));
    }
}
