//! `packet:hold` against hostile packets: none ends the daemon, and none goes where it must not.

mod support;

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use serde_json::{Value, json};
use support::packets::{datagram, fragmented, send_packets, syn};
use support::setup::{SECOND, command, config, page, with};
use support::{
    Daemon, GATEWAY_V4, GATEWAY_V6, Lab, Namespace, backend_command, eventually, http_get, nft, require_namespaces,
    udp_ask,
};

/// A frontend of kind `packet:hold`.
fn held(name: &str, listen: &str, target: &str, changes: Value) -> Value {
    let (protocol, listen) = listen.split_once('/').expect("PROTOCOL/…");
    let frontend = json!({"name": name, "kind": "packet:hold", "protocol": protocol, "listen": listen,
        "flow_timeout": "1m", "target": target});
    with(frontend, changes)
}

#[test]
fn long_extension_headers_do_not_end_the_daemon() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let endpoint = "[2001:db8:1::1]:8080";
    let serve = backend_command(&format!("--tcp {endpoint} --udp {endpoint} --delay 0.2"));
    let target = command("b", &[&format!("t=tcp/{endpoint}"), &format!("u=udp/{endpoint}")], &serve);
    let frontends = [held("t", "tcp/[::]:80", "b:t", json!({})), held("u", "udp/[::]:80", "b:u", json!({}))];
    let mut daemon = Daemon::start(&lab, &config(&[target], &frontends));
    let (client, gateway): (SocketAddr, SocketAddr) = ((Lab::client_v6(0), 40_000).into(), (GATEWAY_V6, 80).into());
    // 1,232 bytes of options leave no space for a payload within the minimum MTU, and 1,240 less than none. The one that can be
    // held comes last: once it has made the target active, the kernel sends the others on by itself.
    let unsent = [(40_001, 1232), (40_002, 1240), (40_003, 1400)];
    let parts = unsent.into_iter().chain([(40_000, 1224)]).flat_map(|(port, options)| {
        fragmented(SocketAddr::new(client.ip(), port), gateway, options, &[b'x'; 400], options + 48)
    });
    send_packets(lab.client(), &lab.gateway, "clients", &parts.collect::<Vec<_>>());
    daemon.await_target("b", "active", 10 * SECOND);
    let answer = lab.client().run(|| udp_ask(gateway, b"hello", 5 * SECOND)).expect("it is answered");
    assert!(answer.contains("2001:db8:1::2"), "{answer}");
    assert_eq!(lab.client().run(|| http_get(gateway, "/")).expect("it is served").0, 200);
    let status = daemon.status();
    assert_eq!(daemon.process().try_wait(), None);
    let counted = &daemon.frontend("u")["hold"];
    // The last has space for the UDP header alone in its first fragment; the others cannot be sent within the minimum MTU.
    assert_eq!((&status["hold"]["unfit"], &counted["sent"]), (&json!(3), &json!(1)), "{status:#}");
}

/// Sources that no host on the clients' side can have.
fn forged_sources(gateway_link_local: IpAddr) -> Vec<IpAddr> {
    let mut all: Vec<IpAddr> = [
        "127.0.0.1",
        "127.1.2.3",
        "0.0.0.0",
        "0.1.2.3",
        "224.0.0.1",
        "255.255.255.255",
        "198.51.100.1",
        "203.0.113.1",
        "198.51.100.255",
        "::",
        "::1",
        "ff02::1",
        "ff0e::1",
        "::ffff:127.0.0.1",
        "::ffff:198.51.100.2",
        "2001:db8:1::1",
        "2001:db8:2::1",
        "2001:db8:1::",
    ]
    .map(|source| source.parse().expect("an address"))
    .to_vec();
    all.push(gateway_link_local);
    all
}

