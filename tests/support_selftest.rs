//! The support module at work, without the daemon: nft rules by hand, real traffic, and nothing left behind.

mod support;

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::{
    BACKEND_V4, BACKEND_V6, GATEWAY_V4, GATEWAY_V6, Lab, Namespace, Process, Temporary, backend_command,
    conntrack_entries, eventually, http_get, http_get_within, nft, nft_ruleset, require_namespaces, second_nft,
    serve_http, serve_udp_echo, udp_ask,
};

const SECOND: Duration = Duration::from_secs(1);

const RULES: &str = "
    table inet proxygw {
        chain prerouting {
            type nat hook prerouting priority dstnat
            ip daddr 198.51.100.1 meta l4proto { tcp, udp } th dport 80 dnat ip to 203.0.113.2:8080
            ip6 daddr 2001:db8:1::1 meta l4proto { tcp, udp } th dport 80 dnat ip6 to [2001:db8:2::2]:8080
        }
    }";

fn families() -> [(IpAddr, IpAddr, IpAddr); 2] {
    [(GATEWAY_V4, BACKEND_V4, Lab::client_v4(0)), (GATEWAY_V6, BACKEND_V6, Lab::client_v6(0))]
}

#[test]
fn a_request_reaches_the_backend_with_the_clients_address_over_both_families() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    nft(&lab.gateway, RULES);
    assert!(nft_ruleset(&lab.gateway).is_some_and(|rules| rules.contains("dnat ip to 203.0.113.2:8080")));
    for (gateway, backend, client) in families() {
        let http = serve_http(&lab.backend, (backend, 8080).into(), "hello");
        let (status, body) = lab.client().run(|| http_get((gateway, 80).into(), "/")).expect("an answer");
        assert_eq!(status, 200);
        let peer = body.trim().strip_prefix("hello from ").and_then(|peer| peer.parse::<SocketAddr>().ok());
        assert_eq!(peer.map(|peer| peer.ip()), Some(client), "{body}");
        assert_eq!(http.served(), 1);
    }
    let flows = conntrack_entries(&lab.gateway);
    assert!(flows.iter().any(|flow| flow.starts_with("ipv4") && flow.contains("src=203.0.113.2")), "{flows:#?}");
    assert!(flows.iter().any(|flow| flow.starts_with("ipv6") && flow.contains("src=2001:db8:2::2")), "{flows:#?}");
}

#[test]
fn a_datagram_reaches_the_backend_over_both_families() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    nft(&lab.gateway, RULES);
    for (gateway, backend, client) in families() {
        let _udp = serve_udp_echo(&lab.backend, (backend, 8080).into(), "hello");
        let answer = lab.client().run(|| udp_ask((gateway, 80).into(), b"ping", 10 * SECOND)).expect("an answer");
        assert!(answer.starts_with("hello from ") && answer.ends_with(": ping"), "{answer}");
        assert!(answer.contains(&client.to_string()), "{answer}");
    }
}

#[test]
fn a_lab_has_no_rules_of_its_own_and_refuses_what_nobody_serves() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    assert_eq!(nft_ruleset(&lab.gateway), None);
    for (gateway, ..) in families() {
        let error = lab.client().run(|| http_get_within((gateway, 80).into(), "/", SECOND)).expect_err("no server");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    }
    assert_eq!(lab.gateway.read_sysctl("ipv4/conf/all/route_localnet"), "0");
}

#[test]
fn every_client_has_an_address_of_its_own() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::with_clients(3);
    let _http = serve_http(&lab.backend, (BACKEND_V4, 8080).into(), "hello");
    for (index, client) in lab.clients.iter().enumerate() {
        let (_, body) = client.run(|| http_get((BACKEND_V4, 8080).into(), "/")).expect("an answer");
        assert!(body.contains(&format!(" {}:", Lab::client_v4(index))), "{index}: {body}");
        // Clients reach each other, too.
        let other = (index + 1) % 3;
        let _other = serve_http(&lab.clients[other], (Lab::client_v6(other), 80).into(), "other");
        let (_, body) = client.run(|| http_get((Lab::client_v6(other), 80).into(), "/")).expect("an answer");
        assert!(body.starts_with("other"), "{body}");
    }
}

