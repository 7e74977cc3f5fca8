//! Targets that are used all the time, a little, or only by those whom nobody answers.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime};

use serde_json::json;

use crate::moments::{LATE, assert_on_time, drained, draining, held, logged, serve, served};
use crate::support::setup::{PAGE, SECOND, SOON, at, config, external, holds, page, with};
use crate::support::{Client, Daemon, Lab, eventually, http_get, require_namespaces};

#[test]
fn a_busy_target_and_one_with_a_silent_connection_never_drain() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::with_clients(3);
    let _backend = serve(&lab, &[81, 82]);
    let targets = [served("busy", 81, "200ms"), served("silent", 82, "200ms")];
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
    assert!(served.into_inner() > 150);
    let at = drained(&mut daemon, 0, "busy", SOON);
    // The last connection of all has ended less than two rounds ago.
    assert_on_time("busy", at, (last + SECOND / 10, last + SECOND / 5), LATE, &daemon.log());
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
        let mut flood = lab.client().command("/usr/bin/python3");
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/syn_flood.py");
        assert!(flood.args([script, "198.51.100.1", "81", "2000"]).status().expect("it runs").success());
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