/// The link-local address of an interface.
fn link_local(namespace: &Namespace, interface: &str) -> IpAddr {
    let output = namespace.command("ip").args(["-j", "-6", "address", "show", interface]).output().expect("ip");
    let shown: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let all = shown[0]["addr_info"].as_array().expect("a list");
    let own = all.iter().find(|address| address["scope"] == "link").expect("a link-local address");
    own["local"].as_str().and_then(|text| text.parse().ok()).expect("an address")
}

/// A SYN and a datagram from each source to each port.
fn from_each(sources: &[IpAddr], ports: &[u16]) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    for (index, source) in sources.iter().enumerate() {
        for port in ports {
            let gateway = if source.is_ipv4() { GATEWAY_V4 } else { GATEWAY_V6 };
            let (from, to) = (SocketAddr::new(*source, 20_000 + index as u16), SocketAddr::new(gateway, *port));
            packets.extend([syn(from, to), datagram(from, to, b"forged")]);
        }
        // As if the frontend called itself.
        let to = SocketAddr::new(if source.is_ipv4() { GATEWAY_V4 } else { GATEWAY_V6 }, ports[0]);
        packets.extend([syn(SocketAddr::new(*source, ports[0]), to), datagram(SocketAddr::new(*source, 0), to, b"x")]);
    }
    packets
}

/// Frontends on ports 80 (open), 81 (with an `allow` for everything), 82 (which refuses), 83 (`static:http`) and 90 (a
/// control); the endpoint of IPv4 is 127.0.0.1, so `route_localnet` is on.
fn forged_world(lab: &Lab) -> Daemon {
    let serve = backend_command(
        "--tcp 127.0.0.1:8080 --tcp [2001:db8:1::1]:8080 --udp 127.0.0.1:8080 --udp [2001:db8:1::1]:8080",
    );
    let target = |name: &str, command: &str| {
        let endpoints = ["tcp", "udp"].map(|protocol| {
            json!({"name": protocol, "protocol": protocol, "address": ["127.0.0.1:8080", "[2001:db8:1::1]:8080"]})
        });
        json!({"name": name, "kind": "static:cmd", "idle_timeout": "5m", "endpoints": endpoints,
            "readiness": {"deadline": "30s"}, "options": {"command": command, "stop_grace": "1s"}})
    };
    let control = json!({"name": "control", "kind": "static:cmd", "idle_timeout": "5m", "readiness": {"deadline": "30s"},
        "endpoints": [{"name": "udp", "protocol": "udp", "address": ["127.0.0.1:9", "[2001:db8:1::1]:9"]}],
        "options": {"command": "exec sleep 1000", "stop_grace": "1s"}});
    let everything = json!({"allow": ["0.0.0.0/0", "::/0"]});
    let refuses = json!({"allow": ["192.0.2.0/24", "2001:db8:99::/48"], "on_denied": "reject"});
    let mut frontends = Vec::new();
    for protocol in ["tcp", "udp"] {
        for (port, changes) in [(80, json!({})), (81, everything.clone()), (82, refuses.clone())] {
            let listen = json!({"listen": [format!("0.0.0.0:{port}"), format!("[::]:{port}")]});
            let frontend =
                held(&format!("{protocol}{port}"), &format!("{protocol}/x"), &format!("b:{protocol}"), listen);
            frontends.push(with(frontend, changes));
        }
    }
    let both = json!({"listen": ["0.0.0.0:83", "[::]:83"]});
    frontends.push(with(page("page", "0.0.0.0:83", "page:tcp"), both));
    frontends.push(held("control", "udp/x", "control:udp", json!({"listen": ["0.0.0.0:90", "[::]:90"]})));
    Daemon::start(lab, &config(&[target("b", &serve), target("page", "exec sleep 1000"), control], &frontends))
}

