//! Lists of addresses, both families in one frontend, and ranges of ports.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;

use serde_json::{Value, json};

use crate::setup::{
    PAGE, SECOND, SOON, active, always, at, command, config, elements, external, holds, processes, warm, with,
};
use crate::support::{
    BACKEND_V4, BACKEND_V6, Daemon, Lab, Server, backend_command, conntrack_entries, eventually, http_get,
    http_get_within, nft_ruleset, require_namespaces, second_nft, serve_http, serve_udp_echo, udp_ask,
};

/// Clients' addresses of the gateway.
const GATEWAY4: &str = "198.51.100.1";
const GATEWAY6: &str = "[2001:db8:1::1]";

/// A target of kind `static:none` with one endpoint.
fn one_endpoint(name: &str, protocol: &str, addresses: Value) -> Value {
    let target = external(name, &[]);
    with(target, json!({"endpoints": [{"name": "e", "protocol": protocol, "address": addresses}]}))
}

/// A frontend that says nothing twice: neither protocol nor endpoint.
fn short(name: &str, kind: &str, listen: Value, target: &str) -> Value {
    json!({"name": name, "kind": kind, "listen": listen, "flow_timeout": "1m", "target": target})
}

/// A frontend of kind `packet:hold`.
fn hold(name: &str, listen: Value, target: &str) -> Value {
    short(name, "packet:hold", listen, target)
}

/// The answer that a client gets of an HTTP server.
#[track_caller]
fn get(lab: &Lab, address: &str) -> String {
    lab.client().run(|| http_get(at(address), "/")).unwrap_or_else(|error| panic!("{address}: {error}")).1
}

/// The answer that a client gets to a datagram.
#[track_caller]
fn ask(lab: &Lab, address: &str) -> String {
    let answer = lab.client().run(|| udp_ask(at(address), b"?", 5 * SECOND));
    answer.unwrap_or_else(|error| panic!("{address}: {error}"))
}

/// The backend has seen the client itself.
#[track_caller]
fn assert_from(answer: &str, server: &str, client: IpAddr) {
    let client = SocketAddr::new(client, 0).to_string();
    let client = client.trim_end_matches('0');
    assert!(answer.starts_with(&format!("{server} from {client}")), "{answer:?} is not {server}'s for {client}");
}

/// UDP servers of the backend, each called by its port.
fn echoes(lab: &Lab, ip: IpAddr, ports: impl IntoIterator<Item = u16>) -> Vec<Server> {
    ports.into_iter().map(|port| serve_udp_echo(&lab.backend, (ip, port).into(), &port.to_string())).collect()
}

fn drain(daemon: &Daemon, target: &str) {
    daemon.request(10, json!({"name": target}));
    daemon.await_target(target, "inactive", SOON);
}

