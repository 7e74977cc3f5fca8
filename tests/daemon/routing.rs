//! Where packets go.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::json;

use crate::setup::{PAGE, SECOND, SOON, active, always, at, command, config, elements, external, page, warm, with};
use crate::support::{
    BACKEND_V4, BACKEND_V6, Daemon, Lab, backend_command, eventually, http_get, http_get_within, nft,
    require_namespaces, serve_http, serve_udp_echo, udp_ask,
};

/// The page's answer or the backend's, which shows the client's address.
#[track_caller]
fn assert_cold_then_warm(lab: &Lab, daemon: &Daemon, target: &str, listen: &str, client: IpAddr) {
    let get = || lab.client().run(|| http_get(at(listen), "/")).expect("an answer");
    assert_eq!(get(), (200, PAGE.to_owned()), "{listen}");
    daemon.await_target(target, "active", SOON);
    let (status, body) = get();
    assert_eq!(status, 200);
    assert!(
        body.starts_with(&format!("hello from {client}:")) || body.starts_with(&format!("hello from [{client}]:")),
        "{body}"
    );
}

#[test]
fn a_cold_request_gets_the_page_and_the_next_the_backend_over_both_families() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let _four = serve_http(&lab.backend, (BACKEND_V4, 8080).into(), "hello");
    let _six = serve_http(&lab.backend, (BACKEND_V6, 8080).into(), "hello");
    let names = ["one4", "any4", "one6", "any6"];
    let endpoints = ["e=tcp/203.0.113.2:8080", "e=tcp/[2001:db8:2::2]:8080"];
    let listens = ["198.51.100.1:80", "0.0.0.0:81", "[2001:db8:1::1]:80", "[::]:81"];
    let clients = ["198.51.100.1:80", "198.51.100.1:81", "[2001:db8:1::1]:80", "[2001:db8:1::1]:81"];
    let targets: Vec<_> = names.iter().enumerate().map(|(at, name)| external(name, &[endpoints[at / 2]])).collect();
    let frontends: Vec<_> =
        names.iter().zip(listens).map(|(name, listen)| page(name, listen, &format!("{name}:e"))).collect();
    let daemon = Daemon::start(&lab, &config(&targets, &frontends));
    assert_eq!(active(&lab.gateway), "");
    for (index, name) in names.iter().enumerate() {
        let client = if index < 2 { Lab::client_v4(0) } else { Lab::client_v6(0) };
        assert_cold_then_warm(&lab, &daemon, name, clients[index], client);
    }
    assert!(elements(&lab.gateway, "active_ip4").starts_with("tcp . 198.51.100.1 . 80 : "));
    assert!(elements(&lab.gateway, "active_any4").starts_with("tcp . 81 : "));
    assert!(elements(&lab.gateway, "active_ip6").starts_with("tcp . 2001:db8:1::1 . 80 : "));
    assert!(elements(&lab.gateway, "active_any6").starts_with("tcp . 81 : "));
}

#[test]
fn datagrams_reach_the_backend_over_both_families() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let _four = serve_udp_echo(&lab.backend, (BACKEND_V4, 5353).into(), "hello");
    let _six = serve_udp_echo(&lab.backend, (BACKEND_V6, 5353).into(), "hello");
    let daemon = Daemon::start(
        &lab,
        &config(
            &[external("b", &["four=udp/203.0.113.2:5353", "six=udp/[2001:db8:2::2]:5353"])],
            &[
                always("one4", "udp/198.51.100.1:53", "b:four"),
                always("any4", "udp/0.0.0.0:54", "b:four"),
                always("one6", "udp/[2001:db8:1::1]:53", "b:six"),
                always("any6", "udp/[::]:54", "b:six"),
            ],
        ),
    );
    daemon.await_target("b", "active", SOON);
    for (listen, client) in [
        ("198.51.100.1:53", Lab::client_v4(0)),
        ("198.51.100.1:54", Lab::client_v4(0)),
        ("[2001:db8:1::1]:53", Lab::client_v6(0)),
        ("[2001:db8:1::1]:54", Lab::client_v6(0)),
    ] {
        let answer = lab.client().run(|| udp_ask(at(listen), b"ping", 5 * SECOND)).expect("an answer");
        assert!(answer.contains(&client.to_string()) && answer.ends_with(": ping"), "{answer}");
    }
}