#[test]
fn forged_sources_are_dropped() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let daemon = forged_world(&lab);
    assert_eq!(lab.gateway.read_sysctl("ipv4/conf/all/route_localnet"), "28775");
    let own = link_local(&lab.gateway, "clients");
    let heard = lab.gateway.run(|| UdpSocket::bind("127.0.0.1:20000")).expect("a socket");
    heard.set_nonblocking(true).expect("a flag");
    send_packets(lab.client(), &lab.gateway, "clients", &from_each(&forged_sources(own), &[80, 81, 82, 83]));
    // A real client of another frontend comes behind them on the same link: all of them have passed by then.
    for gateway in [GATEWAY_V4, GATEWAY_V6] {
        let client = if gateway.is_ipv4() { Lab::client_v4(0) } else { Lab::client_v6(0) };
        let real = datagram(SocketAddr::new(client, 30_000), SocketAddr::new(gateway, 90), b"real");
        send_packets(lab.client(), &lab.gateway, "clients", &[real]);
    }
    eventually("the real ones are held", 10 * SECOND, || daemon.frontend("control")["hold"]["captured"] == 2);
    for protocol in ["tcp", "udp"] {
        for port in [80, 81, 82] {
            let frontend = daemon.frontend(&format!("{protocol}{port}"));
            assert_eq!(frontend["hold"]["captured"], 0, "{frontend:#}");
        }
    }
    assert_eq!(daemon.status()["hold"], json!({"unfit": 0, "forged": 0, "overruns": 0}));
    for target in ["b", "page"] {
        assert_eq!(daemon.target(target)["state"], "inactive", "{}", daemon.log());
    }
    assert!(!daemon.log().contains("target b: warming") && !daemon.log().contains("target page: warming"));
    // Port 82 refuses clients, but not these: a reset would have reached this host's own socket.
    assert_eq!(heard.recv(&mut [0; 1]).map_err(|error| error.kind()), Err(ErrorKind::WouldBlock));
    // Real clients are served, on this host and on others.
    assert_eq!(lab.client().run(|| http_get((GATEWAY_V4, 81).into(), "/")).expect("it is served").0, 200);
    assert_eq!(lab.client().run(|| http_get((GATEWAY_V6, 80).into(), "/")).expect("it is served").0, 200);
}

#[test]
fn clients_on_any_address_of_this_host_are_held() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let daemon = forged_world(&lab);
    for address in ["127.0.0.1:80", "198.51.100.1:81", "203.0.113.1:80", "[::1]:80", "[2001:db8:2::1]:81"] {
        let address: SocketAddr = address.parse().expect("an address");
        let (status, _) =
            lab.gateway.run(|| http_get(address, "/")).unwrap_or_else(|error| panic!("{address}: {error}"));
        assert_eq!(status, 200, "{address}");
        daemon.request(10, json!({"name": "b"}));
        daemon.await_target("b", "inactive", 10 * SECOND);
    }
}

#[test]
fn forged_packets_from_another_rule_are_counted() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let daemon = forged_world(&lab);
    let rules = "table inet other {
        chain early {
            type filter hook prerouting priority -400; policy accept;
            udp dport 80 log group 28775 snaplen 65535 drop
        }
    }";
    nft(&lab.gateway, rules);
    let to = SocketAddr::new(GATEWAY_V4, 80);
    let sources = ["127.0.0.1", "0.1.2.3", "224.0.0.1", "255.255.255.255"];
    let forged: Vec<_> =
        sources.map(|source| datagram(SocketAddr::new(source.parse().expect("v4"), 9), to, b"x")).to_vec();
    send_packets(lab.client(), &lab.gateway, "clients", &forged);
    eventually("all are counted", 10 * SECOND, || daemon.status()["hold"]["forged"] == 4);
    assert_eq!(daemon.frontend("udp80")["hold"]["captured"], 0);
    assert_eq!(daemon.target("b")["state"], "inactive");
    // The same rule captures a real one, which is held.
    let real = datagram(SocketAddr::new(Lab::client_v4(0), 9), to, b"x");
    send_packets(lab.client(), &lab.gateway, "clients", &[real]);
    daemon.await_target("b", "active", 10 * SECOND);
    assert_eq!(daemon.frontend("udp80")["hold"]["captured"], 1);
}
