//! Who is on which link, while interfaces come, go and change.

use serde_json::json;

use crate::reach::{BACKENDS_SIDE, asks, backend, frontends, ip, seen};
use crate::setup::{SECOND, SOON, at, command, config, external, page, warm, with};
use crate::support::{
    BACKEND_V4, BACKEND_V6, Daemon, Lab, Namespace, backend_command, eventually, http_get_within, nft_ruleset,
    require_namespaces, serve_http, serve_udp_echo,
};

#[test]
fn a_client_on_the_backends_link_and_the_backend_itself_are_masqueraded() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::with_clients(2);
    // A bridge that filters would send the packets on by itself, and none back through the port that it came from.
    for name in ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables"] {
        lab.gateway.sh(&format!("[ ! -e /proc/sys/net/bridge/{name} ] || echo 0 > /proc/sys/net/bridge/{name}"));
    }
    // The backend is on the clients' link, and asks the frontend too.
    let server = &lab.clients[1];
    let (four, six) = (Lab::client_v4(1), Lab::client_v6(1));
    let servers = [four, six]
        .map(|ip| [serve_http(server, (ip, 8080).into(), "tcp"), serve_udp_echo(server, (ip, 8080).into(), "udp")]);
    let addresses = [format!("{four}:8080"), format!("[{six}]:8080")];
    let endpoint = |name, protocol| json!({"name": name, "protocol": protocol, "address": addresses});
    let target = with(external("b", &[]), json!({"endpoints": [endpoint("t", "tcp"), endpoint("u", "udp")]}));
    let mut all = frontends("packet:hold", 80, "auto").to_vec();
    all.extend(frontends("packet:hold", 81, "never"));
    let daemon = Daemon::start(&lab, &config(&[target], &all));
    for client in &lab.clients {
        for (address, expected) in [("198.51.100.1", "198.51.100.1"), ("[2001:db8:1::1]", "2001:db8:1::1")] {
            daemon.request(10, json!({"name": "b"}));
            daemon.await_target("b", "inactive", SOON);
            let from = client.name();
            assert_eq!(asks(client, &format!("{address}:80")), [ip(expected); 2], "from cold, {from}");
            assert_eq!(asks(client, &format!("{address}:80")), [ip(expected); 2], "{from}");
        }
    }
    // Somebody who is behind another link is not.
    for (address, expected) in [("198.51.100.1", BACKEND_V4), ("[2001:db8:1::1]", BACKEND_V6)] {
        assert_eq!(asks(&lab.backend, &format!("{address}:80")), [expected; 2]);
    }
    // The endpoint answers its neighbour directly, who knows nothing of it.
    let lost = lab.client().run(|| http_get_within(at("198.51.100.1:81"), "/", SECOND));
    assert!(lost.is_err(), "{lost:?}");
    drop(servers);
}

#[test]
fn who_is_on_a_link_is_known_when_interfaces_come_and_change() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let (_servers, target) = backend(&lab);
    let daemon = Daemon::start(&lab, &config(&[target], &frontends("static:always", 80, "auto")));
    daemon.await_target("b", "active", SOON);
    let rules = || nft_ruleset(&lab.gateway).expect("the table");
    assert!(rules().contains("\"backends\" . 203.0.113.0/24"), "{}", rules());
    // The backend's link gets a second prefix, and the backend an address in it.
    lab.gateway.ip("addr add 192.0.2.1/24 dev backends\n");
    eventually("the prefix is known", SOON, || rules().contains("\"backends\" . 192.0.2.0/24"));
    lab.backend.ip("addr add 192.0.2.2/24 dev eth0\n");
    let ask = || {
        // From the new address, which is on the link of the endpoint.
        lab.backend.sh("ip route replace 198.51.100.0/24 via 192.0.2.1 src 192.0.2.2");
        lab.backend.run(|| http_get_within(at("198.51.100.1:80"), "/", 5 * SECOND)).map(|answer| seen(&answer.1))
    };
    let masqueraded = ask().expect("an answer");
    assert!(["203.0.113.1", "192.0.2.1"].map(ip).contains(&masqueraded), "{masqueraded}");
    // A larger prefix takes the place of the smaller; then all of it goes.
    lab.gateway.ip("addr add 192.0.3.1/23 dev backends\n");
    eventually("the larger one is known", SOON, || rules().contains("\"backends\" . 192.0.2.0/23"));
    lab.gateway.ip("addr del 192.0.3.1/23 dev backends\naddr del 192.0.2.1/24 dev backends\n");
    eventually("it is forgotten", SOON, || !rules().contains("192.0.2.0/"));
    // An interface goes with all that it has.
    lab.gateway.ip("link add other type bridge\naddr add 192.0.2.129/25 dev other\nlink set other up\n");
    eventually("the interface is known", SOON, || rules().contains("\"other\" . 192.0.2.128/25"));
    lab.gateway.ip("link del other\n");
    eventually("it is forgotten", SOON, || !rules().contains("192.0.2.128/25"));
    assert_eq!(asks(lab.client(), "198.51.100.1:80"), [Lab::client_v4(0); 2]);
}