#[test]
fn one_frontend_serves_both_families_each_by_the_endpoints_address_of_that_family() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let _four = serve_http(&lab.backend, (BACKEND_V4, 8080).into(), "four");
    let _six = serve_http(&lab.backend, (BACKEND_V6, 8081).into(), "six");
    let both = json!(["203.0.113.2:8080", "[2001:db8:2::2]:8081"]);
    let content = json!({"options": {"content": PAGE}});
    let list = short("list", "static:http", json!([format!("{GATEWAY4}:80"), format!("{GATEWAY6}:82")]), "b");
    let dual = with(short("dual", "static:http", json!("[::]:81"), "b:e"), json!({"dual_stack": true}));
    let frontends = [with(list, content.clone()), with(dual, content)];
    let daemon = Daemon::start(&lab, &config(&[one_endpoint("b", "tcp", both.clone())], &frontends));
    for (four, six) in [("80", "82"), ("81", "81")] {
        let (four, six) = (format!("{GATEWAY4}:{four}"), format!("{GATEWAY6}:{six}"));
        for cold in [&four, &six] {
            assert_eq!(get(&lab, cold), PAGE, "{cold}");
            daemon.await_target("b", "active", SOON);
            assert_from(&get(&lab, &four), "four", Lab::client_v4(0));
            assert_from(&get(&lab, &six), "six", Lab::client_v6(0));
            drain(&daemon, "b");
        }
    }
    let list = daemon.frontend("list");
    assert_eq!(
        (&list["listen"], &list["listens"]),
        (&json!("198.51.100.1:80"), &json!(["198.51.100.1:80", "[2001:db8:1::1]:82"]))
    );
    assert_eq!((&list["proxyaddress"], &list["proxyaddresses"]), (&both[0], &both));
    assert_eq!((&list["protocol"], &list["endpoint_name"]), (&json!("tcp"), &json!("e")));
    let dual = daemon.frontend("dual");
    assert_eq!(dual["listens"], json!(["[::]:81", "0.0.0.0:81"]));
    let endpoint = daemon.target("b")["endpoints"][0].clone();
    assert_eq!((&endpoint["address"], &endpoint["addresses"]), (&both[0], &both));
    warm(&daemon, "b");
    assert!(elements(&lab.gateway, "active_ip4").starts_with("tcp . 198.51.100.1 . 80 : goto frontend-0"));
    assert!(elements(&lab.gateway, "active_ip6").starts_with("tcp . 2001:db8:1::1 . 82 : goto frontend-0"));
    assert!(elements(&lab.gateway, "active_any4").starts_with("tcp . 81 : goto frontend-1"));
    assert!(elements(&lab.gateway, "active_any6").starts_with("tcp . 81 : goto frontend-1"));
}

#[test]
fn a_target_with_two_addresses_is_ready_when_both_are() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let four = serve_http(&lab.backend, (BACKEND_V4, 8080).into(), "four");
    let both = json!(["203.0.113.2:8080", "[2001:db8:2::2]:8080"]);
    let frontend = with(short("f", "static:always", json!("[::]:80"), "b"), json!({"dual_stack": true}));
    let target = with(one_endpoint("b", "tcp", both), json!({"readiness": {"deadline": "1s"}}));
    let daemon = Daemon::start(&lab, &config(&[target], &[frontend]));
    eventually("the other is missing", SOON, || {
        daemon.target("b")["last_error"].as_str().is_some_and(|error| error.contains("tcp [2001:db8:2::2]:8080"))
    });
    assert_eq!(active(&lab.gateway), "");
    assert!(four.served() > 0, "the first has been asked");
    let _six = serve_http(&lab.backend, (BACKEND_V6, 8080).into(), "six");
    daemon.await_target("b", "active", SOON);
}

/// In the gateway, on whatever port of a range: a command that answers HTTP and datagrams after a moment.
fn slow(name: &str, protocol: &str, addresses: Value, listens: &[String]) -> Value {
    let places: String = listens.iter().map(|place| format!(" --{protocol} {place}")).collect();
    let target = command(name, &[], &backend_command(&format!("--name {name} --delay 0.2{places}")));
    with(target, json!({"endpoints": [{"name": "e", "protocol": protocol, "address": addresses}]}))
}

