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
//! their `flush ruleset` leaves it, and the kernel deletes it when the last descriptor of the socket is closed. The
//! owner is the socket's port id, not its process, so a descriptor that was passed on keeps the table, and can change it.
//!
//! The table is made by netlink, because nft's JSON drops the flag. Numbers are those of linux/netfilter/nf_tables.h and
//! linux/netfilter/nfnetlink.h; numbers inside attributes are in network byte order.

use std::io;
use std::os::fd::OwnedFd;

use neli::consts::nl::NlmF;
use rustix::io::Errno;
use rustix::net::netlink;
use rustix::net::netlink::SocketAddrNetlink;

use super::message::{Message, Request};
use super::netfilter::{NFTABLES, attributes};
use super::nftables::numbers::{
    ACCEPT, CHAIN_HOOK, CHAIN_NAME, CHAIN_POLICY, CHAIN_TYPE, DELETE_TABLE, DROP, GET_TABLE, HOOK_NUMBER,
    HOOK_PRIORITY, RULE_CHAIN, TABLE, TABLE_FLAGS,
};
use super::raw::RawSocket;
use super::socket::Socket;

/// Name of the table, of the family `ip`.
pub const GUARD_TABLE: &str = "proxygw-guard";

const CHAIN: &str = "prerouting";

/// `NF_IP_PRI_RAW_BEFORE_DEFRAG`: before reassembly, conntrack, every DNAT, and rule sets that rewrite addresses in `raw`
/// (-300), so that the addresses are those on the wire. It must not be `NF_IP_PRI_FIRST`: a bridged packet passes the hook a
/// second time after its DNAT, and the kernel's `ip_sabotage_in` at that priority lets it skip the rest of the hook.
const PRIORITY: i32 = -450;

/// `NFT_MSG_NEW…`.
const NEW_TABLE: u16 = NFTABLES;
const NEW_CHAIN: u16 = NFTABLES | 3;
const NEW_RULE: u16 = NFTABLES | 6;

/// `struct nfgenmsg`: the family `NFPROTO_IPV4`, version 0, resource 0.
const IP: [u8; 4] = [2, 0, 0, 0];

/// `NFTA_TABLE_HANDLE` and `_OWNER`; `NFT_TABLE_F_OWNER`.
const TABLE_HANDLE: u16 = 4;
const TABLE_OWNER: u16 = 7;
const OWNER: u32 = 2;

/// `NF_INET_PRE_ROUTING`.
const PREROUTING: u32 = 0;

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
pub struct GuardTable(Socket);

/// A table with an owner, as the kernel reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Found {
    /// Port id of the owner's socket.
    owner: u32,
    /// A number that no other table of the namespace has, at any time.
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
        GuardTable::replace(Socket::open(Some(netlink::NETFILTER))?)
    }

    /// Takes over the table that belongs to this socket, and replaces it in one transaction: every packet meets a guard.
    ///
    /// # Errors
    /// `NotFound` if it is not the socket of the guard of the calling thread's network namespace; else as for
    /// [`create`](GuardTable::create).
    pub fn adopt(fd: OwnedFd) -> io::Result<GuardTable> {
        let not_owner =
            || io::Error::new(io::ErrorKind::NotFound, "it does not own the guard of this network namespace");
        let address = rustix::net::getsockname(&fd)?;
        let port = SocketAddrNetlink::try_from(address).map_err(|_| not_owner())?.pid();
        let find = || find(Socket::open(Some(netlink::NETFILTER))?);
        let before = find()?.filter(|found| found.owner == port).ok_or_else(not_owner)?;
        let guard = GuardTable::replace(Socket::over(RawSocket::over(fd))?)?;
        if is_replaced(port, before, find()?) { Ok(guard) } else { Err(not_owner()) }
    }

    /// Installs the whole table in one transaction.
    fn replace(mut socket: Socket) -> io::Result<GuardTable> {
        socket.commit(table())?;
        Ok(GuardTable(socket))
    }
}

