//! Identifiers that the whole program shares, at the bottom of its modules.

/// A target, as its position in the configuration.
pub type TargetId = usize;

/// A frontend, as its position in the configuration.
pub type FrontendId = usize;

/// Change of a frontend's target, as its handler sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is active, and the frontend's flows are DNATed to it.
    Active,
    /// It is no longer active; a wake can come for it at any time.
    Inactive,
    /// It has been started and has not become active.
    Failed,
}

/// "pg" in ASCII. Marks what is ours where the kernel has a number only: the metric of our routes, the value of
/// `route_localnet`, and by default the NFLOG group of held packets.
pub const OUR_NUMBER: u16 = u16::from_be_bytes(*b"pg");

/// Version of IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both versions.
    pub const ALL: [Family; 2] = [Family::V4, Family::V6];

    /// Family of an address.
    pub fn of(ip: std::net::IpAddr) -> Family {
        if ip.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    /// The address that stands for every address of the family.
    pub fn unspecified(self) -> std::net::IpAddr {
        match self {
            Family::V4 => std::net::Ipv4Addr::UNSPECIFIED.into(),
            Family::V6 => std::net::Ipv6Addr::UNSPECIFIED.into(),
        }
    }
}
