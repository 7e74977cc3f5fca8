//! Ranges of ports.

use std::io::ErrorKind;
use std::path::Path;

use serde_json::json;

use crate::setup::{SECOND, SOON, always, at, command, config, elements, with};
use crate::shape::{GATEWAY4, GATEWAY6, ask, assert_from, echoes, hold, one_endpoint, short};
use crate::support::{
    BACKEND_V4, BACKEND_V6, Daemon, Lab, eventually, http_get, nft_ruleset, require_namespaces, second_nft,
    serve_udp_echo, udp_ask,
};

/// With the nft of this system, and with the other one.
fn with_each_nft(test: impl Fn(Lab)) {
    if !require_namespaces() {
        return;
    }
    test(Lab::new());
    if let Some(nft) = second_nft() {
        test(Lab::with_nft(Path::new(&nft)));
    }
}

#[test]
fn a_range_to_itself_is_one_element() {
    with_each_nft(|lab| {
        let ports = [27015, 27020, 27030];
        let _four = echoes(&lab, BACKEND_V4, ports);
        let _six = echoes(&lab, BACKEND_V6, ports);
        let _outside = echoes(&lab, BACKEND_V4, [27014, 27031]);
        let both = json!(["203.0.113.2:27015-27030", "[2001:db8:2::2]:27015-27030"]);
        let listen = json!(["0.0.0.0:27015-27030", "[2001:db8:1::1]:27015-27030"]);
        let config = config(&[one_endpoint("games", "udp", both)], &[short("games", "static:always", listen, "games")]);
        let daemon = Daemon::start(&lab, &config);
        daemon.await_target("games", "active", SOON);
        assert_eq!(elements(&lab.gateway, "active_range_any4"), "udp . 27015-27030 : goto frontend-0 }");
        assert_eq!(elements(&lab.gateway, "active_range_ip6"), "udp . 2001:db8:1::1 . 27015-27030 : goto frontend-0 }");
        assert_eq!(elements(&lab.gateway, "active_any4") + &elements(&lab.gateway, "active_ip6"), "");
        let rules = nft_ruleset(&lab.gateway).expect("the table");
        assert!(!rules.contains("active_range_ip4") && !rules.contains("active_range_any6"), "{rules}");
        for port in ports {
            let server = port.to_string();
            assert_from(&ask(&lab, &format!("{GATEWAY4}:{port}")), &server, Lab::client_v4(0));
            assert_from(&ask(&lab, &format!("{GATEWAY6}:{port}")), &server, Lab::client_v6(0));
            let here = lab.gateway.run(|| udp_ask(at(&format!("{GATEWAY4}:{port}")), b"?", 5 * SECOND));
            assert!(here.expect("an answer").starts_with(&format!("{server} from ")));
        }
        for port in [27014, 27031] {
            let answer = lab.client().run(|| udp_ask(at(&format!("{GATEWAY4}:{port}")), b"?", SECOND));
            assert!(answer.is_err(), "{port} is outside of the range: {answer:?}");
        }
        // What is merely forwarded is left alone, also to the range.
        assert_from(&ask(&lab, "203.0.113.2:27020"), "27020", Lab::client_v4(0));
        assert_eq!(daemon.frontend("games")["listen"], json!("0.0.0.0:27015-27030"));
        assert_eq!(daemon.target("games")["endpoints"][0]["address"], json!("203.0.113.2:27015-27030"));
        daemon.request(18, json!({"name": "games"}));
        daemon.await_frontend("games", "stopped", SOON);
        assert_eq!(elements(&lab.gateway, "active_range_any4") + &elements(&lab.gateway, "cold_range_any4"), "");
    });
}