impl From<GuardTable> for OwnedFd {
    fn from(guard: GuardTable) -> OwnedFd {
        guard.0.into()
    }
}

/// The guard in the network namespace, of any owner.
fn find(mut socket: Socket) -> io::Result<Option<Found>> {
    socket.find(Request::new(GET_TABLE, &IP).string(TABLE, GUARD_TABLE), &[Errno::NOENT], parse)
}

fn parse(message: &Message<'_>) -> Option<Found> {
    let table = attributes(message);
    Some(Found { owner: table.be32(TABLE_OWNER)?, handle: table.be64(TABLE_HANDLE)? })
}

/// True if the socket of this port has replaced the table. A socket of another namespace can have the same port id: then that
/// namespace's table has changed, and the one here is still the same.
fn is_replaced(port: u32, before: Found, after: Option<Found>) -> bool {
    after.is_some_and(|after| after.owner == port && after.handle != before.handle)
}

/// The messages of a transaction that replaces the table.
fn table() -> Vec<(Request, NlmF)> {
    let request = |kind| Request::new(kind, &IP).string(TABLE, GUARD_TABLE);
    vec![
        // Adding it first lets the deletion succeed in any case. Without flags, because the kernel refuses to change the owner
        // of an existing table.
        (request(NEW_TABLE), NlmF::CREATE),
        (request(DELETE_TABLE), NlmF::empty()),
        (request(NEW_TABLE).be32(TABLE_FLAGS, OWNER), NlmF::CREATE),
        (chain(request(NEW_CHAIN)), NlmF::CREATE),
        (rule(request(NEW_RULE), DESTINATION), NlmF::CREATE | NlmF::APPEND),
        (rule(request(NEW_RULE), SOURCE), NlmF::CREATE | NlmF::APPEND),
    ]
}

/// `type filter hook prerouting priority -450; policy accept;`
fn chain(request: Request) -> Request {
    let request = request
        .string(CHAIN_NAME, CHAIN)
        .nested(CHAIN_HOOK, |hook| hook.be32(HOOK_NUMBER, PREROUTING).be32(HOOK_PRIORITY, PRIORITY.cast_unsigned()));
    request.be32(CHAIN_POLICY, ACCEPT).string(CHAIN_TYPE, "filter")
}

/// `ip daddr 127.0.0.0/8 iif != "lo" drop`, or the same of the source. The address comes first: few packets have such an
/// address, and for the others the rule ends there.
fn rule(request: Request, offset: u32) -> Request {
    // Numbers are those of enum nft_payload_attributes, nft_cmp_attributes, nft_meta_attributes and
    // nft_immediate_attributes, NFT_PAYLOAD_NETWORK_HEADER, NFT_CMP_EQ and _NEQ, NFT_META_IIF, NFTA_DATA_VALUE and
    // _VERDICT, and NFTA_VERDICT_CODE.
    request.string(RULE_CHAIN, CHAIN).nested(RULE_EXPRESSIONS, |list| {
        let list = expression(list, "payload", |data| data.be32(1, REGISTER).be32(2, 1).be32(3, offset).be32(4, 1));
        let list = compare(list, 0, &[127]);
        let list = expression(list, "meta", |data| data.be32(1, REGISTER).be32(2, 4));
        let list = compare(list, 1, &LO.to_ne_bytes());
        expression(list, "immediate", |data| {
            data.be32(1, VERDICT_REGISTER).nested(2, |data| data.nested(2, |verdict| verdict.be32(1, DROP)))
        })
    })
}

/// Ends the rule unless the register compares like this with the value.
fn compare(list: Request, operation: u32, value: &[u8]) -> Request {
    expression(list, "cmp", |data| data.be32(1, REGISTER).be32(2, operation).nested(3, |data| data.attribute(1, value)))
}

fn expression(list: Request, kind: &str, data: impl FnOnce(Request) -> Request) -> Request {
    list.nested(LIST_ELEMENT, |element| element.string(EXPRESSION_NAME, kind).nested(EXPRESSION_DATA, data))
}

#[cfg(test)]
mod tests;
