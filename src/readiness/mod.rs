//! Probes of a backend that starts: often at first, then less and less, until all endpoints are ready.
//!
//! They run on the target's own thread. An active backend is not probed: the kernel and the handler report its end.

mod http;
mod waiting;

use std::collections::BTreeSet;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::Error;
use crate::config::{Address, Endpoint, Probe, Protocol};
use crate::netlink::route::Routes;
use crate::netlink::sock_diag::{self, Bound};

pub(crate) use waiting::{Missing, Notice, Waiting};

/// Timeout of one probe of one address.
const TIMEOUT: Duration = Duration::from_secs(1);

/// Probes the endpoints of one target.
pub(crate) struct Prober<'a> {
    /// Each address of each endpoint. Of a range of ports, the first is probed.
    endpoints: Vec<(&'a Endpoint, SocketAddr, Method<'a>)>,
    diag: Option<sock_diag::Diag>,
}

/// Probe of one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method<'a> {
    /// A socket of this host must be bound to it.
    Bound,
    /// It must accept a connection.
    Connect,
    /// It must respond to a request for this path.
    Http(&'a str),
}

impl<'a> Prober<'a> {
    pub(crate) fn new(probe: &'a Probe, endpoints: &'a [Endpoint]) -> Prober<'a> {
        let addresses =
            endpoints.iter().flat_map(|endpoint| endpoint.addresses.iter().map(move |at| (endpoint, at.first())));
        let mut routes = None;
        let methods =
            addresses.filter_map(|(endpoint, at)| Some((endpoint, at, method(probe, endpoint, at, &mut routes)?)));
        Prober { endpoints: methods.collect(), diag: None }
    }

    /// Probes each address until one is not ready.
    ///
    /// # Errors
    /// The endpoint that is not ready, and what it lacks.
    pub(crate) fn probe(&mut self) -> Result<(), Error> {
        for (endpoint, address, method) in &self.endpoints {
            let result = match method {
                Method::Bound => match bound(&mut self.diag, endpoint.protocol, *address) {
                    Ok(Some(_)) => Ok(()),
                    Ok(None) => Err("no socket is bound to it".to_owned()),
                    Err(error) => {
                        self.diag = None;
                        Err(format!("cannot query the kernel: {}", reason(&error)))
                    }
                },
                Method::Connect => {
                    TcpStream::connect_timeout(address, TIMEOUT).map(drop).map_err(|error| reason(&error))
                }
                Method::Http(path) => http::get(*address, path, TIMEOUT).map_err(|error| reason(&error)),
            };
            result.map_err(|what| format!("endpoint {} ({} {address}): {what}", endpoint.name, endpoint.protocol))?;
        }
        Ok(())
    }

    /// Pause before the next probe of a target that has been starting for `elapsed`: a small part of that, so that a slow
    /// backend is not probed a thousand times, and a quick one is noticed at once.
    pub(crate) fn pause(&self, elapsed: Duration) -> Duration {
        if self.endpoints.iter().all(|(_, _, method)| *method == Method::Bound) {
            (elapsed / 200).clamp(Duration::from_millis(1), Duration::from_millis(25))
        } else {
            (elapsed / 20).clamp(Duration::from_millis(5), Duration::from_millis(500))
        }
    }
}

/// Reason of a failed probe, for messages.
fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => format!("no reply within {TIMEOUT:?}"),
        _ => {
            let text = error.to_string();
            let text = text.split(" (os error").next().unwrap_or_default();
            let mut letters = text.chars();
            let first = letters.next().map(|letter| letter.to_lowercase().to_string()).unwrap_or_default();
            first + letters.as_str()
        }
    }
}

fn method<'a>(
    probe: &'a Probe,
    endpoint: &Endpoint,
    address: SocketAddr,
    routes: &mut Option<Routes>,
) -> Option<Method<'a>> {
    let tcp = endpoint.protocol == Protocol::Tcp;
    match probe {
        Probe::None => None,
        Probe::Bound => Some(Method::Bound),
        Probe::Connect => tcp.then_some(Method::Connect),
        Probe::Http { path } => tcp.then_some(Method::Http(path)),
        Probe::Auto => match is_local(routes, address) {
            Ok(true) => Some(Method::Bound),
            Ok(false) => tcp.then_some(Method::Connect),
            Err(error) => {
                log::warn!("endpoint {:?}: cannot find out whether it is on this host: {error}", endpoint.name);
                tcp.then_some(Method::Connect)
            }
        },
    }
}