/// The kernel forgets the routes of an interface that goes down, also where it keeps the addresses.
#[test]
fn clients_on_the_ipv6_loopback_are_served_whatever_becomes_of_the_interfaces() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let (_servers, target) = backend(&lab);
    let daemon = Daemon::start(&lab, &config(&[target], &frontends("static:always", 80, "auto")));
    daemon.await_target("b", "active", SOON);
    let routes = || lab.gateway.sh("ip -6 route show table local ::1").lines().count();
    eventually("there is a route by each", SOON, || routes() == 3);
    lab.gateway.sysctl("ipv6/conf/backends/keep_addr_on_down", "1");
    lab.gateway.ip("link set backends down\nlink set backends up\n");
    eventually("it is back", SOON, || routes() == 3);
    lab.gateway.ip("link set backends down\n");
    eventually("it is gone", SOON, || routes() == 2);
    lab.gateway.ip("link set backends up\n");
    eventually("it is back", SOON, || routes() == 3);
    lab.gateway.ip("link set backends name renamed\n");
    assert_eq!(asks(&lab.gateway, "[::1]:80"), [ip(BACKENDS_SIDE[1]); 2]);
    // Many come, and each is up a moment after it has its address.
    let mut batch = String::new();
    for index in 0..100 {
        batch += &format!(
            "link add a{index} type veth peer name b{index}\naddr add 2001:db8:{}::1/64 dev a{index} nodad\nlink set a{index} up\n\
             link set b{index} up\n",
            100 + index
        );
    }
    lab.gateway.ip(&batch);
    eventually("there is a route by each", 2 * SOON, || routes() == 203);
    assert!(!daemon.log().contains("WARN"), "{}", daemon.log());
}

#[test]
fn a_backend_on_loopback_is_reached_through_interfaces_that_come_go_and_are_renamed() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let target = command("b", &["e=tcp/127.0.0.1:8080"], &backend_command("--tcp 127.0.0.1:8080"));
    let text = config(&[target], &[page("f", "0.0.0.0:80", "b:e")]);
    let mut daemon = Daemon::start(&lab, &text);
    warm(&daemon, "b");
    let get = |client: &Namespace, address: &str| client.run(|| http_get_within(at(address), "/", 5 * SECOND));
    let served = |client: &Namespace, address: &str| {
        let (_, body) = get(client, address).unwrap_or_else(|error| panic!("{address}: {error}"));
        assert!(body.contains("\"peer\""), "{body}");
    };
    served(lab.client(), "198.51.100.1:80");
    // A new interface.
    lab.gateway.ip(&format!("link add new type veth peer name eth1 netns {}\n", lab.client().name()));
    lab.gateway.ip("addr add 192.0.2.1/24 dev new\nlink set new up\n");
    lab.client().ip("addr add 192.0.2.2/24 dev eth1\nlink set eth1 up\n");
    served(lab.client(), "192.0.2.1:80");
    // Another name.
    lab.gateway.ip("link set new down\nlink set new name newer\nlink set newer up\n");
    served(lab.client(), "192.0.2.1:80");
    // It goes, and the others go on.
    lab.gateway.ip("link del newer\n");
    served(lab.client(), "198.51.100.1:80");
    // A crash leaves the setting and the table; the next start takes over, and its end puts everything back.
    daemon.kill9();
    assert_ne!(lab.gateway.read_sysctl("ipv4/conf/all/route_localnet"), "0");
    let mut daemon = Daemon::start(&lab, &text);
    warm(&daemon, "b");
    served(lab.client(), "198.51.100.1:80");
    daemon.terminate();
    assert_eq!(lab.gateway.read_sysctl("ipv4/conf/all/route_localnet"), "0");
}
