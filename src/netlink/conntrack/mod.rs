//! Conntrack's table through ctnetlink (`linux/netfilter/nfnetlink_conntrack.h`): filtered dumps, changes of one entry,
//! and, in [`Subscription`], the events of DNATed flows.
//!
//! The kernel filters, so that unrelated entries cost no copy. Each filter is checked again here, because kernels too old
//! for a filter attribute ignore it.

mod entry;
mod filter;
mod numbers;
mod status;
mod subscription;
mod tuple;

use std::io;
use std::net::SocketAddr;

use neli::consts::nl::NlmF;
use rustix::io::Errno;
use rustix::net::{AddressFamily, netlink};

use super::message::{Message, Request};
use super::netfilter::{self, CONNTRACK};
use super::socket::{Socket, unless};
use crate::config::Protocol;
use numbers::{DELETE, NEW, cta};

pub use entry::{Counters, Entry};
pub use status::{Status, TcpState};
#[cfg(any(test, fuzzing))]
pub(super) use subscription::parse as parse_event;
pub use subscription::{Event, Subscription};
pub use tuple::{Key, Tuple};

/// `IPCTNL_MSG_CT_GET`.
const GET: u16 = CONNTRACK | 1;

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
    /// The operating system's error: no netfilter netlink in the kernel, or no file descriptor left. Missing rights show
    /// only at the first query.
    pub fn open() -> io::Result<Conntrack> {
        Ok(Conntrack { socket: Socket::open(Some(netlink::NETFILTER))? })
    }

    /// Passes each TCP and UDP entry, of IPv4 and of IPv6, whose destination was translated (`IPS_DST_NAT`) to `each`.
    /// Expired entries are left out (the kernel removes them on the way).
    ///
    /// # Errors
    /// `PermissionDenied` without `CAP_NET_ADMIN`; else as for [`Socket::dump`], whose note on repetition applies.
    pub fn dump_dnat(&mut self, each: &mut dyn FnMut(&Entry)) -> io::Result<()> {
        let request = Request::new(GET, &header(AddressFamily::UNSPEC))
            .be32(cta::STATUS, Status::DST_NAT)
            .be32(cta::STATUS_MASK, Status::DST_NAT);
        self.socket.dump(request, &mut entries(|entry| entry.status.dnat(), each))
    }

    /// Passes each entry, of IPv4 and of IPv6, of one protocol whose original destination port is `port` (`None`: any) to
    /// `each`, translated or not.
    ///
    /// # Errors
    /// As for [`dump_dnat`](Conntrack::dump_dnat).
    pub fn dump_to(&mut self, protocol: Protocol, port: Option<u16>, each: &mut dyn FnMut(&Entry)) -> io::Result<()> {
        let flags = FILTER_PROTOCOL | port.map_or(0, |_| FILTER_DESTINATION_PORT);
        let is_wanted = |entry: &Entry| {
            entry.protocol == protocol && port.is_none_or(|port| entry.original.destination.port() == port)
        };
        // A filter on the tuple needs a family: without one the kernel returns EOPNOTSUPP.
        for family in [AddressFamily::INET, AddressFamily::INET6] {
            let request =
                Request::new(GET, &header(family)).nested(cta::FILTER, |nest| nest.ne32(FILTER_ORIG_FLAGS, flags));
            let request = tuple::put_filter(request, cta::TUPLE_ORIG, protocol, port);
            self.socket.dump(request, &mut entries(is_wanted, each))?;
        }
        Ok(())
    }

    /// The entry as it is now; `None` if it is gone or expired, or was replaced by another one under the same tuple. The cost
    /// does not depend on the size of the table.
    ///
    /// # Errors
    /// `PermissionDenied` without `CAP_NET_ADMIN`; else as for [`Socket::request`].
    pub fn look_up(&mut self, key: &Key, id: u32) -> io::Result<Option<Entry>> {
        self.socket.find(about(GET, key), &[Errno::NOENT], |message| entry(message).filter(|entry| entry.id == id))
    }

    /// Lets the entry live for so many seconds from now, or until its next packet sets its timeout again; `false` if it was
    /// gone already.
    ///
    /// # Errors
    /// As for [`delete`](Conntrack::delete).
    pub fn set_timeout(&mut self, entry: &Entry, seconds: u32) -> io::Result<bool> {
        self.perform(about(NEW, &entry.key()).be32(cta::TIMEOUT, seconds))
    }

    /// Deletes the entry; `false` if it was gone already. A later entry with the same tuple stays.
    ///
    /// # Errors
    /// `PermissionDenied` without `CAP_NET_ADMIN`; else as for [`Socket::request`].
    pub fn delete(&mut self, entry: &Entry) -> io::Result<bool> {
        self.perform(about(DELETE, &entry.key()).be32(cta::ID, entry.id))
    }

    /// Deletes the entry of the flow from `source` to `destination`, if there is one; `false` if there is none.
    ///
    /// # Errors
    /// As for [`delete`](Conntrack::delete).
    pub fn delete_flow(&mut self, protocol: Protocol, source: SocketAddr, destination: SocketAddr) -> io::Result<bool> {
        self.perform(about(DELETE, &Key { protocol, original: Tuple { source, destination }, zone: 0 }))
    }

    fn perform(&mut self, request: Request) -> io::Result<bool> {
        Ok(unless(&[Errno::NOENT], self.socket.perform(request, NlmF::empty()))?.is_some())
    }
}

/// A request about the entry with this key.
fn about(method: u16, key: &Key) -> Request {
    let family = if key.original.source.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let request = key.original.put(Request::new(method, &header(family)), cta::TUPLE_ORIG, key.protocol);
    request.be16(cta::ZONE, key.zone)
}

/// `struct nfgenmsg`.
fn header(family: AddressFamily) -> [u8; netfilter::HEADER] {
    [family.as_raw() as u8, 0, 0, 0]
}

fn entry(message: &Message<'_>) -> Option<Entry> {
    if message.kind == NEW { Entry::parse(message.payload) } else { None }
}

/// Passes the wanted entries among messages to `each`.
fn entries(is_wanted: impl Fn(&Entry) -> bool, each: &mut dyn FnMut(&Entry)) -> impl FnMut(&Message<'_>) {
    move |message| {
        if let Some(entry) = entry(message).filter(&is_wanted) {
            each(&entry);
        }
    }
}

#[cfg(test)]
mod tests;
