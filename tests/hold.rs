//! `packet:hold`: the first packet of a cold client waits in the gateway, and no client notices that the backend was off.

mod support;

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{
    Daemon, DaemonOptions, GATEWAY_V4, GATEWAY_V6, Lab, backend_command, eventually, http_get, http_get_within,
    nft_ruleset, require_namespaces, udp_ask,
};

const SECOND: Duration = Duration::from_secs(1);

/// Where the backend of [`config`] serves TCP and UDP.
const BACKEND: &str = "203.0.113.2:8080";
const BACKEND6: &str = "[2001:db8:2::2]:8080";

/// Four held frontends, on port 80 of either family and of TCP and UDP, to one command that runs in the backend's
/// namespace; and one of its own on port 81, whose target never listens.
fn config(lab: &Lab, target: &str, options: &str, frontend: &str) -> String {
    let serve = format!("--name b --tcp {BACKEND} --tcp {BACKEND6} --udp {BACKEND} --udp {BACKEND6} --delay 0.2");
    let command = format!("exec nsenter --net=/run/netns/{} sh -c \"{}\"", lab.backend.name(), backend_command(&serve));
    let fronts = [("tcp", "0.0.0.0", "t4"), ("tcp", "[::]", "t6"), ("udp", "0.0.0.0", "u4"), ("udp", "[::]", "u6")];
    let fronts = fronts.map(|(protocol, any, endpoint)| {
        format!(
            "  - {{name: {endpoint}, kind: 'packet:hold', protocol: {protocol}, listen: '{any}:80', flow_timeout: 2s, \
             target: 'b:{endpoint}', options: {{{options}}} {frontend}}}\n"
        )
    });
    format!(
        "targets:
  - name: b
    kind: static:cmd
    idle_timeout: 1s
    # The backend is another host's: only its own answer tells that it is ready for UDP too.
    readiness: {{probe: connect}}
    endpoints:
      - {{name: t4, protocol: tcp, address: '{BACKEND}'}}
      - {{name: t6, protocol: tcp, address: '{BACKEND6}'}}
      - {{name: u4, protocol: udp, address: '{BACKEND}'}}
      - {{name: u6, protocol: udp, address: '{BACKEND6}'}}
    options: {{command: '{command}', {target}}}
  - name: dead
    kind: static:cmd
    idle_timeout: 1s
    readiness: {{deadline: 500ms}}
    endpoints:
      - {{name: tcp, protocol: tcp, address: '127.0.0.1:81'}}
      - {{name: udp, protocol: udp, address: '127.0.0.1:81'}}
    options: {{command: 'exec sleep 1000', stop_grace: 1s}}
frontends:
{}  - {{name: dead, kind: 'packet:hold', protocol: tcp, listen: '0.0.0.0:82', flow_timeout: 2s, target: 'dead:tcp', \
        options: {{{options}}}}}
  - {{name: dead-udp, kind: 'packet:hold', protocol: udp, listen: '0.0.0.0:82', flow_timeout: 2s, target: 'dead:udp', \
        options: {{{options}}}}}
",
        fronts.concat()
    )
}

fn start(lab: &Lab, options: &str, frontend: &str) -> Daemon {
    Daemon::start(lab, &config(lab, "", options, frontend))
}

/// The counters of a frontend.
fn hold(daemon: &Daemon, frontend: &str) -> Value {
    daemon.frontend(frontend)["hold"].clone()
}

/// One counter of a frontend.
#[track_caller]
fn count(daemon: &Daemon, frontend: &str, counter: &str) -> u64 {
    let counters = hold(daemon, frontend);
    counters[counter].as_u64().unwrap_or_else(|| panic!("no {counter} in {counters}"))
}

fn v4(port: u16) -> SocketAddr {
    (GATEWAY_V4, port).into()
}

fn v6(port: u16) -> SocketAddr {
    (GATEWAY_V6, port).into()
}

