//! The guard of 127.0.0.0/8 that a `flush ruleset` does not remove: a table of nftables with the flag `owner`.
//!
//! ```text
//! table ip proxygw-guard {
//!     flags owner
//!     chain prerouting {
//!         type filter hook prerouting priority -450; policy accept;
//!         ip daddr 127.0.0.0/8 iif != "lo" drop
//!         ip saddr 127.0.0.0/8 iif != "lo" drop
//!     }
//! }
//! ```
//!
//! A table with an owner (Linux 5.12) belongs to the netlink socket that made it: other programs cannot change or delete it,
//! their `flush ruleset` passes over it, and the kernel deletes it when the last descriptor of the socket is closed. The
//! owner is the socket's port id, not its process, so a descriptor that was passed on keeps the table, and can change it.
//!
//! The table is made by netlink, since nft's JSON drops the flag. Numbers are those of linux/netfilter/nf_tables.h and
//! linux/netfilter/nfnetlink.h; numbers inside attributes are in network byte order.

use std::io;
use std::os::fd::OwnedFd;

use neli::consts::nl::NlmF;
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{SocketFlags, netlink};

use super::batch;
use super::message::{Attributes, Request};
use super::nftables::{
    CHAIN_HOOK, CHAIN_NAME, CHAIN_POLICY, CHAIN_TYPE, GET_TABLE, HOOK_NUMBER, HOOK_PRIORITY, RULE_CHAIN, SUBSYSTEM,
    TABLE, TABLE_FLAGS,
};
use super::socket::{self, Socket};

/// Name of the table, of the family `ip`.
pub const GUARD_TABLE: &str = "proxygw-guard";

const CHAIN: &str = "prerouting";

/// `NF_IP_PRI_RAW_BEFORE_DEFRAG`: before reassembly, conntrack, every DNAT, and rule sets that rewrite addresses in `raw`
/// (-300), so that the addresses are those on the wire. It must not be `NF_IP_PRI_FIRST`: a bridged packet comes by a second
/// time with its DNAT done, and the kernel's `ip_sabotage_in` at that priority takes it past the rest of the hook.
const PRIORITY: i32 = -450;

/// `NFT_MSG_NEWTABLE` and the others of its sort.
const NEW_TABLE: u16 = SUBSYSTEM;
const DELETE_TABLE: u16 = SUBSYSTEM | 2;
const NEW_CHAIN: u16 = SUBSYSTEM | 3;
const NEW_RULE: u16 = SUBSYSTEM | 6;

/// `struct nfgenmsg`: the family `NFPROTO_IPV4`, version 0, resource 0.
const IP: [u8; 4] = [2, 0, 0, 0];

/// `NFTA_TABLE_HANDLE` and `_OWNER`; `NFT_TABLE_F_OWNER`.
const TABLE_HANDLE: u16 = 4;
const TABLE_OWNER: u16 = 7;
const OWNER: u32 = 2;

/// `NF_INET_PRE_ROUTING`, `NF_DROP`, `NF_ACCEPT`.
const PREROUTING: u32 = 0;
const DROP: u32 = 0;
const ACCEPT: u32 = 1;

/// `NFTA_RULE_EXPRESSIONS`; `NFTA_LIST_ELEM`; `NFTA_EXPR_NAME` and `_DATA`.
const RULE_EXPRESSIONS: u16 = 4;
const LIST_ELEMENT: u16 = 1;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;

/// `NFT_REG_1` and `NFT_REG_VERDICT`.
const REGISTER: u32 = 1;
const VERDICT_REGISTER: u32 = 0;

/// Offsets of the destination and the source in the IPv4 header (RFC 791), in bytes.
const DESTINATION: u32 = 16;
const SOURCE: u32 = 12;

/// `LOOPBACK_IFINDEX` of net/flow.h: `lo` is the first interface of every network namespace.
const LO: u32 = 1;

/// The guard table of a network namespace. It exists until this is dropped, and every other descriptor of its socket closed.
#[derive(Debug)]
pub struct GuardTable {
    fd: OwnedFd,
}

/// A table with an owner, as the kernel reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Found {
    /// Port id of the owner's socket.
    owner: u32,
    /// A number that no other table of the namespace ever has.
    handle: u64,
}

impl GuardTable {
    /// Makes the table in the calling thread's network namespace. An ordinary table of its name, as a restored rule set can
    /// leave it, is replaced.
    ///
    /// # Errors
    /// `InvalidInput` on a kernel that does not know the flag; `PermissionDenied` without `CAP_NET_ADMIN`, or if the table
    /// belongs to another socket; else the operating system's error.
    pub fn create() -> io::Result<GuardTable> {
        let fd = socket::open(Some(netlink::NETFILTER), SocketFlags::CLOEXEC)?;
        socket::connect(&fd, 0)?;
        replace(&fd)?;
        Ok(GuardTable { fd })
    }

