//! Backends that somebody else runs, and that end while they are routed to.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};

use serde_json::{Value, json};

use crate::setup::{SOON, active, at, command, config, ctl, external, python, warm, with};
use crate::support::{
    BACKEND_V4, Daemon, GATEWAY_V4, Lab, Namespace, Temporary, eventually, http_get, http_get_within, nft,
    require_namespaces, serve_http,
};

/// A frontend on the gateway's outside address that holds packets.
fn hold(port: u16, target: &str) -> Value {
    json!({"name": format!("f{port}"), "kind": "packet:hold", "listen": format!("198.51.100.1:{port}"),
        "flow_timeout": "1m", "target": target})
}

/// A connection of a client, and its other end at a backend whose socket does not listen any more.
#[track_caller]
fn connected(client: &Namespace, backend: &Namespace, daemon: &Daemon) -> [TcpStream; 2] {
    let listener = backend.run(|| TcpListener::bind((BACKEND_V4, 8080))).expect("free");
    warm(daemon, "b");
    let near = client.run(|| TcpStream::connect_timeout(&at("198.51.100.1:80"), SOON)).expect("answered");
    // The first one was the probe's.
    let mut accepted = listener.incoming().map(|stream| stream.expect("a connection"));
    let ours = |stream: &TcpStream| stream.peer_addr().ok() == near.local_addr().ok();
    let far = accepted.find(ours).expect("it listens");
    [near, far]
}

fn refused(client: &Namespace) -> bool {
    let answer = client.run(|| http_get_within(at("198.51.100.1:80"), "/", SOON));
    answer.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

#[test]
fn after_one_refused_client_the_next_ones_wait_until_the_backend_is_back_and_old_connections_go_on() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let targets = [external("b", &["t=tcp/203.0.113.2:8080"])];
    let mut daemon = Daemon::start(&lab, &config(&targets, &[hold(80, "b:t")]));
    let mut pair = connected(lab.client(), &lab.backend, &daemon);
    assert!(refused(lab.client()), "nobody listens there, and nobody has noticed yet");
    daemon.await_target("b", "inactive", SOON);
    assert_eq!(active(&lab.gateway), "");
    let error = daemon.target("b")["last_error"].as_str().expect("why").to_owned();
    assert!(error.starts_with("clients do not reach 203.0.113.2:8080, nor does the gateway itself: "), "{error}");
    assert!(daemon.frontend("f80")["last_error"].is_null());
    // Both ends of the old connection are there: it is not for us to end it.
    for _ in 0..2 {
        pair[0].write_all(b"x").expect("open");
        pair[1].read_exact(&mut [0]).expect("it arrives");
        pair.reverse();
    }
    let explained = String::from_utf8(ctl(&daemon, &["explain", "b"]).stdout).expect("text");
    assert!(
        explained.contains("It has drained because its backend answered neither its clients nor this gateway."),
        "{explained}"
    );
    assert!(explained.contains("1 flow is open:"), "{explained}");
    let answer = std::thread::scope(|scope| {
        let asks = scope.spawn(|| lab.client().run(|| http_get(at("198.51.100.1:80"), "/")));
        daemon.await_target("b", "warming", SOON);
        let server = serve_http(&lab.backend, (BACKEND_V4, 8080).into(), "back");
        (asks.join().expect("no panic").expect("an answer"), server)
    });
    assert!(answer.0.1.starts_with("back from 198.51.100.2:"), "{answer:?}");
    assert!(daemon.target("b")["last_error"].is_null());
    pair[0].write_all(b"x").expect("open");
    pair[1].read_exact(&mut [0]).expect("it arrives");
    assert_eq!(daemon.target("b")["flows"], 1, "the old one\n{}", daemon.log());
    daemon.terminate();
}

#[test]
fn a_client_that_waits_for_a_backend_that_has_vanished_is_served_when_it_is_back() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let targets = [external("b", &["t=tcp/203.0.113.2:8080"])];
    let daemon = Daemon::start(&lab, &config(&targets, &[hold(80, "b:t")]));
    let _server = serve_http(&lab.backend, (BACKEND_V4, 8080).into(), "here");
    let get = || lab.client().run(|| http_get_within(at("198.51.100.1:80"), "/", 3 * SOON));
    assert_eq!(get().expect("an answer").0, 200);
    nft(&lab.backend, "table ip off {\nchain c {\ntype filter hook input priority 0; policy drop;\n}\n}");
    std::thread::scope(|scope| {
        let asks = scope.spawn(get);
        daemon.await_target("b", "inactive", SOON);
        // Its next SYN, the third or fourth, is held.
        daemon.await_target("b", "warming", SOON);
        nft(&lab.backend, "delete table ip off");
        let answer = asks.join().expect("no panic").unwrap_or_else(|error| panic!("{error}\n{}", daemon.log()));
        assert!(answer.1.starts_with("here from 198.51.100.2:"), "{answer:?}");
    });
    let explained = daemon.request(22, json!({"name": "b"}));
    assert_eq!(explained["drained_because"], "silent", "{explained}");
}

/// Connects that a client has begun, and that get no answer.
fn begin_connects(client: &Namespace, ports: std::ops::Range<u16>) -> Vec<socket2::Socket> {
    client.run(|| {
        let begin = |port| {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
            socket.set_nonblocking(true).expect("nonblocking");
            let begun = socket.connect(&std::net::SocketAddr::from((GATEWAY_V4, port)).into());
            assert!(begun.is_err_and(|error| error.raw_os_error() == Some(115)), "EINPROGRESS");
            socket
        };
        ports.map(begin).collect()
    })
}

