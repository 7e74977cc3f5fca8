//! Does the backend answer? Asked often at first, then less and less, until it does; never again afterwards.
//!
//! Runs on the target's own thread. Nothing here is asked of a backend that is routed to: from then on the kernel and the
//! handler say whether it lives.

mod http;

use std::collections::BTreeSet;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::config::{Address, Endpoint, Probe, Protocol};
use crate::netlink::route;
use crate::netlink::sock_diag::{self, Bound};
use crate::plugin::Error;

/// How long one question to a backend may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// Asks the endpoints of one target.
pub(crate) struct Prober<'a> {
    /// Each address of each endpoint. Of a range of ports, the first is asked.
    endpoints: Vec<(&'a Endpoint, SocketAddr, Question<'a>)>,
    diag: Option<sock_diag::Diag>,
}

/// What is asked at one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Question<'a> {
    /// Is a socket of this host bound to it?
    Bound,
    /// Does it accept a connection?
    Connect,
    /// Does it answer a request?
    Http(&'a str),
}

impl<'a> Prober<'a> {
    pub(crate) fn new(probe: &'a Probe, endpoints: &'a [Endpoint]) -> Prober<'a> {
        let addresses =
            endpoints.iter().flat_map(|endpoint| endpoint.addresses.iter().map(move |at| (endpoint, at.first())));
        let questions = addresses.filter_map(|(endpoint, at)| Some((endpoint, at, question(probe, endpoint, at)?)));
        Prober { endpoints: questions.collect(), diag: None }
    }

    /// Asks each address until one is not ready.
    ///
    /// # Errors
    /// Which endpoint is not ready, and what it lacks.
    pub(crate) fn probe(&mut self) -> Result<(), Error> {
        for (endpoint, address, question) in &self.endpoints {
            let missing = |what: &dyn std::fmt::Display| {
                format!("endpoint {:?}: {} {address}: {what}", endpoint.name, endpoint.protocol)
            };
            match question {
                Question::Bound => match bound(&mut self.diag, endpoint.protocol, *address) {
                    Ok(Some(_)) => {}
                    Ok(None) => return Err(missing(&"no socket is bound to it").into()),
                    Err(error) => return Err(missing(&format_args!("cannot ask the kernel: {error}")).into()),
                },
                Question::Connect => {
                    TcpStream::connect_timeout(address, PATIENCE).map_err(|error| missing(&error))?;
                }
                Question::Http(path) => http::get(*address, path, PATIENCE).map_err(|error| missing(&error))?,
            }
        }
        Ok(())
    }

    /// How long to wait before the next question, when the target has been starting for `elapsed`: a small part of that, so
    /// that a slow backend is not asked a thousand times and a quick one is not waited for.
    pub(crate) fn pause(&self, elapsed: Duration) -> Duration {
        if self.endpoints.iter().all(|(_, _, question)| *question == Question::Bound) {
            (elapsed / 200).clamp(Duration::from_millis(1), Duration::from_millis(25))
        } else {
            (elapsed / 20).clamp(Duration::from_millis(5), Duration::from_millis(500))
        }
    }
}

fn question<'a>(probe: &'a Probe, endpoint: &Endpoint, address: SocketAddr) -> Option<Question<'a>> {
    let tcp = endpoint.protocol == Protocol::Tcp;
    match probe {
        Probe::None => None,
        Probe::Bound => Some(Question::Bound),
        Probe::Connect => tcp.then_some(Question::Connect),
        Probe::Http { path } => tcp.then_some(Question::Http(path)),
        Probe::Auto => match route::is_local(address.ip()) {
            Ok(true) => Some(Question::Bound),
            Ok(false) => tcp.then_some(Question::Connect),
            Err(error) => {
                log::warn!("endpoint {:?}: cannot tell whether it is on this host: {error}", endpoint.name);
                tcp.then_some(Question::Connect)
            }
        },
    }
}

/// The UDP endpoints on a loopback address whose sockets are bound to all addresses. What such a socket answers to clients
/// elsewhere has another source address than the endpoint's, unless its program sees to that.
pub(crate) fn wildcards(endpoints: &[Endpoint]) -> BTreeSet<Address> {
    let mut diag = None;
    let udp = endpoints.iter().filter(|endpoint| endpoint.protocol == Protocol::Udp);
    let loopback = udp.flat_map(|endpoint| &endpoint.addresses).filter(|address| address.ip.is_loopback());
    let mut is_wildcard = |address: &&Address| match bound(&mut diag, Protocol::Udp, address.first()) {
        Ok(bound) => bound == Some(Bound::Wildcard),
        Err(error) => {
            log::warn!("cannot tell how the socket of {address} is bound: {error}");
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