#[test]
fn cold_clients_notice_no_cold_start() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let daemon = start(&lab, "", "");
    for (frontend, address, peer) in [("t4", v4(80), "198.51.100.2:"), ("t6", v6(80), "[2001:db8:1::2]:")] {
        let (status, body) = lab.client().run(|| http_get(address, "/")).expect("it is served");
        assert!(status == 200 && body.contains(&format!(r#""peer": "{peer}"#)), "{body}");
        let counters = hold(&daemon, frontend);
        // The packet that waited is the one that arrived, also if a slow machine has made the client send it again.
        let of_one = counters["captured"].as_u64().zip(counters["repeated"].as_u64()).map(|(all, again)| all - again);
        assert_eq!((of_one, &counters["sent"]), (Some(1), &1.into()), "{counters}");
        daemon.await_target("b", "inactive", 15 * SECOND);
    }
    for (frontend, address, peer) in [("u4", v4(80), "198.51.100.2:"), ("u6", v6(80), "[2001:db8:1::2]:")] {
        // Larger than the link's MTU, so it comes in fragments.
        let datagram = vec![b'x'; 2000];
        let answer = lab.client().run(|| udp_ask(address, &datagram, 5 * SECOND)).expect("it is answered");
        assert!(answer.contains(&format!(r#""peer": "{peer}"#)), "{answer}");
        let counters = hold(&daemon, frontend);
        assert_eq!((&counters["captured"], &counters["sent"]), (&1.into(), &1.into()), "{counters}");
        daemon.await_target("b", "inactive", 15 * SECOND);
    }
    let warms = daemon.log().matches("target b: warming").count();
    assert_eq!(warms, 4, "{}", daemon.log());
}

#[test]
fn clients_on_the_gateway_are_held() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let daemon = start(&lab, "", "");
    for address in [v4(80), v6(80)] {
        let (status, _) = lab.gateway.run(|| http_get(address, "/")).expect("it is served");
        assert_eq!(status, 200);
        daemon.await_target("b", "inactive", 15 * SECOND);
        lab.gateway.run(|| udp_ask(address, b"hello", 5 * SECOND)).expect("it is answered");
        daemon.await_target("b", "inactive", 15 * SECOND);
    }
}

#[test]
fn many_clients_are_one_warm_up() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::with_clients(3);
    let daemon = start(&lab, "", "");
    let served = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for number in 0..150 {
            let (lab, served) = (&lab, &served);
            scope.spawn(move || {
                let address = if number % 2 == 0 { v4(80) } else { v6(80) };
                let result = lab.clients[number % 3].run(|| http_get_within(address, "/", 30 * SECOND));
                assert_eq!(result.expect("it is served").0, 200);
                served.fetch_add(1, Ordering::Relaxed);
            });
        }
    });
    assert_eq!(served.into_inner(), 150);
    assert_eq!(daemon.log().matches("target b: warming").count(), 1, "{}", daemon.log());
}

#[test]
fn no_client_is_lost_over_many_drains_and_wakes() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let daemon = start(&lab, "", "");
    for round in 0..14 {
        let result = lab.client().run(|| http_get_within(v4(80), "/", 10 * SECOND));
        assert_eq!(result.expect("it is served").0, 200, "round {round}");
        // The next comes around the moment of the drain, a little earlier or later each time.
        let next = Instant::now() + Duration::from_millis(1000 + round * 53);
        eventually("the next round", 5 * SECOND, || Instant::now() >= next);
    }
    let warms = daemon.log().matches("target b: warming").count();
    assert!(warms > 3, "the target slept too rarely for this test: {warms}\n{}", daemon.log());
}

#[test]
fn clients_of_a_failed_target_are_refused() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let daemon = start(&lab, "on_failure: reject", "");
    // The daemon refuses the first client when the target has failed; the kernel refuses the second at once, and for longer
    // after each failure.
    eventually("the kernel refuses", 20 * SECOND, || {
        for _ in 0..2 {
            let error = lab.client().run(|| http_get(v4(82), "/")).expect_err("refused");
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        }
        let rules = nft_ruleset(&lab.gateway).expect("the table is there");
        rules.contains("tcp . 82 : goto cold-refuse-any")
    });
    let error = lab.client().run(|| udp_ask(v4(82), b"x", 5 * SECOND)).expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    // When it no longer backs off, it can be woken again.
    eventually("packets are held again", 20 * SECOND, || {
        nft_ruleset(&lab.gateway).is_some_and(|rules| rules.contains("tcp . 82 : goto cold-hold-any"))
    });
    let warms = || daemon.log().matches("target dead: warming").count();
    let before = warms();
    let error = lab.client().run(|| http_get(v4(82), "/")).expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    assert_eq!(warms(), before + 1);
    assert_eq!(daemon.target("b")["state"], "inactive");
}

