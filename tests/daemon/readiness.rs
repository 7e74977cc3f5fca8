//! When a target counts as ready, and what clients see until then.

use std::io::ErrorKind;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::setup::{PAGE, SECOND, SOON, active, always, at, command, config, external, holds, page, python, with};
use crate::support::{
    BACKEND_V4, Daemon, DaemonOptions, GATEWAY_V4, Lab, Temporary, backend_command, http_get, require_namespaces,
    serve_http, udp_ask,
};

/// A target `b` with an endpoint `e` behind a page on port 80, woken by a client.
fn woken(lab: &Lab, target: Value) -> Daemon {
    let daemon = Daemon::start(lab, &config(&[target], &[page("f", "0.0.0.0:80", "b:e")]));
    assert_eq!(lab.client().run(|| http_get((GATEWAY_V4, 80).into(), "/")).expect("an answer").1, PAGE);
    daemon
}

/// It is not routed to before it listens, which it does after a second; and soon after that it is.
#[track_caller]
fn assert_ready_when_bound(lab: &Lab, target: Value) {
    let began = Instant::now();
    let daemon = woken(lab, target);
    daemon.await_target("b", "active", SOON);
    assert!(began.elapsed() >= SECOND, "{:?}", began.elapsed());
    let (_, body) = lab.client().run(|| http_get((GATEWAY_V4, 80).into(), "/")).expect("an answer");
    assert!(body.contains("backend") || body.contains("198.51.100.2"), "{body}");
}

#[test]
fn a_backend_bound_to_every_address_is_ready() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let backend = backend_command("--tcp 0.0.0.0:8080 --delay 1");
    assert_ready_when_bound(&lab, command("b", &["e=tcp/127.0.0.1:8080"], &backend));
    // And at an address of the host that is not loopback.
    assert_ready_when_bound(&lab, command("b", &["e=tcp/203.0.113.1:8080"], &backend));
}

#[test]
fn a_dual_stack_backend_is_ready_for_ipv4() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let folder = Temporary::new();
    let script = "
import http.server, socket, time
class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
    def server_bind(self):
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = b'backend for ' + self.client_address[0].encode()
        self.send_response(200)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
time.sleep(1)
Server(('::', 8080), Handler).serve_forever()
";
    assert_ready_when_bound(&lab, command("b", &["e=tcp/127.0.0.1:8080"], &python(&folder, script)));
}

#[test]
fn a_backend_bound_to_other_places_is_not_ready() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    // Another address, another port, another protocol, another family.
    for options in ["--tcp 127.0.0.2:8080", "--tcp 127.0.0.1:8081", "--udp 127.0.0.1:8080", "--tcp [::1]:8080"] {
        let target = command("b", &["e=tcp/127.0.0.1:8080"], &backend_command(options));
        let daemon = woken(&lab, with(target, json!({"readiness": {"deadline": "1s"}})));
        let mut seen = Vec::new();
        crate::support::eventually("its deadline", SOON, || {
            let target = daemon.target("b");
            seen.push(target["state"].clone());
            target["last_error"].is_string() && target["state"] == "inactive"
        });
        assert!(!seen.contains(&json!("active")), "{options}: {seen:?}");
        let missing = "endpoint e (tcp 127.0.0.1:8080): no socket is bound to it";
        let target = daemon.target("b");
        assert_eq!(target["last_error"], format!("not ready within 1s: {missing}"), "{options}");
        assert!(target.get("waiting_for").is_none(), "it does not warm any more: {target:#}");
        let log = daemon.log();
        assert_eq!(log.matches(&format!("target b: not ready after 500ms: {missing}")).count(), 1, "{log}");
        assert_eq!(log.matches(&format!("target b: not ready within 1s: {missing}")).count(), 1, "{log}");
    }
}

#[test]
fn a_udp_backend_is_ready_when_it_is_bound_and_every_endpoint_counts() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    // A UDP socket that is bound to every address answers from the one on the client's side, so the endpoint is that one.
    let backend = backend_command("--udp 0.0.0.0:5353 --tcp 127.0.0.1:8080 --delay 1");
    let target = command("b", &["e=udp/198.51.100.1:5353", "t=tcp/127.0.0.1:8080"], &backend);
    let began = Instant::now();
    let daemon = Daemon::start(&lab, &config(&[target], &[always("f", "udp/0.0.0.0:53", "b:e")]));
    daemon.await_target("b", "active", SOON);
    assert!(began.elapsed() >= SECOND);
    let answer = lab.client().run(|| udp_ask((GATEWAY_V4, 53).into(), b"?", 5 * SECOND)).expect("an answer");
    assert!(answer.contains("198.51.100.2:"), "{answer}");

    let target = command("b", &["e=udp/198.51.100.1:5353", "t=tcp/127.0.0.1:8081"], &backend);
    let target = with(target, json!({"readiness": {"deadline": "3s"}}));
    drop(daemon);
    let daemon = Daemon::start(&lab, &config(&[target], &[always("f", "udp/0.0.0.0:53", "b:e")]));
    crate::support::eventually("the endpoint that is missing is named", SOON, || {
        daemon.target("b")["waiting_for"] == "endpoint t (tcp 127.0.0.1:8081): no socket is bound to it"
    });
    crate::support::eventually("and is so after the deadline", SOON, || {
        daemon.target("b")["last_error"].to_string().contains("endpoint t (tcp 127.0.0.1:8081)")
    });
}

