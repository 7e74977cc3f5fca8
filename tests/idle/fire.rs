//! Targets that are used all the time, a little, or only by those whom nobody answers.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime};

use serde_json::json;

use crate::moments::{LATE, assert_on_time, drained, draining, held, logged, serve, served};
use crate::support::setup::{PAGE, SECOND, SOON, at, config, ctl, external, holds, page, with};
use crate::support::{Client, Daemon, Lab, eventually, http_get, nft, require_namespaces, udp_ask};

/// Sends packets with forged sources to the gateway: port, how many, and perhaps `ack`.
#[track_caller]
fn flood(lab: &Lab, words: &[&str]) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/syn_flood.py");
    let mut flood = lab.client().command("/usr/bin/python3");
    assert!(flood.args([script, "198.51.100.1"]).args(words).status().expect("it runs").success());
}

#[test]
fn a_busy_target_and_one_with_a_silent_connection_never_drain() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::with_clients(3);
    let _backend = serve(&lab, &[81, 82]);
    let targets = [served("busy", 81, "500ms"), served("silent", 82, "200ms")];
    let frontends = [page("busy", "198.51.100.1:81", "busy:t"), held(82, "silent:t", "60s")];
    let mut daemon = Daemon::start(&lab, &config(&targets, &frontends));
    let silent = Client::connect(lab.client(), at("198.51.100.1:82"));
    eventually("it is warm", SOON, || {
        let (_, body) = lab.client().run(|| http_get(at("198.51.100.1:81"), "/")).expect("an answer");
        body != PAGE
    });
    let until = Instant::now() + 5 * SECOND;
    let served = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for client in &lab.clients {
            let served = &served;
            scope.spawn(move || {
                client.run(|| {
                    let mut next = Instant::now();
                    while next < until {
                        let (status, body) = http_get(at("198.51.100.1:81"), "/").expect("an answer");
                        assert!(status == 200 && body != PAGE, "{status} {body}");
                        served.fetch_add(1, Ordering::Relaxed);
                        next += Duration::from_millis(50);
                        std::thread::sleep(next.saturating_duration_since(Instant::now()));
                    }
                });
            });
        }
    });
    let last = SystemTime::now();
    // At least one in each idle time, on average several.
    let served = served.into_inner();
    assert!(served > 50, "{served}: too few to keep it in use");
    let at = drained(&mut daemon, 0, "busy", SOON);
    // The last connection of all has ended less than two rounds ago.
    assert_on_time("busy", at, (last + 4 * SECOND / 10, last + SECOND / 2), LATE, &daemon.log());
    let closed = SystemTime::now();
    assert!(!daemon.log().contains(&draining("silent")), "{}", daemon.log());
    drop(silent);
    let at = drained(&mut daemon, 0, "silent", SOON);
    assert_on_time("silent", at, (closed + SECOND / 5, SystemTime::now()), LATE, &daemon.log());
}

#[test]
fn those_whom_nobody_answers_keep_no_target_and_delay_its_end_for_a_moment_only() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let _backend = serve(&lab, &[81]);
    // One of them takes datagrams and never answers, the other has nobody there and says so.
    let _deaf = lab.backend.run(|| UdpSocket::bind("203.0.113.2:90")).expect("a socket");
    let udp = |name: &str, port: u16| {
        let target = external(name, &[&format!("u=udp/203.0.113.2:{port}")]);
        with(target, json!({"idle_timeout": "500ms", "readiness": {"probe": "none"}}))
    };
    let targets = [served("syn", 81, "500ms"), udp("deaf", 90), udp("nobody", 91)];
    let frontends = [held(81, "syn:t", "60s"), held(90, "deaf:u", "60s"), held(91, "nobody:u", "60s")];
    let mut daemon = Daemon::start(&lab, &config(&targets, &frontends));
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            lab.client().run(|| {
                let socket = UdpSocket::bind("198.51.100.2:5000").expect("a socket");
                while !over.load(Ordering::Relaxed) {
                    for port in [90, 91] {
                        // Being refused is an error of the next send.
                        let _ = socket.send_to(b"stray", ("198.51.100.1", port));
                    }
                    std::thread::sleep(Duration::from_millis(50));
                }
            });
        });
        let client = Client::connect(lab.client(), at("198.51.100.1:81"));
        flood(&lab, &["81", "2000"]);
        let before = SystemTime::now();
        drop(client);
        let after = SystemTime::now();
        let drain = drained(&mut daemon, 0, "syn", SOON);
        assert_on_time("syn", drain, (before + SECOND / 2, after + SECOND / 2), LATE, &daemon.log());
        for target in ["deaf", "nobody"] {
            let active = logged(&daemon.process().await_line(&format!("target {target}: active"), SOON));
            let drain = drained(&mut daemon, 0, target, SOON);
            assert_on_time(target, drain, (active + SECOND / 2, active + SECOND / 2), LATE, &daemon.log());
        }
        for target in ["syn", "deaf", "nobody"] {
            let began = logged(&daemon.process().await_line(&draining(target), SOON));
            let ended = logged(&daemon.process().await_line(&format!("target {target}: inactive"), SOON));
            // The time of a target that is refused is over at once, since it will never be answered; or nobody may know.
            assert_on_time(target, ended, (began, began + 5 * SECOND), LATE, &daemon.log());
        }
        over.store(true, Ordering::Relaxed);
    });
    assert!(!daemon.log().contains("target syn: active again"), "{}", daemon.log());
    // Whoever comes is served.
    holds("it answers", SECOND / 10, || {
        lab.client().run(|| http_get(at("198.51.100.1:81"), "/")).expect("an answer").0 == 200
    });
}

