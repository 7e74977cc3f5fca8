//! Numbers of linux/netfilter/nfnetlink_conntrack.h that several modules need.

use crate::netlink::netfilter::CONNTRACK;

/// `IPCTNL_MSG_CT_NEW`: an entry, in dumps and in events.
pub const NEW: u16 = CONNTRACK;
/// `IPCTNL_MSG_CT_DELETE`.
pub const DELETE: u16 = CONNTRACK | 2;

/// `enum ctattr_type`: the attributes of an entry.
pub mod cta {
    pub const TUPLE_ORIG: u16 = 1;
    pub const TUPLE_REPLY: u16 = 2;
    pub const STATUS: u16 = 3;
    pub const PROTOINFO: u16 = 4;
    pub const TIMEOUT: u16 = 7;
    pub const COUNTERS_ORIG: u16 = 9;
    pub const COUNTERS_REPLY: u16 = 10;
    pub const ID: u16 = 12;
    pub const ZONE: u16 = 18;
    pub const TIMESTAMP: u16 = 20;
    pub const FILTER: u16 = 25;
    pub const STATUS_MASK: u16 = 26;
}