#[test]
fn clients_are_refused_after_the_timeout() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let daemon = start(&lab, "on_failure: reject, hold_timeout: 100ms", "");
    for ask in [
        &(|| http_get(v4(82), "/")) as &(dyn Fn() -> std::io::Result<(u16, String)> + Sync),
        &(|| udp_ask(v4(82), b"x", 5 * SECOND).map(|answer| (0, answer))),
    ] {
        let error = lab.client().run(ask).expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    }
    for frontend in ["dead", "dead-udp"] {
        assert!(count(&daemon, frontend, "given_up") > 0, "{frontend}");
        assert_eq!(count(&daemon, frontend, "sent"), 0, "{frontend}");
    }
}

#[test]
fn without_replay_the_retransmission_arrives() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let daemon = start(&lab, "replay: false", "");
    assert_eq!(lab.client().run(|| http_get(v4(80), "/")).expect("it is served").0, 200);
    assert_eq!(hold(&daemon, "t4")["sent"], 0);
}

#[test]
fn denied_clients_do_not_wake_the_target() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::with_clients(2);
    let denied = format!("{}/32", Lab::client_v4(1));
    let denied6 = format!("{}/128", Lab::client_v6(1));
    let many: Vec<String> = (0..10_000).map(|n| format!("'10.{}.{}.0/25'", n / 256, n % 256)).collect();
    let access = format!(
        ", deny: ['{denied}', '{denied6}', {}], allow: ['198.51.100.0/24', '2001:db8::/32'], interfaces: [clients], \
         on_denied: reject",
        many.join(", ")
    );
    let daemon = start(&lab, "", &access);
    let refused = |at: &dyn Fn() -> std::io::Result<(u16, String)>| at().expect_err("it may not").kind();
    for address in [v4(80), v6(80)] {
        let ask = || http_get(address, "/");
        assert_eq!(lab.clients[1].run(|| refused(&ask)), ErrorKind::ConnectionRefused);
        // Not one of its interfaces.
        assert_eq!(lab.gateway.run(|| refused(&ask)), ErrorKind::ConnectionRefused);
        assert_eq!(lab.backend.run(|| refused(&ask)), ErrorKind::ConnectionRefused);
    }
    assert_eq!(daemon.target("b")["state"], "inactive", "{}", daemon.log());
    assert_eq!(hold(&daemon, "t4")["captured"], 0);
    for address in [v4(80), v6(80)] {
        assert_eq!(lab.clients[0].run(|| http_get(address, "/")).expect("it may").0, 200);
        // The target is active now, and still not for this client.
        let ask = || http_get(address, "/");
        assert_eq!(lab.clients[1].run(|| refused(&ask)), ErrorKind::ConnectionRefused);
    }
}

#[test]
fn a_taken_nflog_group_is_reported() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let _other = lab.gateway.run(|| proxygw::netlink::nflog::Nflog::open(28775)).expect("the group is free");
    let mut daemon = Daemon::spawn(&lab.gateway, &config(&lab, "", "", ""), DaemonOptions::default());
    let status = daemon.process().wait(10 * SECOND);
    assert_eq!(status.code(), Some(1));
    // The thread that reads the log can be later than the end of the process.
    daemon.process().await_line("the NFLOG group 28775 belongs to another program", 10 * SECOND);
    assert_eq!(nft_ruleset(&lab.gateway), None);
}

#[test]
fn forged_floods_cost_other_frontends_nothing() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let daemon = start(&lab, "", "");
    std::thread::scope(|scope| {
        let mut flood = lab.client().command("/usr/bin/python3");
        flood.args([
            concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/syn_flood.py"),
            "198.51.100.1",
            "82",
            "100000",
        ]);
        scope.spawn(move || assert!(flood.status().expect("it runs").success()));
        eventually("the flood has begun", 10 * SECOND, || count(&daemon, "dead", "captured") > 1000);
        // Another frontend, cold, is not held up.
        let (status, _) = lab.client().run(|| http_get(v4(80), "/")).expect("it is served");
        assert_eq!(status, 200);
    });
    // The target has failed by now, perhaps: then none waits.
    assert!(count(&daemon, "dead", "waiting") <= 4096);
    let gone = ["made_room", "given_up", "repeated"].map(|counter| count(&daemon, "dead", counter));
    let accounted = gone.iter().sum::<u64>() + count(&daemon, "dead", "waiting");
    assert!(accounted >= count(&daemon, "dead", "captured").min(10_000), "{accounted}: {}", hold(&daemon, "dead"));
    let memory = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).expect("it runs");
    let peak = memory.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
    let peak: u32 = peak.expect("a peak").parse().expect("a number");
    assert!(peak < 48 * 1024, "{peak} kB");
}
