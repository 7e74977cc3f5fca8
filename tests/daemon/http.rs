//! `static:http`: the page for cold clients, and requests that wake.

use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::json;

use crate::setup::{PAGE, SOON, assert_answers, at, config, external, memory, page, with};
use crate::support::{BACKEND_V4, Daemon, GATEWAY_V4, Lab, http_get, require_namespaces, serve_http};

/// A page in front of an external backend. Requests for `/wake` wake.
fn start(lab: &Lab) -> Daemon {
    let frontend = with(page("f", "0.0.0.0:80", "b:e"), json!({"options": {"endpoint": "/wake"}}));
    Daemon::start(lab, &config(&[external("b", &["e=tcp/203.0.113.2:8080"])], &[frontend]))
}

fn connect(lab: &Lab) -> TcpStream {
    let stream = lab.client().run(|| TcpStream::connect_timeout(&at("198.51.100.1:80"), SOON)).expect("a connection");
    stream.set_read_timeout(Some(SOON)).expect("a timeout");
    stream
}

/// Sends bytes and returns the whole response.
fn exchange(lab: &Lab, sent: &[u8]) -> String {
    let mut stream = connect(lab);
    stream.write_all(sent).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer and its end");
    answer
}

#[test]
fn only_requests_for_the_endpoint_wake() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let _backend = serve_http(&lab.backend, (BACKEND_V4, 8080).into(), "hello");
    let daemon = start(&lab);
    let long = format!("GET /wake HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(20_000));
    for (sent, status) in [
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", "404"),
        ("GET /wake/up HTTP/1.1\r\nHost: x\r\n\r\n", "404"),
        ("hello\r\n\r\n", "400"),
        ("\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n", "400"),
        (&long, "431"),
    ] {
        let answer = exchange(&lab, sent.as_bytes());
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{sent:.40}: {answer}");
    }
    // A connection without a request does not wake either.
    drop(connect(&lab));
    assert_answers(&daemon);
    assert_eq!(daemon.target("b")["state"], "inactive");
    assert!(!daemon.log().contains("woken"), "{}", daemon.log());

    let answer = exchange(&lab, b"HEAD /wake?now HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("Connection: close"), "{answer}");
    assert!(answer.contains(&format!("Content-Length: {}", PAGE.len())) && answer.ends_with("\r\n\r\n"), "{answer}");
    daemon.await_target("b", "active", SOON);
}

#[test]
fn idle_clients_do_not_block_others() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let _backend = serve_http(&lab.backend, (BACKEND_V4, 8080).into(), "hello");
    let daemon = start(&lab);
    let before = memory(&daemon);
    let mut slow: Vec<TcpStream> = (0..600).map(|_| connect(&lab)).collect();
    for stream in &mut slow {
        // Later ones have replaced some.
        let _ = stream.write_all(b"GET /wake HTTP/1.1\r\nX: ");
    }
    assert_answers(&daemon);
    assert!(memory(&daemon) < before + 16 * 1024, "{before} KiB before, {} KiB now", memory(&daemon));
    let (status, body) = lab.client().run(|| http_get((GATEWAY_V4, 80).into(), "/wake")).expect("an answer");
    assert_eq!((status, body.as_str()), (200, PAGE));
    daemon.await_target("b", "active", SOON);
    assert!(lab.client().run(|| http_get((GATEWAY_V4, 80).into(), "/wake")).expect("an answer").1.starts_with("hello"));
}
