//! One port or a range of them, and an IP address with them.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

/// A range of ports; most often of one. A valid configuration has no port 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ports {
    first: u16,
    last: u16,
}

impl Ports {
    /// One port.
    pub const fn one(port: u16) -> Ports {
        Ports { first: port, last: port }
    }

    /// All from `first` to `last`; `None` if `last` comes before.
    pub fn range(first: u16, last: u16) -> Option<Ports> {
        (first <= last).then_some(Ports { first, last })
    }

    /// The first, or the only one.
    pub fn first(self) -> u16 {
        self.first
    }

    /// The last, or the only one.
    pub fn last(self) -> u16 {
        self.last
    }

    /// Number of ports.
    pub fn count(self) -> u32 {
        u32::from(self.last - self.first) + 1
    }

    /// Whether there is more than one.
    pub fn is_range(self) -> bool {
        self.first != self.last
    }

    /// Whether a port is one of them.
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }

    /// Ports that are in both ranges.
    pub fn common(self, other: Ports) -> Option<Ports> {
        Ports::range(self.first.max(other.first), self.last.min(other.last))
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.is_range() {
            false => write!(f, "{}", self.first),
            true => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

/// An IP address with one port or a range of ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// As a listen, the unspecified address stands for every address of this host of its family.
    pub ip: IpAddr,
    /// The ports.
    pub ports: Ports,
}

impl Address {
    /// Its first port, or its only one.
    pub fn first(self) -> SocketAddr {
        SocketAddr::new(self.ip, self.ports.first)
    }

    /// Each of its ports.
    pub fn sockets(self) -> impl Iterator<Item = SocketAddr> {
        (self.ports.first..=self.ports.last).map(move |port| SocketAddr::new(self.ip, port))
    }

    /// Whether it is an IPv4 address.
    pub fn is_ipv4(self) -> bool {
        self.ip.is_ipv4()
    }

    /// `IPv4` or `IPv6`.
    pub(crate) fn family(self) -> &'static str {
        if self.is_ipv4() { "IPv4" } else { "IPv6" }
    }
}

impl From<SocketAddr> for Address {
    fn from(socket: SocketAddr) -> Address {
        Address { ip: socket.ip(), ports: Ports::one(socket.port()) }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ip {
            IpAddr::V4(ip) => write!(f, "{ip}:{}", self.ports),
            IpAddr::V6(ip) => write!(f, "[{ip}]:{}", self.ports),
        }
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Address, String> {
        super::address::parse(text)
    }
}

/// Owners of ports. Lookups and insertions take logarithmic time for ranges of any length.
#[derive(Debug, Clone)]
pub(crate) struct PortMap<T> {
    /// By first port, with the last; none overlaps with another.
    owners: BTreeMap<u16, (u16, T)>,
}

impl<T> Default for PortMap<T> {
    fn default() -> Self {
        PortMap { owners: BTreeMap::new() }
    }
}

impl<T: Copy> PortMap<T> {
    /// Owner of a port.
    pub(crate) fn get(&self, port: u16) -> Option<T> {
        self.overlapping(Ports::one(port))
    }

    /// Owner of one of these ports, if any has an owner.
    pub(crate) fn overlapping(&self, ports: Ports) -> Option<T> {
        let (_, (last, owner)) = self.owners.range(..=ports.last).next_back()?;
        (*last >= ports.first).then_some(*owner)
    }

    /// Assigns ports to an owner. Ports that had another owner have either owner afterwards.
    pub(crate) fn insert(&mut self, ports: Ports, owner: T) {
        let Ports { mut first, last } = ports;
        if let Some((_, (before, _))) = self.owners.range(..=first).next_back()
            && *before >= first
        {
            if *before >= last {
                return;
            }
            first = *before + 1;
        }
        // The new ports replace the ranges that they cover.
        while let Some((&next, &(end, _))) = self.owners.range(first..=last).next() {
            if end > last {
                if next > first {
                    self.owners.insert(first, (next - 1, owner));
                }
                return;
            }
            self.owners.remove(&next);
        }
        self.owners.insert(first, (last, owner));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_counted_shown_and_cut() {
        let ports = |first, last| Ports::range(first, last).expect("in order");
        assert_eq!(Ports::range(2, 1), None);
        assert_eq!((ports(1, 65535).count(), Ports::one(80).count()), (65535, 1));
        assert_eq!((ports(1, 3).to_string(), ports(7, 7).to_string()), ("1-3".to_owned(), "7".to_owned()));
        assert_eq!(ports(10, 20).common(ports(15, 30)), Some(ports(15, 20)));
        assert_eq!(ports(10, 20).common(ports(21, 30)), None);
        let address = Address { ip: "::1".parse().expect("an address"), ports: ports(65534, 65535) };
        assert_eq!(address.to_string(), "[::1]:65534-65535");
        assert_eq!(address.sockets().count(), 2);
    }

    /// Compares with a table of every port.
    #[test]
    fn a_port_map_equals_a_table_of_ports() {
        let mut seed = 11_u64;
        let mut random = move |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % below
        };
        for _ in 0..300 {
            let mut map = PortMap::default();
            let mut claims: Vec<Ports> = Vec::new();
            for owner in 0..12 {
                let first = (65535 - 30 + random(31)) as u16;
                let ports = Ports::range(first, first.saturating_add(random(8) as u16)).expect("in order");
                let taken = claims.iter().any(|other| other.common(ports).is_some());
                assert_eq!(map.overlapping(ports).is_some(), taken, "{ports} in {claims:?}");
                claims.push(ports);
                map.insert(ports, owner);
                for port in 65500..=65535 {
                    let claimed = claims.iter().any(|ports| ports.contains(port));
                    assert_eq!(map.get(port).is_some(), claimed, "{port} in {claims:?}");
                    assert!(map.get(port).is_none_or(|owner: usize| claims[owner].contains(port)), "{port}");
                }
            }
        }
    }
}
