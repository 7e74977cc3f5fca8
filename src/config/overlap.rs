//! Search for frontends that match the same packet, in time proportional to their number.

use std::collections::HashMap;
use std::net::IpAddr;

use super::{Address, PortMap, Protocol};
use crate::ids::Family;

/// A listen: the frontend's position, and its own in the frontend.
pub(super) type ListenId = (usize, usize);

/// The listens of frontends so far.
#[derive(Default)]
pub(super) struct Listeners {
    /// By address; the unspecified ones are addresses of their own.
    addresses: HashMap<(Protocol, IpAddr), PortMap<ListenId>>,
    /// By family, whatever the address.
    families: HashMap<(Protocol, Family), PortMap<ListenId>>,
}

impl Listeners {
    /// Adds a listen. Returns an earlier one that overlaps with it, if there is one.
    pub(super) fn add(&mut self, id: ListenId, protocol: Protocol, listen: Address) -> Option<ListenId> {
        let family = Family::of(listen.ip);
        let any = family.unspecified();
        let of = |ip| self.addresses.get(&(protocol, ip)).and_then(|ports| ports.overlapping(listen.ports));
        let family = self.families.entry((protocol, family)).or_default();
        let overlap =
            of(listen.ip).or_else(|| if listen.ip == any { family.overlapping(listen.ports) } else { of(any) });
        family.insert(listen.ports, id);
        self.addresses.entry((protocol, listen.ip)).or_default().insert(listen.ports, id);
        overlap
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compares every pair, by the definition.
    fn slowly(listeners: &[(Protocol, Address)], index: usize) -> bool {
        let (protocol, own) = listeners[index];
        listeners[..index].iter().any(|(other_protocol, other)| {
            protocol == *other_protocol
                && own.ports.common(other.ports).is_some()
                && own.is_ipv4() == other.is_ipv4()
                && (own.ip == other.ip || own.ip.is_unspecified() || other.ip.is_unspecified())
        })
    }

    #[test]
    fn overlaps_are_those_of_all_pairs() {
        const ADDRESSES: [&str; 6] = ["0.0.0.0", "10.0.0.1", "10.0.0.2", "[::]", "[::1]", "[::2]"];
        let mut seed = 7_u64;
        let mut random = move |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % below
        };
        for _ in 0..500 {
            let listeners: Vec<(Protocol, Address)> = (0..12)
                .map(|_| {
                    let protocol = if random(2) == 0 { Protocol::Tcp } else { Protocol::Udp };
                    let first = 80 + random(6);
                    let address = format!("{}:{first}-{}", ADDRESSES[random(6) as usize], first + random(3));
                    (protocol, address.parse().expect("an address"))
                })
                .collect();
            let mut seen = Listeners::default();
            for (index, (protocol, listen)) in listeners.iter().enumerate() {
                let found = seen.add((index, 0), *protocol, *listen);
                assert_eq!(found.is_some(), slowly(&listeners, index), "{index} of {listeners:?}");
                if let Some((other, _)) = found {
                    let pair = [listeners[other], listeners[index]];
                    assert!(other < index && slowly(&pair, 1), "{other} and {index} of {listeners:?}");
                }
            }
        }
    }
}