#[test]
fn a_shifted_range_keeps_the_order_of_its_ports() {
    with_each_nft(|lab| {
        let _servers = echoes(&lab, BACKEND_V4, 200..210);
        let _six = echoes(&lab, BACKEND_V6, [102, 103]);
        let both = json!(["203.0.113.2:200-209", "[2001:db8:2::2]:100-109"]);
        // Shifted, unchanged, shifted with ports that another listen has on another address, and the other family.
        let listens = json!(["198.51.100.1:100-109", "0.0.0.0:200-209", "203.0.113.1:105-114", "[::]:99-108"]);
        let config = config(&[one_endpoint("b", "udp", both)], &[short("f", "static:always", listens, "b")]);
        let daemon = Daemon::start(&lab, &config);
        daemon.await_target("b", "active", SOON);
        for (to, port) in [
            ("198.51.100.1:100", "200"),
            ("198.51.100.1:107", "207"),
            ("198.51.100.1:109", "209"),
            ("198.51.100.1:200", "200"),
            ("203.0.113.1:204", "204"),
            ("203.0.113.1:107", "202"),
            ("203.0.113.1:114", "209"),
        ] {
            assert_from(&ask(&lab, to), port, Lab::client_v4(0));
        }
        assert_from(&ask(&lab, &format!("{GATEWAY6}:101")), "102", Lab::client_v6(0));
        assert_from(&ask(&lab, &format!("{GATEWAY6}:102")), "103", Lab::client_v6(0));
        assert!(lab.client().run(|| udp_ask(at("203.0.113.1:104"), b"?", SECOND)).is_err(), "nobody listens there");
        // Past the gateway's own addresses.
        assert_from(&ask(&lab, "203.0.113.2:203"), "203", Lab::client_v4(0));
        let rules = nft_ruleset(&lab.gateway).expect("the table");
        for map in ["map ports-100-109-to-200 {", "map ports-105-114-to-200 {", "map ports-99-108-to-100 {"] {
            assert!(rules.contains(map), "{map}\n{rules}");
        }
    });
}

/// As large as a file can have them, almost.
#[test]
fn a_shifted_range_may_be_large() {
    with_each_nft(|lab| {
        let _servers = echoes(&lab, BACKEND_V4, [30_001, 60_000]);
        let target = one_endpoint("b", "udp", json!("203.0.113.2:30001-60000"));
        let other = one_endpoint("c", "udp", json!("203.0.113.2:30002-60001"));
        let frontends = [
            short("f", "static:always", json!("198.51.100.1:1-30000"), "b"),
            short("g", "static:always", json!("203.0.113.1:1-30000"), "c"),
        ];
        let daemon = Daemon::start(&lab, &config(&[target, other], &frontends));
        daemon.await_target("b", "active", SOON);
        assert_from(&ask(&lab, "198.51.100.1:1"), "30001", Lab::client_v4(0));
        assert_from(&ask(&lab, "198.51.100.1:30000"), "60000", Lab::client_v4(0));
        daemon.await_target("c", "active", SOON);
        assert_from(&ask(&lab, "203.0.113.1:29999"), "60000", Lab::client_v4(0));
    });
}

/// The cold path of a range changes within one transaction, in a map of intervals.
#[test]
fn clients_of_a_range_are_refused_while_its_target_backs_off() {
    with_each_nft(|lab| {
        let target = with(
            command("b", &[], "exec sleep 1000"),
            json!({"readiness": {"deadline": "500ms"},
            "endpoints": [{"name": "e", "protocol": "tcp", "address": "127.0.0.1:300-309"}]}),
        );
        let frontend = with(hold("f", json!("0.0.0.0:300-309"), "b"), json!({"options": {"on_failure": "reject"}}));
        let daemon = Daemon::start(&lab, &config(&[target], &[frontend]));
        let refused = || {
            let result = lab.client().run(|| http_get(at("198.51.100.1:305"), "/"));
            assert_eq!(result.map_err(|error| error.kind()), Err(ErrorKind::ConnectionRefused), "{}", daemon.log());
        };
        assert!(elements(&lab.gateway, "cold_range_any4").contains(" : goto cold-hold-0"));
        refused();
        // Each failure doubles the backoff.
        eventually("the cold path refuses", SOON, || {
            refused();
            elements(&lab.gateway, "cold_range_any4") == "tcp . 300-309 : goto cold-refuse-0 }"
        });
        eventually("it waits again", SOON, || {
            elements(&lab.gateway, "cold_range_any4") == "tcp . 300-309 : goto cold-hold-0 }"
        });
    });
}

/// A wildcard whose ports are partly the endpoint's own, on this host.
#[test]
fn a_shifted_wildcard_leaves_the_endpoint_itself_alone() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let _servers: Vec<_> = (302..306)
        .map(|port| serve_udp_echo(&lab.gateway, at(&format!("203.0.113.1:{port}")), &port.to_string()))
        .collect();
    let target = one_endpoint("b", "udp", json!("203.0.113.1:302-305"));
    let config = config(&[target], &[always("f", "udp/0.0.0.0:300-303", "b:e")]);
    let daemon = Daemon::start(&lab, &config);
    daemon.await_target("b", "active", SOON);
    for (to, server) in [
        ("198.51.100.1:300", "302"),
        ("198.51.100.1:303", "305"),
        ("203.0.113.1:301", "303"),
        ("203.0.113.1:302", "302"),
        ("203.0.113.1:303", "303"),
        ("203.0.113.1:305", "305"),
    ] {
        assert_from(&ask(&lab, to), server, Lab::client_v4(0));
    }
}
