//! Conntrack's table through ctnetlink (`linux/netfilter/nfnetlink_conntrack.h`): filtered dumps, changes of one entry,
//! and, in [`Subscription`], the events of the flows that were DNATed.
//!
//! Every filter is asked of the kernel, so that foreign entries cost no copy, and checked again here, because kernels
//! too old for a filter attribute ignore it.

mod entry;
mod filter;
mod subscription;

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, netlink};

use super::message::{Message, Request};
use super::socket::Socket;
use crate::config::Protocol;

pub use entry::{Counters, Entry, Key, Status, TcpState, Tuple};
#[cfg(any(test, fuzzing))]
pub(super) use subscription::parse as fuzz_event;
pub use subscription::{Event, Subscription};

/// Bytes in `struct nfgenmsg`: family u8, version u8, resource u16.
const GENERIC_HEADER: usize = 4;
/// `NFNL_SUBSYS_CTNETLINK`, which is the upper byte of a message's type.
const SUBSYSTEM: u16 = 1 << 8;
/// `IPCTNL_MSG_CT_NEW`: an entry, in dumps and in events.
const NEW: u16 = SUBSYSTEM;
/// `IPCTNL_MSG_CT_GET`.
const GET: u16 = SUBSYSTEM | 1;
/// `IPCTNL_MSG_CT_DELETE`.
const DELETE: u16 = SUBSYSTEM | 2;

/// `enum ctattr_type`: what an entry consists of.
mod cta {
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

/// `enum ctattr_filter`.
const FILTER_ORIG_FLAGS: u16 = 1;
/// `CTA_FILTER_FLAG(CTA_PROTO_NUM)`, from the kernel's `net/netfilter/nf_internals.h`.
const FILTER_PROTOCOL: u32 = 1 << 3;
/// `CTA_FILTER_FLAG(CTA_PROTO_DST_PORT)`.
const FILTER_DESTINATION_PORT: u32 = 1 << 5;

/// A socket to the conntrack table of one network namespace.
#[derive(Debug)]
pub struct Conntrack {
    socket: Socket,
}

impl Conntrack {
    /// A socket to the table of the calling thread's network namespace.
    ///
    /// # Errors
    /// The operating system's error: no netfilter netlink in the kernel, or no file descriptor left. A lack of rights
    /// shows only when something is asked.
    pub fn open() -> io::Result<Conntrack> {
        Ok(Conntrack { socket: Socket::open(Some(netlink::NETFILTER))? })
    }

    /// Gives `each` TCP and UDP entry, of IPv4 and of IPv6, whose destination was translated (`IPS_DST_NAT`). Entries
    /// whose time is over are left out (the kernel removes them on the way).
    ///
    /// # Errors
    /// `PermissionDenied` without `CAP_NET_ADMIN`; else as for [`Socket::dump`], whose note on repetition applies.
    pub fn dump_dnat(&mut self, each: &mut dyn FnMut(&Entry)) -> io::Result<()> {
        let bit = Status::DST_NAT.to_be_bytes();
        let mut request = Request::new(GET, &header(AddressFamily::UNSPEC))
            .attribute(cta::STATUS, &bit)
            .attribute(cta::STATUS_MASK, &bit);
        self.socket.dump(
            &mut request,
            &mut entries(|entry| {
                if entry.status.dnat() {
                    each(entry);
                }
            }),
        )
    }