    /// Takes over the table that belongs to this socket, and replaces it in one transaction: no packet meets none.
    ///
    /// # Errors
    /// `NotFound` if it is not the socket of the guard of the calling thread's network namespace; else as for
    /// [`create`](GuardTable::create).
    pub fn adopt(fd: OwnedFd) -> io::Result<GuardTable> {
        let strange = || io::Error::new(io::ErrorKind::NotFound, "it does not own the guard of this network namespace");
        let address = rustix::net::getsockname(&fd)?;
        let port = SocketAddrNetlink::try_from(address).map_err(|_| strange())?.pid();
        let before = find()?.filter(|found| found.owner == port).ok_or_else(strange)?;
        replace(&fd)?;
        // A socket of another namespace can have the same port id; then it was that namespace's table that changed.
        match find()? {
            Some(after) if after.owner == port && after.handle != before.handle => Ok(GuardTable { fd }),
            _ => Err(strange()),
        }
    }
}

impl From<GuardTable> for OwnedFd {
    fn from(guard: GuardTable) -> OwnedFd {
        guard.fd
    }
}

/// The guard in the calling thread's network namespace, of any owner.
fn find() -> io::Result<Option<Found>> {
    let mut found = None;
    let mut request = Request::new(GET_TABLE, &IP).attribute(TABLE, &name(GUARD_TABLE));
    let result = Socket::open(Some(netlink::NETFILTER))?.request(&mut request, &mut |message| {
        let attribute = |kind| Attributes::after(message.payload, IP.len()).find(kind);
        let owner = attribute(TABLE_OWNER).and_then(|bytes| Some(u32::from_be_bytes(*bytes.first_chunk()?)));
        let handle = attribute(TABLE_HANDLE).and_then(|bytes| Some(u64::from_be_bytes(*bytes.first_chunk()?)));
        found = owner.zip(handle).map(|(owner, handle)| Found { owner, handle });
    });
    match result {
        Ok(()) => Ok(found),
        Err(error) if Errno::from_io_error(&error) == Some(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Puts the whole table into the kernel in one transaction.
fn replace(fd: &OwnedFd) -> io::Result<()> {
    let table = || Request::new(NEW_TABLE, &IP).attribute(TABLE, &name(GUARD_TABLE));
    let messages = vec![
        // Adding it first makes the deletion succeed whether it was there or not. Without flags, since the kernel refuses to
        // change the owner of a table that is there.
        (table(), NlmF::CREATE),
        (Request::new(DELETE_TABLE, &IP).attribute(TABLE, &name(GUARD_TABLE)), NlmF::empty()),
        (number(table(), TABLE_FLAGS, OWNER), NlmF::CREATE),
        (chain(), NlmF::CREATE),
        (rule(DESTINATION), NlmF::CREATE | NlmF::APPEND),
        (rule(SOURCE), NlmF::CREATE | NlmF::APPEND),
    ];
    batch::commit(fd, messages)
}

/// `type filter hook prerouting priority -450; policy accept;`
fn chain() -> Request {
    let chain = Request::new(NEW_CHAIN, &IP)
        .attribute(TABLE, &name(GUARD_TABLE))
        .attribute(CHAIN_NAME, &name(CHAIN))
        .nested(CHAIN_HOOK, |hook| {
            number(hook, HOOK_NUMBER, PREROUTING).attribute(HOOK_PRIORITY, &PRIORITY.to_be_bytes())
        });
    number(chain, CHAIN_POLICY, ACCEPT).attribute(CHAIN_TYPE, &name("filter"))
}

/// `ip daddr 127.0.0.0/8 iif != "lo" drop`, or the same of the source. The address comes first: hardly any packet has such a
/// one, and the rule ends there.
fn rule(offset: u32) -> Request {
    // Numbers are those of enum nft_payload_attributes, nft_cmp_attributes, nft_meta_attributes and
    // nft_immediate_attributes, NFT_PAYLOAD_NETWORK_HEADER, NFT_CMP_EQ and _NEQ, NFT_META_IIF, NFTA_DATA_VALUE and
    // _VERDICT, and NFTA_VERDICT_CODE.
    let expressions = |list: Request| {
        let list = expression(list, "payload", |data| {
            number(number(number(number(data, 1, REGISTER), 2, 1), 3, offset), 4, 1)
        });
        let list = compare(list, 0, &[127]);
        let list = expression(list, "meta", |data| number(number(data, 1, REGISTER), 2, 4));
        let list = compare(list, 1, &LO.to_ne_bytes());
        expression(list, "immediate", |data| {
            number(data, 1, VERDICT_REGISTER).nested(2, |data| data.nested(2, |verdict| number(verdict, 1, DROP)))
        })
    };
    Request::new(NEW_RULE, &IP)
        .attribute(TABLE, &name(GUARD_TABLE))
        .attribute(RULE_CHAIN, &name(CHAIN))
        .nested(RULE_EXPRESSIONS, expressions)
}

/// Ends the rule unless the register compares like this with the value.
fn compare(list: Request, operation: u32, value: &[u8]) -> Request {
    expression(list, "cmp", |data| {
        number(number(data, 1, REGISTER), 2, operation).nested(3, |data| data.attribute(1, value))
    })
}

fn expression(list: Request, kind: &str, data: impl FnOnce(Request) -> Request) -> Request {
    list.nested(LIST_ELEMENT, |element| element.attribute(EXPRESSION_NAME, &name(kind)).nested(EXPRESSION_DATA, data))
}

/// Appends a number of 32 bits.
fn number(request: Request, kind: u16, value: u32) -> Request {
    request.attribute(kind, &value.to_be_bytes())
}

/// A string as the kernel wants it.
fn name(text: &str) -> Vec<u8> {
    [text.as_bytes(), &[0]].concat()
}
