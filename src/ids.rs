//! Identifiers that the whole program shares, at the bottom of its modules.
//!
//! An id is assigned once and not used again while the daemon lives, so it can name chains, counters and accounts.

use std::fmt;

/// A target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TargetId(u32);

/// A frontend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrontendId(u32);

impl TargetId {
    /// The id with a number.
    pub const fn new(number: u32) -> TargetId {
        TargetId(number)
    }
}

impl FrontendId {
    /// The id with a number.
    pub const fn new(number: u32) -> FrontendId {
        FrontendId(number)
    }
}

impl fmt::Display for TargetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for FrontendId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A handler on the reactor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HandlerId {
    /// The handler of a frontend.
    Frontend(FrontendId),
    /// A service, by the order of its start.
    Service(u32),
}

/// A request of a handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId {
    /// The handler, which receives the reply.
    pub handler: HandlerId,
    /// Number of the handler's own choice.
    pub tag: u64,
}

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

    /// Its number: 4 or 6.
    pub fn version(self) -> u8 {
        if self == Family::V4 { 4 } else { 6 }
    }

    /// The address that stands for every address of the family.
    pub fn unspecified(self) -> std::net::IpAddr {
        match self {
            Family::V4 => std::net::Ipv4Addr::UNSPECIFIED.into(),
            Family::V6 => std::net::Ipv6Addr::UNSPECIFIED.into(),
        }
    }
}
