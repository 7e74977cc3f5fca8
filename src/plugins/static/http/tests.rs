//! The frontend with real sockets and a clock that the test moves.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};

use super::connection::MAX_HEAD;
use super::*;
use crate::plugin::testing::TestReactor;

const REQUEST: &[u8] = b"GET /wake HTTP/1.1\r\nHost: x\r\n\r\n";

struct Gateway {
    http: Http,
    reactor: TestReactor,
}

impl Gateway {
    /// A frontend with this content that listens on two ports.
    fn new(content: &str) -> Gateway {
        let page = Page { content: content.to_owned(), path: "/wake".to_owned() };
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let (mut http, mut reactor) = (Http::new(vec![any, any], page), TestReactor::new());
        http.start(&mut reactor.io()).expect("two free ports");
        Gateway { http, reactor }
    }

    fn address(&self, listener: usize) -> SocketAddr {
        self.http.listeners[listener].local_addr().expect("it listens")
    }

    fn connect(&self) -> TcpStream {
        let client = TcpStream::connect(self.address(0)).expect("it listens");
        client.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
        client
    }

    /// A connected client that has been accepted.
    fn client(&mut self) -> TcpStream {
        let client = self.connect();
        let address = client.local_addr().expect("a socket");
        self.reactor.run_until(&mut self.http, |http| http.connections.values().any(|c| c.peer == address));
        client
    }

    /// Sends bytes and returns the response; the client closes after it.
    fn exchange(&mut self, request: &[u8]) -> String {
        let mut client = self.client();
        client.write_all(request).expect("sent");
        self.response(client)
    }

    fn response(&mut self, mut client: TcpStream) -> String {
        client.set_nonblocking(true).expect("a socket");
        let mut response = Vec::new();
        self.reactor.run_until(&mut self.http, |_| match client.read_to_end(&mut response) {
            Ok(_) => true,
            Err(error) if error.kind() == ErrorKind::WouldBlock => false,
            Err(error) => panic!("{error}"),
        });
        String::from_utf8(response).expect("UTF-8")
    }

    fn await_connections(&mut self, count: usize) {
        self.reactor.run_until(&mut self.http, |http| http.connections.len() == count);
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if !self.http.listeners.is_empty() {
            self.http.stop(&mut self.reactor.io());
        }
    }
}