#[test]
fn the_probes_none_connect_and_http_ask_what_they_say() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let folder = Temporary::new();
    let target = |probe: Value| with(external("b", &["e=tcp/203.0.113.2:8080"]), json!({"readiness": probe}));
    // Nobody is asked.
    let daemon = woken(&lab, target(json!({"probe": "none"})));
    daemon.await_target("b", "active", SOON);
    drop(daemon);
    // Nobody answers, and then somebody does.
    let daemon = woken(&lab, target(json!({"probe": "connect"})));
    holds("it is warming", SECOND, || daemon.target("b")["state"] == "warming" && active(&lab.gateway).is_empty());
    assert_eq!(daemon.target("b")["waiting_for"], "endpoint e (tcp 203.0.113.2:8080): connection refused");
    let server = serve_http(&lab.backend, (BACKEND_V4, 8080).into(), "hello");
    daemon.await_target("b", "active", SOON);
    drop((daemon, server));
    // It listens, and is not well for a second.
    let script = "
import http.server, time
began = time.monotonic()
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        well = self.path != '/health' or time.monotonic() - began > 1
        self.send_response(200 if well else 503)
        self.send_header('Content-Length', '0')
        self.end_headers()
http.server.ThreadingHTTPServer(('127.0.0.1', 8080), Handler).serve_forever()
";
    let target = command("b", &["e=tcp/127.0.0.1:8080"], &python(&folder, script));
    let probe = json!({"readiness": {"probe": "http", "path": "/health"}});
    let began = Instant::now();
    let daemon = woken(&lab, with(target.clone(), probe));
    let unwell = "endpoint e (tcp 127.0.0.1:8080): status 503 for GET /health";
    crate::support::eventually("it is unwell", SOON, || daemon.target("b")["waiting_for"] == unwell);
    daemon.await_target("b", "active", SOON);
    assert!(daemon.target("b").get("waiting_for").is_none());
    assert!(began.elapsed() > SECOND, "{:?}", began.elapsed());
    drop(daemon);
    let probe = json!({"readiness": {"probe": "http", "path": "/missing", "deadline": "10s"}});
    let daemon = woken(&lab, with(target, probe));
    daemon.await_target("b", "active", SOON);
}

#[test]
fn no_client_is_refused_while_an_always_on_backend_starts() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let target = command("b", &["e=tcp/127.0.0.1:8080"], &backend_command("--tcp 127.0.0.1:8080 --delay 1"));
    let setup = config(&[target], &[always("f", "tcp/0.0.0.0:80", "b:e")]);
    let mut daemon = Daemon::spawn(&lab.gateway, &setup, DaemonOptions::default());
    daemon.process().await_line("ready after", SOON);
    let connect = || TcpStream::connect_timeout(&at("198.51.100.1:80"), Duration::from_millis(100));
    let mut waited = 0;
    let mut connected = 0;
    while connected < 100 {
        match lab.client().run(connect) {
            Ok(_) => connected += 1,
            Err(error) if error.kind() == ErrorKind::TimedOut => waited += 1,
            Err(error) => panic!("after {waited} and {connected}: {error}\n{}", daemon.log()),
        }
        assert!(waited < 100, "{}", daemon.log());
    }
    assert!(waited > 0, "it takes a second to start");
}

#[test]
fn no_client_of_a_page_is_refused_from_cold_to_warm_and_back() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let backend = backend_command("--tcp 127.0.0.1:8080 --delay 0.3");
    let target = with(command("b", &["e=tcp/127.0.0.1:8080"], &backend), json!({"idle_timeout": "5m"}));
    let daemon = Daemon::start(&lab, &config(&[target], &[page("f", "0.0.0.0:80", "b:e")]));
    let get = || lab.client().run(|| http_get((GATEWAY_V4, 80).into(), "/"));
    for round in 0..5 {
        let (mut pages, until) = (0, Instant::now() + SOON);
        let last = loop {
            let (_, body) = get().unwrap_or_else(|error| panic!("round {round}: {error}\n{}", daemon.log()));
            if body != PAGE {
                break body;
            }
            pages += 1;
            assert!(Instant::now() < until, "round {round}: it stays at the page\n{}", daemon.log());
        };
        // The backend takes 0.3 s to start, so the first client of each round has come to a cold frontend.
        assert!(pages >= 1, "round {round}: the frontend was not cold\n{}", daemon.log());
        assert!(last.contains("198.51.100.2"), "round {round}: {last:?} is not the backend's");
        daemon.request(10, json!({"name": "b"}));
        // A request that has reached the backend may be cut off by the drain; one that comes after it may not.
        daemon.await_target("b", "inactive", SOON);
    }
}