    /// Gives `each` entry, of IPv4 and of IPv6, of one protocol whose original destination port is `port` (`None`:
    /// whichever), translated or not.
    ///
    /// # Errors
    /// As for [`dump_dnat`](Conntrack::dump_dnat).
    pub fn dump_to(&mut self, protocol: Protocol, port: Option<u16>, each: &mut dyn FnMut(&Entry)) -> io::Result<()> {
        // A filter on the tuple needs a family: without one the kernel says EOPNOTSUPP.
        for family in [AddressFamily::INET, AddressFamily::INET6] {
            let flags = FILTER_PROTOCOL | if port.is_some() { FILTER_DESTINATION_PORT } else { 0 };
            let mut request = Request::new(GET, &header(family))
                .nested(cta::FILTER, |nest| nest.attribute(FILTER_ORIG_FLAGS, &flags.to_ne_bytes()))
                .nested(cta::TUPLE_ORIG, |tuple| {
                    tuple.nested(entry::TUPLE_PROTO, |proto| {
                        let proto = proto.attribute(entry::PROTO_NUM, &[protocol.number()]);
                        match port {
                            Some(port) => proto.attribute(entry::PROTO_DST_PORT, &port.to_be_bytes()),
                            None => proto,
                        }
                    })
                });
            self.socket.dump(
                &mut request,
                &mut entries(|entry| {
                    if entry.protocol == protocol && port.is_none_or(|port| entry.original.destination.port() == port) {
                        each(entry);
                    }
                }),
            )?;
        }
        Ok(())
    }

    /// The entry as it is now; `None` if it is gone, its time is over, or another has come after it under the same tuple.
    /// It costs the same however large the table is.
    ///
    /// # Errors
    /// `PermissionDenied` without `CAP_NET_ADMIN`; else as for [`Socket::request`].
    pub fn look_up(&mut self, key: &Key, id: u32) -> io::Result<Option<Entry>> {
        let mut request = about(GET, key.protocol, &key.original).attribute(cta::ZONE, &key.zone.to_be_bytes());
        let mut found = None;
        let answered = self.socket.request(&mut request, &mut entries(|answer| found = Some(*answer)));
        match answered {
            Ok(()) => Ok(found.filter(|found| found.id == id)),
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Lets the entry live for so many seconds from now, or until its next packet sets its time anew; `false` if it was gone
    /// already.
    ///
    /// # Errors
    /// As for [`delete`](Conntrack::delete).
    pub fn set_timeout(&mut self, entry: &Entry, seconds: u32) -> io::Result<bool> {
        let request = about(NEW, entry.protocol, &entry.original);
        self.perform(
            request.attribute(cta::ZONE, &entry.zone.to_be_bytes()).attribute(cta::TIMEOUT, &seconds.to_be_bytes()),
        )
    }

    /// Deletes the entry; `false` if it was gone already. An entry that came after it with the same tuple is left alone.
    ///
    /// # Errors
    /// `PermissionDenied` without `CAP_NET_ADMIN`; else as for [`Socket::request`].
    pub fn delete(&mut self, entry: &Entry) -> io::Result<bool> {
        let request = about(DELETE, entry.protocol, &entry.original);
        self.perform(
            request.attribute(cta::ZONE, &entry.zone.to_be_bytes()).attribute(cta::ID, &entry.id.to_be_bytes()),
        )
    }

    /// Deletes whatever entry there is of the flow from `source` to `destination`; `false` if there is none.
    ///
    /// # Errors
    /// As for [`delete`](Conntrack::delete).
    pub fn delete_flow(&mut self, protocol: Protocol, source: SocketAddr, destination: SocketAddr) -> io::Result<bool> {
        self.perform(about(DELETE, protocol, &Tuple { source, destination }))
    }

    fn perform(&mut self, mut request: Request) -> io::Result<bool> {
        match self.socket.request(&mut request, &mut |_| {}) {
            Ok(()) => Ok(true),
            Err(error) if is_gone(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl AsFd for Conntrack {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Whether the kernel has found no such entry.
fn is_gone(error: &io::Error) -> bool {
    Errno::from_io_error(error) == Some(Errno::NOENT)
}

/// A request about the one entry with this original tuple.
fn about(method: u16, protocol: Protocol, original: &Tuple) -> Request {
    let family = if original.source.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    original.put(Request::new(method, &header(family)), cta::TUPLE_ORIG, protocol)
}

/// `struct nfgenmsg`.
fn header(family: AddressFamily) -> [u8; GENERIC_HEADER] {
    [family.as_raw() as u8, 0, 0, 0]
}

/// A taker of messages that hands on the entries among them.
fn entries(mut each: impl FnMut(&Entry)) -> impl FnMut(&Message<'_>) {
    move |message| {
        if message.kind == NEW
            && let Some(entry) = Entry::parse(message.payload)
        {
            each(&entry);
        }
    }
}
