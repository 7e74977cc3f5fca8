//! Who reaches what, and whose address the backend sees.

use std::net::IpAddr;
use std::path::Path;

use serde_json::{Value, json};

use crate::setup::{SECOND, SOON, always, at, config, ctl, external, page, with};
use crate::support::{
    BACKEND_V4, BACKEND_V6, Daemon, Lab, Namespace, Server, binary, eventually, http_get, http_get_within,
    require_namespaces, second_nft, serve_http, serve_udp_echo, udp_ask,
};

/// The gateway's addresses on the backend's side.
pub const BACKENDS_SIDE: [&str; 2] = ["203.0.113.1", "2001:db8:2::1"];

/// The address that the backend saw, of an answer `… from ADDRESS:PORT…`.
#[track_caller]
pub fn seen(answer: &str) -> IpAddr {
    let from = answer.split_once(" from ").expect("who asked").1;
    let from = from.trim_end().trim_end_matches(": ?");
    from.parse::<std::net::SocketAddr>().unwrap_or_else(|error| panic!("{answer:?}: {error}")).ip()
}

/// Whom the backend sees when a client asks there, over TCP and over UDP.
#[track_caller]
pub fn asks(client: &Namespace, address: &str) -> [IpAddr; 2] {
    let tcp = client.run(|| http_get_within(at(address), "/", 5 * SECOND));
    let udp = client.run(|| udp_ask(at(address), b"?", 5 * SECOND));
    [
        seen(&tcp.unwrap_or_else(|error| panic!("tcp {address}: {error}")).1),
        seen(&udp.unwrap_or_else(|error| panic!("udp {address}: {error}"))),
    ]
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// Servers of the backend at port 8080, and a target that has them as endpoints `t` and `u`, each with both families.
pub fn backend(lab: &Lab) -> (Vec<Server>, Value) {
    let servers = [BACKEND_V4, BACKEND_V6].map(|ip| {
        [serve_http(&lab.backend, (ip, 8080).into(), "tcp"), serve_udp_echo(&lab.backend, (ip, 8080).into(), "udp")]
    });
    let addresses = json!(["203.0.113.2:8080", "[2001:db8:2::2]:8080"]);
    let endpoint = |name, protocol| json!({"name": name, "protocol": protocol, "address": addresses});
    let target = with(external("b", &[]), json!({"endpoints": [endpoint("t", "tcp"), endpoint("u", "udp")]}));
    (servers.into_iter().flatten().collect(), target)
}

/// A frontend for each protocol, on every address of the gateway.
pub fn frontends(kind: &str, port: u16, masquerade: &str) -> [Value; 2] {
    ["t", "u"].map(|endpoint| {
        json!({"name": format!("{endpoint}{port}"), "kind": kind, "listen": format!("[::]:{port}"), "dual_stack": true,
            "flow_timeout": "1m", "target": format!("b:{endpoint}"), "masquerade": masquerade})
    })
}

/// The addresses of the gateway, each with the one that a backend elsewhere sees when a client there connects to it.
fn own_addresses() -> [(&'static str, IpAddr); 6] {
    [
        ("127.0.0.1", ip(BACKENDS_SIDE[0])),
        ("198.51.100.1", ip("198.51.100.1")),
        ("203.0.113.1", ip("203.0.113.1")),
        ("[::1]", ip(BACKENDS_SIDE[1])),
        ("[2001:db8:1::1]", ip("2001:db8:1::1")),
        ("[2001:db8:2::1]", ip("2001:db8:2::1")),
    ]
}

#[track_caller]
fn the_gateways_own_clients_are_served(nft: Option<&Path>) {
    let lab = nft.map_or_else(Lab::new, Lab::with_nft);
    let (_servers, target) = backend(&lab);
    let held = with(target.clone(), json!({"name": "held"}));
    let mut all = frontends("static:always", 80, "auto").to_vec();
    all.extend(frontends("packet:hold", 81, "auto").map(|frontend| {
        let target = frontend["target"].as_str().expect("a target").replace("b:", "held:");
        with(frontend, json!({"target": target}))
    }));
    let mut daemon = Daemon::start(&lab, &config(&[target, held], &all));
    daemon.await_target("b", "active", SOON);
    for (address, expected) in own_addresses() {
        assert_eq!(asks(&lab.gateway, &format!("{address}:80")), [expected; 2], "{address}");
        // From cold: the first packets are held, and sent on.
        daemon.request(10, json!({"name": "held"}));
        daemon.await_target("held", "inactive", SOON);
        assert_eq!(asks(&lab.gateway, &format!("{address}:81")), [expected; 2], "held, {address}\n{}", daemon.log());
    }
    let loopback_routes = || lab.gateway.sh("ip -6 route show table local ::1").lines().count();
    assert_eq!(loopback_routes(), 3);
    // Clients elsewhere are seen themselves.
    for (address, expected) in [("198.51.100.1", Lab::client_v4(0)), ("[2001:db8:1::1]", Lab::client_v6(0))] {
        assert_eq!(asks(lab.client(), &format!("{address}:80")), [expected; 2]);
        assert_eq!(asks(lab.client(), &format!("{address}:81")), [expected; 2]);
    }
    daemon.terminate();
    assert_eq!(loopback_routes(), 1);
}

#[test]
fn the_gateways_own_clients_are_served_with_the_nft_of_the_path() {
    if require_namespaces() {
        the_gateways_own_clients_are_served(None);
    }
}

#[test]
fn the_gateways_own_clients_are_served_with_the_nft_of_another_release() {
    if require_namespaces()
        && let Some(nft) = second_nft()
    {
        the_gateways_own_clients_are_served(Some(&nft));
    }
}

#[test]
fn the_gateways_own_clients_reach_backends_on_the_gateway() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let addresses = ["127.0.0.1:8080", "[::1]:8080"];
    let servers = addresses.map(|address| {
        [serve_http(&lab.gateway, at(address), "tcp"), serve_udp_echo(&lab.gateway, at(address), "udp")]
    });
    let endpoint = |name, protocol| json!({"name": name, "protocol": protocol, "address": addresses});
    let target = with(external("b", &[]), json!({"endpoints": [endpoint("t", "tcp"), endpoint("u", "udp")]}));
    let daemon = Daemon::start(&lab, &config(&[target], &frontends("static:always", 80, "auto")));
    daemon.await_target("b", "active", SOON);
    for (address, _) in own_addresses() {
        let expected = ip(address.trim_matches(['[', ']']));
        assert_eq!(asks(&lab.gateway, &format!("{address}:80")), [expected; 2], "{address}");
    }
    drop(servers);
}

#[test]
fn always_and_never_mean_what_they_say_also_for_one_endpoint() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let (_servers, target) = backend(&lab);
    // The backend's way back does not lead through the gateway.
    lab.backend.ip("route del default\nroute del ::/0\n");
    let mut all = frontends("static:always", 80, "always").to_vec();
    all.extend(frontends("static:always", 81, "never"));
    // Two on one port, told apart by their addresses.
    for (name, listen, masquerade) in
        [("m", "198.51.100.1:82", "always"), ("n", "203.0.113.1:82", "never"), ("a", "127.0.0.1:82", "auto")]
    {
        all.push(with(always(name, &format!("tcp/{listen}"), "b:t"), json!({"masquerade": masquerade})));
    }
    let daemon = Daemon::start(&lab, &config(&[target], &all));
    daemon.await_target("b", "active", SOON);
    for (address, expected) in [("198.51.100.1", BACKENDS_SIDE[0]), ("[2001:db8:1::1]", BACKENDS_SIDE[1])] {
        assert_eq!(asks(lab.client(), &format!("{address}:80")), [ip(expected); 2]);
        let lost = lab.client().run(|| http_get_within(at(&format!("{address}:81")), "/", SECOND));
        assert!(lost.is_err(), "{lost:?}");
    }
    let get = |client: &Namespace, address: &str| {
        client.run(|| http_get_within(at(address), "/", SECOND)).map(|answer| seen(&answer.1))
    };
    assert_eq!(get(lab.client(), "198.51.100.1:82").expect("an answer"), ip(BACKENDS_SIDE[0]));
    assert!(get(lab.client(), "203.0.113.1:82").is_err());
    assert_eq!(get(&lab.gateway, "203.0.113.1:82").expect("an answer"), ip("203.0.113.1"));
    assert_eq!(get(&lab.gateway, "127.0.0.1:82").expect("an answer"), ip(BACKENDS_SIDE[0]));
}

