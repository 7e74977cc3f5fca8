//! Lists of addresses, and both families in one frontend.

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};

use serde_json::{Value, json};

use crate::setup::{PAGE, SECOND, SOON, active, at, command, config, elements, external, holds, processes, warm, with};
use crate::support::{
    BACKEND_V4, BACKEND_V6, Daemon, Lab, Server, backend_command, conntrack_entries, eventually, http_get,
    http_get_within, require_namespaces, serve_http, serve_udp_echo, udp_ask,
};

/// Clients' addresses of the gateway.
pub const GATEWAY4: &str = "198.51.100.1";
pub const GATEWAY6: &str = "[2001:db8:1::1]";

/// A target of kind `static:none` with one endpoint.
pub fn one_endpoint(name: &str, protocol: &str, addresses: Value) -> Value {
    let target = external(name, &[]);
    with(target, json!({"endpoints": [{"name": "e", "protocol": protocol, "address": addresses}]}))
}

/// A frontend that says nothing twice: neither protocol nor endpoint.
pub fn short(name: &str, kind: &str, listen: Value, target: &str) -> Value {
    json!({"name": name, "kind": kind, "listen": listen, "flow_timeout": "1m", "target": target})
}

/// A frontend of kind `packet:hold`.
pub fn hold(name: &str, listen: Value, target: &str) -> Value {
    short(name, "packet:hold", listen, target)
}

/// The answer that a client gets of an HTTP server.
#[track_caller]
pub fn get(lab: &Lab, address: &str) -> String {
    lab.client().run(|| http_get(at(address), "/")).unwrap_or_else(|error| panic!("{address}: {error}")).1
}

/// The answer that a client gets to a datagram.
#[track_caller]
pub fn ask(lab: &Lab, address: &str) -> String {
    let answer = lab.client().run(|| udp_ask(at(address), b"?", 5 * SECOND));
    answer.unwrap_or_else(|error| panic!("{address}: {error}"))
}

/// The backend has seen the client itself.
#[track_caller]
pub fn assert_from(answer: &str, server: &str, client: IpAddr) {
    let client = SocketAddr::new(client, 0).to_string();
    let client = client.trim_end_matches('0');
    assert!(answer.starts_with(&format!("{server} from {client}")), "{answer:?} is not {server}'s for {client}");
}

/// UDP servers of the backend, each called by its port.
pub fn echoes(lab: &Lab, ip: IpAddr, ports: impl IntoIterator<Item = u16>) -> Vec<Server> {
    ports.into_iter().map(|port| serve_udp_echo(&lab.backend, (ip, port).into(), &port.to_string())).collect()
}

pub fn drain(daemon: &Daemon, target: &str) {
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