#[test]
fn many_backends_that_vanish_at_once_are_all_noticed_within_seconds() {
    const PORTS: std::ops::Range<u16> = 8000..8030;
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let servers: Vec<_> = PORTS.map(|port| serve_http(&lab.backend, (BACKEND_V4, port).into(), "here")).collect();
    let targets: Vec<_> =
        PORTS.map(|port| external(&format!("b{port}"), &[&format!("t=tcp/203.0.113.2:{port}")])).collect();
    let frontends: Vec<_> = PORTS.map(|port| hold(port, &format!("b{port}:t"))).collect();
    let daemon = Daemon::start(&lab, &config(&targets, &frontends));
    PORTS.for_each(|port| warm(&daemon, &format!("b{port}")));
    nft(&lab.backend, "table ip off {\nchain c {\ntype filter hook input priority 0; policy drop;\n}\n}");
    let began = std::time::Instant::now();
    let clients = begin_connects(lab.client(), PORTS);
    let lost = || daemon.log().matches("nor does the gateway itself: connection timed out").count();
    // A SYN may stay unanswered for 3 s, and an endpoint has 1 s to answer the gateway; one after another they had 30.
    eventually("all are noticed", 3 * SOON, || lost() >= PORTS.len());
    let took = began.elapsed();
    assert!(took < SOON, "{took:?}\n{}", daemon.log());
    let drained = || daemon.log().matches("draining because its clients get no answer").count();
    eventually("all drain", SOON, || drained() >= PORTS.len());
    drop((clients, servers));
}

#[test]
fn a_target_is_not_given_up_for_one_of_its_endpoints_nor_for_who_is_refused() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let targets = [external("b", &["t=tcp/203.0.113.2:8080", "s=tcp/203.0.113.2:8081"])];
    let mut daemon = Daemon::start(&lab, &config(&targets, &[hold(80, "b:t"), hold(81, "b:s")]));
    let first = serve_http(&lab.backend, (BACKEND_V4, 8080).into(), "first");
    let _second = serve_http(&lab.backend, (BACKEND_V4, 8081).into(), "second");
    let second_answers = || lab.client().run(|| http_get(at("198.51.100.1:81"), "/")).is_ok();
    assert!(second_answers());
    // The backend does not like this client.
    nft(
        &lab.backend,
        "table ip acl {\nchain c {\ntype filter hook input priority 0;\nip saddr 198.51.100.2 tcp dport 8080 reject with tcp reset\n}\n}",
    );
    assert!(refused(lab.client()));
    daemon.process().await_line("203.0.113.2:8080, which has refused a client, answers the gateway", SOON);
    assert!(daemon.frontend("f80")["last_error"].is_null());
    nft(&lab.backend, "delete table ip acl");
    drop(first);
    assert!(refused(lab.client()));
    daemon.process().await_line("frontend f80: clients do not reach 203.0.113.2:8080", SOON);
    assert_eq!(daemon.target("b")["state"], "active");
    assert!(daemon.target("b")["last_error"].is_null());
    assert!(second_answers());
    let _first = serve_http(&lab.backend, (BACKEND_V4, 8080).into(), "first");
    lab.client().run(|| http_get(at("198.51.100.1:80"), "/")).expect("an answer");
    daemon.process().await_line("frontend f80: clients get answers again", SOON);
    assert!(daemon.frontend("f80")["last_error"].is_null());
}

#[test]
fn a_command_lives_as_long_as_its_process() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let folder = Temporary::new();
    // It takes one connection, and then listens no more.
    let script = "import socket, signal\ns = socket.create_server(('127.0.0.1', 9000))\nc = s.accept()\ns.close()\nsignal.pause()";
    let targets = [command("b", &["t=tcp/127.0.0.1:9000"], &python(&folder, script))];
    let mut daemon = Daemon::start(&lab, &config(&targets, &[hold(80, "b:t")]));
    let _one = lab.client().run(|| TcpStream::connect_timeout(&at("198.51.100.1:80"), SOON)).expect("answered");
    eventually("it listens no more", SOON, || refused(lab.client()));
    daemon.process().await_line("frontend f80: clients do not reach 127.0.0.1:9000", SOON);
    assert_eq!(daemon.target("b")["state"], "active");
    // What was said of the last start does not hold for the next one.
    daemon.request(10, json!({"name": "b"}));
    daemon.await_target("b", "inactive", SOON);
    lab.client().run(|| TcpStream::connect_timeout(&at("198.51.100.1:80"), SOON)).expect("answered");
    assert!(daemon.frontend("f80")["last_error"].is_null());
}

#[test]
fn a_port_of_a_range_that_nobody_listens_on_says_nothing() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let _first = serve_http(&lab.backend, (BACKEND_V4, 8000).into(), "first");
    let target = external("b", &["t=tcp/203.0.113.2:8000-8009"]);
    let range = with(hold(80, "b:t"), json!({"listen": "198.51.100.1:8000-8009"}));
    let mut daemon = Daemon::start(&lab, &config(&[target], &[range]));
    let ask = |port: u16| lab.client().run(|| http_get((GATEWAY_V4, port).into(), "/")).map_err(|error| error.kind());
    assert!(ask(8000).is_ok());
    assert_eq!(ask(8005), Err(ErrorKind::ConnectionRefused));
    daemon.process().await_line("203.0.113.2:8005, which has refused a client, does not answer the gateway", SOON);
    // It is asked anew for the next one, so nothing was told.
    eventually("it is asked again", SOON, || {
        let _ = ask(8006);
        daemon.log().contains("203.0.113.2:8006, which has refused a client, does not answer the gateway")
    });
    assert_eq!(daemon.target("b")["state"], "active");
    assert!(daemon.frontend("f80")["last_error"].is_null());
}