#[test]
fn a_backend_whose_way_back_is_another_one_is_told_by_what_happens() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let (_servers, target) = backend(&lab);
    lab.backend.ip("route del default\n");
    let [frontend, _] = frontends("static:always", 80, "auto");
    let daemon = Daemon::start(&lab, &config(&[target], &[frontend]));
    daemon.await_target("b", "active", SOON);
    assert_eq!(daemon.frontend("t80")["last_error"], json!(null));
    // That clients on the gateway are served says nothing of the others, whether they come before or after.
    let here =
        || ["127.0.0.1:80", "203.0.113.1:80"].map(|to| lab.gateway.run(|| http_get(at(to), "/")).expect("an answer").0);
    assert_eq!(here(), [200; 2]);
    let lost = lab.client().run(|| http_get_within(at("198.51.100.1:80"), "/", 4 * SECOND));
    assert!(lost.is_err(), "{lost:?}");
    eventually("the frontend says what is wrong", SOON, || daemon.frontend("t80").get("last_error").is_some());
    let error = daemon.frontend("t80")["last_error"].as_str().expect("a text").to_owned();
    assert!(error.contains("203.0.113.2:8080") && error.contains("set masquerade: always"), "{error}");
    assert!(daemon.log().contains(&error));
    assert_eq!(here(), [200; 2]);
    let doctor = format!("{} doctor --config {} || true", binary("proxygw").display(), daemon.config().display());
    let found = lab.gateway.sh(&doctor);
    assert!(found.contains("clients-unanswered"), "{found}");
    assert_eq!(daemon.frontend("t80")["last_error"], json!(error));
    // It is mended at the other place: nothing of it stays.
    lab.backend.ip("route add default via 203.0.113.1\n");
    assert_eq!(lab.client().run(|| http_get((ip("198.51.100.1"), 80).into(), "/")).expect("an answer").0, 200);
    eventually("nothing is wrong any more", SOON, || daemon.frontend("t80").get("last_error").is_none());
}