#[test]
fn cold_clients_of_both_families_and_of_ranges_are_held() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    // The first ports, which are asked for, are bound last.
    let ports = |ip: &str| (300..304).rev().map(|port| format!("{ip}:{port}")).collect::<Vec<_>>();
    let both = [ports("203.0.113.1"), ports("[2001:db8:2::1]")].concat();
    let addresses = json!(["203.0.113.1:300-303", "[2001:db8:2::1]:300-303"]);
    let targets = [slow("t", "tcp", addresses.clone(), &both), slow("u", "udp", addresses, &both)];
    let frontends = [
        // Shifted, on all addresses of both families.
        with(hold("t", json!("[::]:400-403"), "t"), json!({"dual_stack": true})),
        // The same ports as the endpoint's.
        hold("u", json!(["0.0.0.0:300-303", "[2001:db8:1::1]:300-303"]), "u"),
    ];
    let daemon = Daemon::start(&lab, &config(&targets, &frontends));
    for (index, ip) in [GATEWAY4, GATEWAY6].into_iter().enumerate() {
        let client = [Lab::client_v4(0), Lab::client_v6(0)][index];
        for namespace in [lab.client(), &lab.gateway] {
            let address = format!("{ip}:402");
            let answer = namespace.run(|| http_get(at(&address), "/")).expect("it is served").1;
            let answer: Value = serde_json::from_str(&answer).expect("the backend's");
            assert!(answer["local"].as_str().is_some_and(|local| local.ends_with(":302")), "{answer}");
            if namespace.name() == lab.client().name() {
                let client = SocketAddr::new(client, 0).to_string();
                let client = client.trim_end_matches('0');
                assert!(answer["peer"].as_str().is_some_and(|peer| peer.starts_with(client)), "{answer}");
            }
            drain(&daemon, "t");
            let address = format!("{ip}:303");
            let answer = namespace.run(|| udp_ask(at(&address), b"?", 5 * SECOND)).expect("it is answered");
            let answer: Value = serde_json::from_str(&answer).expect("the backend's");
            assert!(answer["local"].as_str().is_some_and(|local| local.ends_with(":303")), "{answer}");
            drain(&daemon, "u");
        }
    }
    for name in ["t", "u"] {
        let counters = daemon.frontend(name)["hold"].clone();
        let held = counters["captured"].as_u64().zip(counters["repeated"].as_u64()).map(|(all, again)| all - again);
        assert_eq!((held, &counters["sent"]), (Some(4), &json!(4)), "{name}: {counters}");
    }
}

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

#[test]
fn a_page_is_on_every_address_and_port_of_its_frontend() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let _four: Vec<_> =
        (9000..9003).map(|port| serve_http(&lab.backend, (BACKEND_V4, port).into(), &port.to_string())).collect();
    let _six: Vec<_> =
        (9000..9003).map(|port| serve_http(&lab.backend, (BACKEND_V6, port).into(), &port.to_string())).collect();
    let both = json!(["203.0.113.2:9000-9002", "[2001:db8:2::2]:9000-9002"]);
    let listen = json!(["0.0.0.0:80-82", "[2001:db8:1::1]:9000-9002"]);
    let frontend = with(short("f", "static:http", listen, "b"), json!({"options": {"content": PAGE}}));
    let daemon = Daemon::start(&lab, &config(&[one_endpoint("b", "tcp", both)], &[frontend]));
    for index in 0..3 {
        for address in [format!("{GATEWAY4}:{}", 80 + index), format!("{GATEWAY6}:{}", 9000 + index)] {
            assert_eq!(get(&lab, &address), PAGE, "{address}");
            daemon.await_target("b", "active", SOON);
            let client = if address.starts_with('[') { Lab::client_v6(0) } else { Lab::client_v4(0) };
            assert_from(&get(&lab, &address), &(9000 + index).to_string(), client);
            drain(&daemon, "b");
        }
    }
    // All of its sockets go with it, and come again.
    daemon.request(18, json!({"name": "f"}));
    daemon.await_frontend("f", "stopped", SOON);
    assert!(lab.client().run(|| http_get_within(at("198.51.100.1:82"), "/", SECOND)).is_err());
    daemon.request(16, json!({"name": "f"}));
    daemon.await_frontend("f", "running", SOON);
    assert_eq!(get(&lab, "198.51.100.1:82"), PAGE);
}

#[test]
fn a_page_that_lacks_one_of_its_ports_has_none() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let taken = serve_http(&lab.gateway, at("198.51.100.1:82"), "squatter");
    let target = one_endpoint("b", "tcp", json!("203.0.113.2:9000-9002"));
    let frontend = with(short("f", "static:http", json!("0.0.0.0:80-82"), "b"), json!({"options": {"content": PAGE}}));
    let daemon = Daemon::start(&lab, &config(&[target], &[frontend]));
    let error = daemon.frontend("f")["last_error"].clone();
    assert!(error.as_str().is_some_and(|error| error.contains("cannot listen on 0.0.0.0:82: ")), "{error}");
    assert!(lab.client().run(|| http_get_within(at("198.51.100.1:80"), "/", SECOND)).is_err());
    drop(taken);
    daemon.await_frontend("f", "running", SOON);
    assert_eq!(get(&lab, "198.51.100.1:80"), PAGE);
}