fn is_local(routes: &mut Option<Routes>, address: SocketAddr) -> io::Result<bool> {
    let routes = match routes {
        Some(routes) => routes,
        None => routes.insert(Routes::open()?),
    };
    routes.is_local(address.ip())
}

/// The UDP endpoints on a loopback address whose sockets are bound to all addresses. Replies of such a socket to remote
/// clients have another source address than the endpoint's, unless its program chooses the endpoint's.
pub(crate) fn wildcards(endpoints: &[Endpoint]) -> BTreeSet<Address> {
    let mut diag = None;
    let udp = endpoints.iter().filter(|endpoint| endpoint.protocol == Protocol::Udp);
    let loopback = udp.flat_map(|endpoint| &endpoint.addresses).filter(|address| address.ip.is_loopback());
    let mut is_wildcard = |address: &&Address| match bound(&mut diag, Protocol::Udp, address.first()) {
        Ok(bound) => bound == Some(Bound::Wildcard),
        Err(error) => {
            log::warn!("cannot find out how the socket of {address} is bound: {error}");
            false
        }
    };
    loopback.filter(|address| is_wildcard(address)).copied().collect()
}

fn bound(diag: &mut Option<sock_diag::Diag>, protocol: Protocol, address: SocketAddr) -> io::Result<Option<Bound>> {
    let diag = match diag {
        Some(diag) => diag,
        None => diag.insert(sock_diag::Diag::open()?),
    };
    sock_diag::bound(diag, protocol, address)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    fn endpoint(address: SocketAddr) -> Endpoint {
        let address = address.to_string().parse().expect("an address");
        Endpoint { name: "db".to_owned(), protocol: Protocol::Tcp, addresses: vec![address] }
    }

    fn missing(probe: &Probe, address: SocketAddr) -> Option<String> {
        let endpoints = [endpoint(address)];
        let error = Prober::new(probe, &endpoints).probe().err()?.to_string();
        let start = format!("endpoint db (tcp {address}): ");
        Some(error.strip_prefix(&start).unwrap_or_else(|| panic!("{error}")).to_owned())
    }

    #[test]
    fn a_probe_names_the_endpoint_and_the_reason() {
        // Bound and not listening: no other program has it, and it refuses.
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("bound");
        let free = socket.local_addr().expect("bound").as_socket().expect("an IP address");
        assert_eq!(missing(&Probe::Connect, free).as_deref(), Some("connection refused"));
        assert_eq!(missing(&Probe::Bound, free).as_deref(), Some("no socket is bound to it"));
        assert_eq!(missing(&Probe::Auto, free).as_deref(), Some("no socket is bound to it"));
        assert_eq!(missing(&Probe::None, free), None);
    }

    #[test]
    fn an_http_probe_names_the_status_or_the_fault() {
        let http = Probe::Http { path: "/health".to_owned() };
        for (answer, expected) in [
            ("HTTP/1.1 503 Service Unavailable\r\n\r\n", Some("status 503 for GET /health")),
            ("HTTP/1.1 200 OK\r\n\r\n", None),
            ("HTTP/1.1 301 Moved\r\n\r\n", None),
            ("", Some("the response is not HTTP")),
            ("SSH-2.0-OpenSSH_9.2\r\n", Some("invalid HTTP version")),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
            let address = listener.local_addr().expect("bound");
            let server = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().expect("a connection");
                let _ = stream.read(&mut [0; 1024]);
                stream.write_all(answer.as_bytes()).expect("sent");
            });
            assert_eq!(missing(&http, address).as_deref(), expected, "{answer:?}");
            server.join().expect("no panic");
        }
    }

    #[test]
    fn reasons_have_no_numbers_of_the_operating_system() {
        for errno in [rustix::io::Errno::CONNREFUSED, rustix::io::Errno::HOSTUNREACH, rustix::io::Errno::MFILE] {
            let text = reason(&errno.into());
            assert!(!text.contains("os error") && text.starts_with(char::is_lowercase), "{text}");
        }
        assert_eq!(reason(&io::ErrorKind::TimedOut.into()), "no reply within 1s");
    }
}