#[test]
fn a_lab_is_made_fast_and_leaves_nothing() {
    if !require_namespaces() {
        return;
    }
    let began = Instant::now();
    let lab = Lab::new();
    let took = began.elapsed();
    let names: Vec<String> =
        [lab.client(), &lab.gateway, &lab.backend].iter().map(|namespace| namespace.name().to_owned()).collect();
    // A process outside of every group that a guard could kill.
    let mut stray = Process::start(shell(&lab.gateway, &backend_command("--daemonize --never-listen")));
    let line = stray.await_line("started pid ", 5 * SECOND);
    let pid = line.rsplit(' ').next().expect("a word").to_owned();
    assert!(stray.wait(5 * SECOND).success());
    let inside: Vec<String> = lab.gateway.processes().iter().map(|(pid, _)| pid.to_string()).collect();
    assert!(inside.iter().eq([&pid]), "{inside:?}");
    drop(lab);
    for name in names {
        assert!(!std::path::Path::new("/run/netns").join(&name).exists(), "{name}");
    }
    // A zombie, where nobody waits for orphans, counts as gone.
    eventually("the stray process is gone", SECOND, || {
        std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "))
    });
    // Leisurely, for the machine may be busy.
    assert!(took < 5 * SECOND, "{took:?}");
    eprintln!("a lab in {took:?}");
}

#[test]
fn a_panic_in_a_namespace_is_the_tests_own() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| lab.client().run(|| panic!("on purpose"))));
    assert_eq!(caught.expect_err("a panic").downcast_ref::<&str>(), Some(&"on purpose"));
}

#[test]
fn the_test_backend_answers_http_and_udp() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let options = "--name one --tcp 203.0.113.2:8080 --tcp [2001:db8:2::2]:8080 --udp 203.0.113.2:53 --delay 0.2";
    let backend = Process::start(shell(&lab.backend, &backend_command(options)));
    backend.await_line("listening", 5 * SECOND);
    let (status, body) = lab.client().run(|| http_get((BACKEND_V6, 8080).into(), "/")).expect("an answer");
    let json: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!((status, &json["name"], &json["pid"]), (200, &"one".into(), &backend.pid().into()));
    let answer = lab.client().run(|| udp_ask((BACKEND_V4, 53).into(), b"?", SECOND)).expect("an answer");
    let json: serde_json::Value = serde_json::from_str(&answer).expect("JSON");
    assert!(json["peer"].as_str().is_some_and(|peer| peer.starts_with("198.51.100.2:")), "{answer}");
}

#[test]
fn the_test_backend_misbehaves_on_request() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let mut process = Process::start(shell(&lab.backend, &backend_command("--die-after 0.1 --exit-code 3")));
    assert_eq!(process.wait(5 * SECOND).code(), Some(3));

    let mut process = Process::start(shell(&lab.backend, &backend_command("--fork 2 --ignore-sigint --never-listen")));
    eventually("three lines", 5 * SECOND, || process.log().lines().count() == 3);
    process.signal(Signal::INT);
    let caught = lab.backend.processes().len();
    assert_eq!(caught, 3, "{:?}", lab.backend.processes());
    process.kill();
    eventually("the whole group is gone", SECOND, || lab.backend.processes().is_empty());

    let process = Process::start(shell(&lab.backend, &backend_command("--never-listen --flood 50000")));
    process.await_line("flood line 50000", 10 * SECOND);
    assert_eq!(process.lines(), 50_001);
    assert_eq!(process.log().lines().count(), 10_000);
}

#[test]
fn a_lab_can_use_another_nft() {
    if !require_namespaces() {
        return;
    }
    let Some(second) = second_nft() else { return };
    let lab = Lab::with_nft(&second);
    nft(&lab.gateway, RULES);
    assert!(nft_ruleset(&lab.gateway).is_some_and(|rules| rules.contains("2001:db8:2::2")));
    let _http = serve_http(&lab.backend, (BACKEND_V6, 8080).into(), "hello");
    let (status, _) = lab.client().run(|| http_get((GATEWAY_V6, 80).into(), "/")).expect("an answer");
    assert_eq!(status, 200);
}

#[test]
fn temporary_folders_are_removed() {
    let folder = Temporary::new();
    let file = folder.write("file", "content");
    assert_eq!(std::fs::read_to_string(&file).expect("written"), "content");
    let path = folder.path().to_owned();
    drop(folder);
    assert!(!path.exists());
}

/// `sh -c` in a namespace.
fn shell(namespace: &Namespace, script: &str) -> std::process::Command {
    let mut command = namespace.command("/bin/sh");
    command.args(["-c", script]);
    command
}