/// Returns true if the other side has closed the connection.
fn is_closed(client: &mut TcpStream) -> bool {
    client.set_nonblocking(true).expect("a socket");
    match client.read(&mut [0]) {
        Ok(count) => count == 0,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

#[test]
fn a_request_is_answered_and_wakes_once() {
    let mut gateway = Gateway::new("wait");
    let response = gateway.exchange(REQUEST);
    assert!(response.starts_with("HTTP/1.1 200 ") && response.ends_with("\r\n\r\nwait"), "{response}");
    gateway.await_connections(0);
    assert_eq!(gateway.reactor.wakes, 1);
    assert!(gateway.exchange(b"GET / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404 "));
    assert!(gateway.exchange(b"GET /wake HTTP/1.0\n\n").starts_with("HTTP/1.1 200 "));
    gateway.await_connections(0);
    assert_eq!((gateway.reactor.wakes, gateway.http.deadline()), (2, None));
}

#[test]
fn a_request_may_arrive_in_parts() {
    let mut gateway = Gateway::new("wait");
    let mut client = gateway.client();
    let (last, rest) = REQUEST.split_last().expect("bytes");
    for byte in rest {
        client.write_all(&[*byte]).expect("sent");
        gateway.reactor.settle(&mut gateway.http);
        assert_eq!(gateway.reactor.wakes, 0);
    }
    client.write_all(&[*last]).expect("sent");
    assert!(gateway.response(client).starts_with("HTTP/1.1 200 "));
    assert_eq!(gateway.reactor.wakes, 1);
}

#[test]
fn a_head_that_is_too_large_is_refused() {
    let mut gateway = Gateway::new("wait");
    let head = |size: usize| {
        let empty = "GET /wake HTTP/1.1\r\nX: \r\n\r\n".len();
        format!("GET /wake HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(size - empty)).into_bytes()
    };
    assert!(gateway.exchange(&head(MAX_HEAD)).starts_with("HTTP/1.1 200 "));
    let unfinished = &head(MAX_HEAD + 100)[..MAX_HEAD + 1];
    assert!(gateway.exchange(unfinished).starts_with("HTTP/1.1 431 "));
    assert_eq!(gateway.reactor.wakes, 1);
}

#[test]
fn a_client_that_leaves_early_is_forgotten() {
    let mut gateway = Gateway::new("wait");
    let mut client = gateway.client();
    client.write_all(b"GET /wake HTTP/1.1\r\n").expect("sent");
    drop(client);
    gateway.await_connections(0);
    assert_eq!((gateway.reactor.wakes, gateway.http.deadline()), (0, None));
}

#[test]
fn a_large_page_is_sent_as_the_client_reads() {
    let page = "0123456789".repeat(2_000_000);
    let mut gateway = Gateway::new(&page);
    let mut client = gateway.client();
    client.write_all(REQUEST).expect("sent");
    gateway.reactor.run_until(&mut gateway.http, |http| http.connections.values().any(Connection::is_writing));
    let response = gateway.response(client);
    assert_eq!(response.split_once("\r\n\r\n").map(|(_, body)| body == page), Some(true));
    gateway.await_connections(0);
}

#[test]
fn an_idle_connection_ends_at_its_timeout() {
    let mut gateway = Gateway::new("wait");
    let mut early = gateway.client();
    gateway.reactor.pass(Duration::from_secs(1));
    let mut late = gateway.client();
    assert_eq!(gateway.http.deadline(), Some(gateway.reactor.now() + TIMEOUT - Duration::from_secs(1)));
    gateway.reactor.pass(TIMEOUT - Duration::from_secs(1) - Duration::from_millis(1));
    gateway.reactor.settle(&mut gateway.http);
    assert_eq!(gateway.http.connections.len(), 2);
    gateway.reactor.pass(Duration::from_millis(1));
    gateway.reactor.settle(&mut gateway.http);
    assert_eq!(gateway.http.connections.len(), 1);
    assert!(is_closed(&mut early) && !is_closed(&mut late));
    gateway.reactor.pass(TIMEOUT);
    gateway.reactor.settle(&mut gateway.http);
    assert_eq!(gateway.http.deadline(), None);
    assert!(is_closed(&mut late));
}

#[test]
fn a_connection_lingers_until_the_client_closes() {
    let mut gateway = Gateway::new("wait");
    let mut client = gateway.client();
    client.write_all(REQUEST).expect("sent");
    let answered = |http: &mut Http| http.connections.values().any(Connection::is_answered);
    gateway.reactor.run_until(&mut gateway.http, answered);
    client.write_all(b"more").expect("it is still open");
    gateway.reactor.settle(&mut gateway.http);
    assert_eq!(gateway.http.connections.len(), 1);
    client.shutdown(Shutdown::Write).expect("a socket");
    gateway.await_connections(0);
    let mut response = String::new();
    client.read_to_string(&mut response).expect("not reset");
    assert!(response.ends_with("wait"), "{response}");
}

#[test]
fn the_oldest_answered_connection_makes_space_first() {
    let mut gateway = Gateway::new("wait");
    let mut clients: Vec<TcpStream> = (0..4).map(|_| gateway.client()).collect();
    for client in &mut clients[1..3] {
        client.write_all(REQUEST).expect("sent");
    }
    gateway.reactor.run_until(&mut gateway.http, |http| {
        http.connections.values().filter(|connection| connection.is_answered()).count() == 2
    });
    for client in &mut clients[1..3] {
        let mut response = String::new();
        client.read_to_string(&mut response).expect("a response");
    }
    let sockets = |http: &Http| http.by_age.iter().map(|(_, key)| http.connections[key].peer).collect::<Vec<_>>();
    let mut left: Vec<SocketAddr> = clients.iter().map(|client| client.local_addr().expect("a socket")).collect();
    for next in [1, 1, 0, 0] {
        assert!(gateway.http.close_one(&mut gateway.reactor.io()));
        left.remove(next);
        assert_eq!(sockets(&gateway.http), left);
    }
    assert!(!gateway.http.close_one(&mut gateway.reactor.io()));
}

#[test]
fn many_clients_are_accepted_over_several_turns() {
    let mut gateway = Gateway::new("wait");
    let clients: Vec<TcpStream> = (0..40).map(|_| gateway.connect()).collect();
    gateway.http.accept(&mut gateway.reactor.io(), 0);
    assert!(gateway.http.connections.len() < clients.len());
    assert_eq!(gateway.http.deadline(), Some(gateway.reactor.now()));
    gateway.await_connections(clients.len());
    gateway.reactor.settle(&mut gateway.http);
    let other = TcpStream::connect(gateway.address(1)).expect("it listens there too");
    gateway.await_connections(clients.len() + 1);
    drop(other);
    gateway.await_connections(clients.len());
}

#[test]
fn running_frontends_share_the_connections() {
    let cases = [(1000, 0, 1000), (1000, 1, 1000), (1000, 4, 250), (2, 3, 1), (1_000_000, 2, MAX_CONNECTIONS)];
    for (clients, running, expected) in cases {
        assert_eq!(max_connections(clients, running), expected, "{clients} clients, {running} frontends");
    }
}

#[test]
fn stop_closes_everything_and_start_opens_it_again() {
    let mut gateway = Gateway::new("wait");
    let mut client = gateway.client();
    gateway.http.stop(&mut gateway.reactor.io());
    assert!(is_closed(&mut client));
    assert_eq!((gateway.http.connections.len(), gateway.http.listeners.len()), (0, 0));
    assert_eq!(gateway.http.deadline(), None);
    gateway.http.start(&mut gateway.reactor.io()).expect("the keys are free again");
    assert!(gateway.exchange(REQUEST).starts_with("HTTP/1.1 200 "));
}

#[test]
fn a_failed_start_leaves_nothing_open() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("it listens");
    let page = Page { content: String::new(), path: "/".to_owned() };
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let (mut http, mut reactor) = (Http::new(vec![any, address], page), TestReactor::new());
    for _ in 0..2 {
        let error = http.start(&mut reactor.io()).expect_err("the port is taken").to_string();
        assert!(error.starts_with(&format!("cannot listen on {address}: ")), "{error}");
        assert!(http.listeners.is_empty());
    }
}