#[test]
fn forwarded_traffic_is_never_touched() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let (_servers, target) = backend(&lab);
    // Another service at the frontends' ports, elsewhere.
    let others = [BACKEND_V4, BACKEND_V6].map(|ip| {
        [80, 81].map(|port| {
            [
                serve_http(&lab.backend, (ip, port).into(), "other"),
                serve_udp_echo(&lab.backend, (ip, port).into(), "other"),
            ]
        })
    });
    let mut all = frontends("static:always", 80, "always").to_vec();
    let cold = with(external("cold", &["t=tcp/203.0.113.2:9", "u=udp/203.0.113.2:9"]), json!({}));
    all.extend(["t", "u"].map(|endpoint| {
        json!({"name": endpoint, "kind": "packet:hold", "listen": "0.0.0.0:81", "flow_timeout": "1m",
            "target": format!("cold:{endpoint}")})
    }));
    let daemon = Daemon::start(&lab, &config(&[target, cold], &all));
    daemon.await_target("b", "active", SOON);
    for port in [80, 81] {
        for (address, expected) in [(BACKEND_V4, Lab::client_v4(0)), (BACKEND_V6, Lab::client_v6(0))] {
            let address = std::net::SocketAddr::new(address, port);
            let (_, body) = lab.client().run(|| http_get(address, "/")).expect("an answer");
            assert!(body.starts_with("other from"), "{body}");
            assert_eq!(seen(&body), expected);
            let answer = lab.client().run(|| udp_ask(address, b"?", 5 * SECOND)).expect("an answer");
            assert!(answer.starts_with("other from"), "{answer}");
            assert_eq!(seen(&answer), expected);
        }
    }
    assert_eq!(daemon.target("cold")["state"], "inactive");
    drop(others);
}

#[test]
fn a_backend_on_the_ipv6_loopback_is_said_to_be_out_of_reach() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let target = external("b", &["e=tcp/[::1]:8080"]);
    let daemon = Daemon::start(&lab, &config(&[target], &[page("f", "[::]:80", "b:e"), page("l", "[::1]:81", "b:e")]));
    let log = daemon.log();
    let warnings: Vec<_> = log.lines().filter(|line| line.contains("[::1]:8080")).collect();
    assert_eq!(warnings.len(), 1, "{log}");
    assert!(
        warnings[0].contains("frontends[0] \"f\"") && warnings[0].contains("only clients on this host"),
        "{}",
        warnings[0]
    );
    let check = crate::support::binary("proxygw");
    let output = std::process::Command::new(check).arg("--check").arg("-c").arg(daemon.config()).output();
    let output = output.expect("it runs");
    assert!(output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("only clients on this host") && said.lines().count() == 1, "{said}");
    assert!(ctl(&daemon, &["status"]).status.success());
}