#[test]
fn frontends_share_an_endpoint_and_one_wake_opens_both() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let backend = backend_command("--tcp 127.0.0.1:8080");
    let target = command("b", &["e=tcp/127.0.0.1:8080"], &backend);
    let frontends = [page("one", "198.51.100.1:80", "b:e"), page("two", "0.0.0.0:81", "b:e")];
    let daemon = Daemon::start(&lab, &config(&[target], &frontends));
    let get =
        |port| lab.client().run(|| http_get((crate::support::GATEWAY_V4, port).into(), "/")).expect("an answer").1;
    assert_eq!(get(80), PAGE);
    daemon.await_target("b", "active", SOON);
    let pids: BTreeSet<String> = [80, 81, 80, 81]
        .map(|port| {
            let body: serde_json::Value = serde_json::from_str(&get(port)).expect("the backend's answer");
            assert!(body["peer"].as_str().is_some_and(|peer| peer.starts_with("198.51.100.2:")), "{body}");
            body["pid"].to_string()
        })
        .into();
    assert_eq!(pids.len(), 1, "{pids:?}");
}

#[test]
fn the_errors_of_one_target_and_of_one_frontend_stop_no_other() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let _taken = serve_http(&lab.gateway, at("0.0.0.0:82"), "squatter");
    let good = command("good", &["e=tcp/127.0.0.1:8080"], &backend_command("--tcp 127.0.0.1:8080"));
    let bad = command("bad", &["e=tcp/127.0.0.1:8081"], "exit 3");
    let frontends = [
        page("good", "0.0.0.0:80", "good:e"),
        page("bad", "0.0.0.0:81", "bad:e"),
        page("taken", "0.0.0.0:82", "good:e"),
    ];
    let daemon = Daemon::start(&lab, &config(&[good, bad], &frontends));
    let get =
        |port| lab.client().run(|| http_get((crate::support::GATEWAY_V4, port).into(), "/")).expect("an answer").1;
    let taken = daemon.frontend("taken");
    assert_eq!(taken["state"], "stopped");
    assert!(taken["last_error"].as_str().is_some_and(|error| error.contains("in use")), "{taken}");
    assert_eq!(get(81), PAGE);
    eventually("the bad one has failed", SOON, || daemon.target("bad")["last_error"] != json!(null));
    assert_eq!(get(80), PAGE);
    daemon.await_target("good", "active", SOON);
    assert!(get(80).contains("backend"));
    assert_eq!(get(81), PAGE);
    assert!(get(82).starts_with("squatter"));
}

#[test]
fn a_wildcard_leaves_forwarded_traffic_alone_cold_and_warm() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let four = "203.0.113.2:80";
    let six = "[2001:db8:2::2]:80";
    let _backend4 = serve_http(&lab.backend, (BACKEND_V4, 8080).into(), "hello");
    let _backend6 = serve_http(&lab.backend, (BACKEND_V6, 8080).into(), "hello");
    let _direct4 = serve_http(&lab.backend, at(four), "direct");
    let _direct6 = serve_http(&lab.backend, at(six), "direct");
    let _direct_udp = serve_udp_echo(&lab.backend, (BACKEND_V4, 53).into(), "direct");
    let targets = [
        external("b4", &["e=tcp/203.0.113.2:8080"]),
        external("b6", &["e=tcp/[2001:db8:2::2]:8080"]),
        // Cold for as long as nothing listens there.
        external("cold", &["e=tcp/203.0.113.2:1", "u=udp/203.0.113.2:1"]),
    ];
    let frontends = [
        page("f4", "0.0.0.0:80", "b4:e"),
        page("f6", "[::]:80", "b6:e"),
        always("cold", "tcp/0.0.0.0:81", "cold:e"),
        always("cold-udp", "udp/0.0.0.0:53", "cold:u"),
    ];
    let _direct_cold = serve_http(&lab.backend, (BACKEND_V4, 81).into(), "direct");
    let daemon = Daemon::start(&lab, &config(&targets, &frontends));
    let direct = || {
        for address in [four, six, "203.0.113.2:81"] {
            let (_, body) = lab.client().run(|| http_get(at(address), "/")).expect("an answer");
            assert!(body.starts_with("direct from "), "{address}: {body}");
        }
        let answer = lab.client().run(|| udp_ask((BACKEND_V4, 53).into(), b"?", 5 * SECOND)).expect("an answer");
        assert!(answer.starts_with("direct from 198.51.100.2:"), "{answer}");
    };
    direct();
    assert_eq!(daemon.target("b4")["state"], "inactive", "forwarded traffic does not wake");
    warm(&daemon, "b4");
    warm(&daemon, "b6");
    direct();
    for listen in ["198.51.100.1:80", "[2001:db8:1::1]:80", "203.0.113.1:80"] {
        let (_, body) = lab.client().run(|| http_get(at(listen), "/")).expect("an answer");
        assert!(body.starts_with("hello from "), "{listen}: {body}");
    }
}

