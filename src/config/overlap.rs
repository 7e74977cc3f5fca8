//! Finds frontends that would match the same packet. Takes time in proportion to their number.

use std::collections::HashMap;
use std::net::SocketAddr;

use super::Protocol;

/// What frontends listen on so far, each with its position in the list.
#[derive(Default)]
pub(super) struct Listeners {
    addresses: HashMap<(Protocol, SocketAddr), usize>,
    ports: HashMap<(Protocol, u16, bool), Port>,
}

/// The listeners on one port of one family.
struct Port {
    /// Which came first, whatever its address.
    first: usize,
    /// Which listens on every address.
    wildcard: Option<usize>,
}

impl Listeners {
    /// Adds a frontend, and returns one that was added before and overlaps with it, if there is one.
    pub(super) fn add(&mut self, index: usize, protocol: Protocol, listen: SocketAddr) -> Option<usize> {
        let wildcard = listen.ip().is_unspecified();
        let port = self.ports.get(&(protocol, listen.port(), listen.is_ipv4()));
        let same = self.addresses.get(&(protocol, listen)).copied();
        let overlap = match port {
            Some(port) => same.or(port.wildcard).or(wildcard.then_some(port.first)),
            None => None,
        };
        self.addresses.entry((protocol, listen)).or_insert(index);
        let port = self
            .ports
            .entry((protocol, listen.port(), listen.is_ipv4()))
            .or_insert(Port { first: index, wildcard: None });
        if wildcard {
            port.wildcard = port.wildcard.or(Some(index));
        }
        overlap
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every pair, by the definition.
    fn slowly(listeners: &[(Protocol, SocketAddr)], index: usize) -> bool {
        let (protocol, own) = listeners[index];
        listeners[..index].iter().any(|(other_protocol, other)| {
            protocol == *other_protocol
                && own.port() == other.port()
                && own.is_ipv4() == other.is_ipv4()
                && (own.ip() == other.ip() || own.ip().is_unspecified() || other.ip().is_unspecified())
        })
    }

    #[test]
    fn finds_what_comparing_every_pair_finds() {
        const ADDRESSES: [&str; 6] = ["0.0.0.0", "10.0.0.1", "10.0.0.2", "[::]", "[::1]", "[::2]"];
        let mut seed = 7_u64;
        let mut random = move |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % below
        };
        for _ in 0..500 {
            let listeners: Vec<(Protocol, SocketAddr)> = (0..12)
                .map(|_| {
                    let protocol = if random(2) == 0 { Protocol::Tcp } else { Protocol::Udp };
                    let address = format!("{}:{}", ADDRESSES[random(6) as usize], 80 + random(3));
                    (protocol, address.parse().expect("an address"))
                })
                .collect();
            let mut seen = Listeners::default();
            for (index, (protocol, listen)) in listeners.iter().enumerate() {
                let found = seen.add(index, *protocol, *listen);
                assert_eq!(found.is_some(), slowly(&listeners, index), "{index} of {listeners:?}");
                if let Some(other) = found {
                    let pair = [listeners[other], listeners[index]];
                    assert!(other < index && slowly(&pair, 1), "{other} and {index} of {listeners:?}");
                }
            }
        }
    }
}