/// A connection that has asked once and stays open.
fn open(lab: &Lab, address: &str) -> TcpStream {
    let mut stream = lab.client().run(|| TcpStream::connect_timeout(&at(address), SOON)).expect("a connection");
    stream.set_read_timeout(Some(SOON)).expect("a timeout");
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").expect("sent");
    let mut line = String::new();
    BufReader::new(stream.try_clone().expect("a descriptor")).read_line(&mut line).expect("an answer");
    assert!(line.starts_with("HTTP/1.1 200"), "{line}");
    stream
}

#[test]
fn flows_through_ranges_and_both_families_keep_their_target_awake() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let listens = ["203.0.113.1:300", "203.0.113.1:302", "[2001:db8:2::1]:301"].map(str::to_owned);
    let target = slow("b", "tcp", json!(["203.0.113.1:300-303", "[2001:db8:2::1]:301-304"]), &listens);
    let target = with(target, json!({"idle_timeout": "1s"}));
    // Shifted for IPv4, unchanged for IPv6.
    let frontend = hold("f", json!(["0.0.0.0:400-403", "[::]:301-304"]), "b");
    let daemon = Daemon::start(&lab, &config(&[target], &[frontend]));
    for address in [format!("{GATEWAY4}:402"), format!("{GATEWAY6}:301")] {
        let stream = open(&lab, &address);
        holds("the open connection keeps it awake", 3 * SECOND, || daemon.target("b")["state"] == "active");
        drop(stream);
        daemon.await_target("b", "inactive", 15 * SECOND);
        assert_eq!(processes(&lab).iter().filter(|line| line.contains("backend.py")).count(), 0);
        let left = conntrack_entries(&lab.gateway).into_iter().filter(|line| line.contains("dport=30")).count();
        assert_eq!(left, 0, "its entries are deleted: {:?}", conntrack_entries(&lab.gateway));
    }
}

#[test]
fn who_may_come_in_is_judged_for_each_family() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::with_clients(2);
    let _four = serve_http(&lab.backend, (BACKEND_V4, 8080).into(), "four");
    let _six = serve_http(&lab.backend, (BACKEND_V6, 8080).into(), "six");
    let both = json!(["203.0.113.2:8080", "[2001:db8:2::2]:8080"]);
    let frontend = with(
        short("f", "static:always", json!("[::]:80"), "b"),
        json!({"dual_stack": true, "allow": ["198.51.100.2", "2001:db8:1::3"], "on_denied": "reject"}),
    );
    let daemon = Daemon::start(&lab, &config(&[one_endpoint("b", "tcp", both)], &[frontend]));
    daemon.await_target("b", "active", SOON);
    let served = |client: usize, ip: &str| {
        lab.clients[client].run(|| http_get_within(at(&format!("{ip}:80")), "/", 5 * SECOND)).is_ok()
    };
    assert!(served(0, GATEWAY4) && !served(0, GATEWAY6));
    assert!(!served(1, GATEWAY4) && served(1, GATEWAY6));
}

/// One listen of the frontend is every address, and another is an address that is not even the gateway's.
#[test]
fn a_listen_on_every_address_beside_one_on_another_leaves_forwarded_traffic_alone() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let _backend = serve_http(&lab.backend, (BACKEND_V4, 8080).into(), "hello");
    let _direct = serve_http(&lab.backend, (BACKEND_V4, 80).into(), "direct");
    let target = one_endpoint("b", "tcp", json!("203.0.113.2:8080"));
    let frontend = short("f", "static:always", json!(["0.0.0.0:80", "192.0.2.77:81"]), "b");
    let daemon = Daemon::start(&lab, &config(&[target], &[frontend]));
    daemon.await_target("b", "active", SOON);
    for (address, server) in [("198.51.100.1:80", "hello"), ("192.0.2.77:81", "hello"), ("203.0.113.2:80", "direct")] {
        assert_from(&get(&lab, address), server, Lab::client_v4(0));
    }
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