#[test]
fn outsiders_reach_a_backend_on_127_0_0_1_through_the_frontend_and_not_past_it() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let sysctl = || lab.gateway.read_sysctl("ipv4/conf/all/route_localnet");
    let target = command("b", &["e=tcp/127.0.0.1:8080"], &backend_command("--tcp 127.0.0.1:8080"));
    let setup = config(&[target], &[page("f", "0.0.0.0:80", "b:e")]);
    // A secret of the gateway, and a client that can address 127.0.0.9 of its neighbour.
    let secret = serve_http(&lab.gateway, at("127.0.0.9:8080"), "secret");
    lab.client().sysctl("ipv4/conf/all/route_localnet", "1");
    lab.client().ip("route del 127.0.0.0/8 dev lo table local\nroute add 127.0.0.9/32 via 198.51.100.1\n");
    let steal = || lab.client().run(|| http_get_within(at("127.0.0.9:8080"), "/", SECOND));

    let mut daemon = Daemon::start(&lab, &setup);
    assert_ne!(sysctl(), "0");
    warm(&daemon, "b");
    let (_, body) = lab.client().run(|| http_get(at("198.51.100.1:80"), "/")).expect("an answer");
    assert!(body.contains("127.0.0.1:8080") && body.contains("198.51.100.2:"), "{body}");
    steal().expect_err("the guard drops it");
    assert_eq!(secret.served(), 0);
    assert!(daemon.terminate().success());
    assert_eq!(sysctl(), "0");

    daemon.restart();
    daemon.kill9();
    assert_ne!(sysctl(), "0", "kill -9 leaves it");
    steal().expect_err("the guard is left, too");
    assert_eq!(secret.served(), 0);
    // Without the guards it would be served: the attempt is a real one.
    nft(&lab.gateway, "flush chain inet proxygw guard");
    assert!(steal().expect("no guard").1.starts_with("secret from 198.51.100.2:"));
    daemon.restart();
    assert!(daemon.terminate().success());
    assert_eq!(sysctl(), "0");

    // An administrator's own setting is none of ours.
    lab.gateway.sysctl("ipv4/conf/all/route_localnet", "1");
    daemon.restart();
    assert_eq!(sysctl(), "1");
    assert!(daemon.terminate().success());
    assert_eq!(sysctl(), "1");
}

#[test]
fn the_rules_are_repaired_after_somebody_has_flushed_them() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let _backend = serve_http(&lab.backend, (BACKEND_V4, 8080).into(), "hello");
    let targets = [external("b", &["e=tcp/203.0.113.2:8080"]), external("c", &["e=tcp/203.0.113.2:8080"])];
    let frontends =
        [page("b", "0.0.0.0:80", "b:e"), with(page("c", "0.0.0.0:81", "c:e"), json!({"flow_timeout": "7s"}))];
    let daemon = Daemon::start(&lab, &config(&targets, &frontends));
    let get =
        |port| lab.client().run(|| http_get((crate::support::GATEWAY_V4, port).into(), "/")).expect("an answer").1;
    warm(&daemon, "b");
    nft(&lab.gateway, "flush ruleset");
    warm(&daemon, "c");
    assert!(get(80).starts_with("hello") && get(81).starts_with("hello"), "a warm step repairs all");
    nft(&lab.gateway, "flush ruleset");
    daemon.request(10, json!({"name": "c"}));
    daemon.await_target("c", "inactive", SOON);
    assert!(get(80).starts_with("hello"), "a drain repairs all");
    assert_eq!(get(81), PAGE);
}