#[test]
fn strays_of_connections_that_nobody_knows_keep_no_target() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let _backend = serve(&lab, &[81]);
    // The first backend resets what it does not know, the second is not there at all.
    let mut away = served("away", 82, "500ms");
    away["endpoints"][0]["address"] = json!("203.0.113.77:82");
    let frontends = [held(81, "there:t", "60s"), held(82, "away:t", "60s")];
    let mut daemon = Daemon::start(&lab, &config(&[served("there", 81, "500ms"), away], &frontends));
    for (target, port) in [("there", "81"), ("away", "82")] {
        assert!(ctl(&daemon, &["warm", target]).status.success());
        let active = logged(&daemon.process().await_line(&format!("target {target}: active"), SOON));
        eventually("it drains", SOON, || {
            flood(&lab, &[port, "20", "ack"]);
            daemon.log().contains(&draining(target))
        });
        let drain = drained(&mut daemon, 0, target, SOON);
        assert_on_time(target, drain, (active + SECOND / 2, active + SECOND / 2), LATE, &daemon.log());
        daemon.process().await_line(&format!("target {target}: inactive"), SOON);
    }
}

#[test]
fn a_connection_whose_entry_was_lost_counts_again_with_its_next_packets() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let _backend = serve(&lab, &[81]);
    let mut daemon = Daemon::start(&lab, &config(&[served("b", 81, "500ms")], &[held(81, "b:t", "60s")]));
    let mut client = Client::connect(lab.client(), at("198.51.100.1:81"));
    lab.gateway.sh("conntrack -F 2>&1");
    client.ask();
    eventually("it counts", SOON, || daemon.target("b")["flows"] == json!(1));
    holds("it is in use", SECOND, || !daemon.log().contains(&draining("b")));
    let before = SystemTime::now();
    drop(client);
    let drain = drained(&mut daemon, 0, "b", SOON);
    assert_on_time("b", drain, (before + SECOND / 2, SystemTime::now()), LATE, &daemon.log());
}

#[test]
fn a_drain_waits_for_an_answer_that_is_on_its_way() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let _backend = serve(&lab, &[81]);
    let slow = lab.backend.run(|| UdpSocket::bind("203.0.113.2:90")).expect("a socket");
    let datagram = external("datagram", &["u=udp/203.0.113.2:90"]);
    let datagram = with(datagram, json!({"idle_timeout": "700ms", "readiness": {"probe": "none"}}));
    let frontends = [held(81, "syn:t", "60s"), held(90, "datagram:u", "60s")];
    let mut daemon = Daemon::start(&lab, &config(&[served("syn", 81, "700ms"), datagram], &frontends));
    // The first SYN is lost on the far side of the gateway; the client sends another a second later.
    nft(
        &lab.backend,
        "table inet lossy { chain input {
            type filter hook input priority 0;
            tcp dport 81 tcp flags & syn == syn limit rate over 1/minute burst 1 packets accept
            tcp dport 81 tcp flags & syn == syn drop
        }; }",
    );
    for target in ["syn", "datagram"] {
        assert!(ctl(&daemon, &["warm", target]).status.success());
        daemon.await_target(target, "active", SOON);
    }
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut datagram = [0; 16];
            let (length, client) = slow.recv_from(&mut datagram).expect("a datagram");
            std::thread::sleep(SECOND);
            slow.send_to(&datagram[..length], client).expect("it is sent");
        });
        scope
            .spawn(|| assert_eq!(lab.client().run(|| http_get(at("198.51.100.1:81"), "/")).expect("an answer").0, 200));
        scope.spawn(|| lab.client().run(|| udp_ask(at("198.51.100.1:90"), b"?", SOON)).expect("an answer"));
    });
    for target in ["syn", "datagram"] {
        drained(&mut daemon, 0, target, SOON);
        let line = format!("target {target}: active again, because it was needed while it was draining");
        daemon.process().await_line(&line, SOON);
    }
}
