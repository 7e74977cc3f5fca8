//! Addresses and ports of a flow, as conntrack's attributes (`linux/netfilter/nfnetlink_conntrack.h`).

use std::net::SocketAddr;

use crate::config::Protocol;
use crate::netlink::message::{Attributes, Request};

/// `enum ctattr_tuple`.
const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;
pub(super) const TUPLE_ZONE: u16 = 3;
/// `enum ctattr_ip`.
const IP_V4_SRC: u16 = 1;
const IP_V4_DST: u16 = 2;
const IP_V6_SRC: u16 = 3;
const IP_V6_DST: u16 = 4;
/// `enum ctattr_l4proto`.
const PROTO_NUM: u16 = 1;
const PROTO_SRC_PORT: u16 = 2;
const PROTO_DST_PORT: u16 = 3;

/// One direction of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tuple {
    /// The sender.
    pub source: SocketAddr,
    /// The recipient.
    pub destination: SocketAddr,
}

/// Identity of a flow at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    /// The transport protocol.
    pub protocol: Protocol,
    /// Direction of the client's packets, before any translation.
    pub original: Tuple,
    /// The conntrack zone of the original direction.
    pub zone: u16,
}

impl Tuple {
    /// The tuple in an attribute's value; `None` unless it is a whole one of TCP or UDP.
    pub(in crate::netlink) fn parse(value: &[u8]) -> Option<(Protocol, Tuple)> {
        let tuple = Attributes::nested(value);
        let (addresses, ports) = (tuple.find_nested(TUPLE_IP)?, tuple.find_nested(TUPLE_PROTO)?);
        let end = |v4, v6, port| {
            let address = addresses.ip(v4).or_else(|| addresses.ip(v6))?;
            Some(SocketAddr::new(address, ports.be16(port)?))
        };
        let number = *ports.find(PROTO_NUM)?.first()?;
        let protocol = [Protocol::Tcp, Protocol::Udp].into_iter().find(|protocol| protocol.number() == number)?;
        let source = end(IP_V4_SRC, IP_V6_SRC, PROTO_SRC_PORT)?;
        Some((protocol, Tuple { source, destination: end(IP_V4_DST, IP_V6_DST, PROTO_DST_PORT)? }))
    }

    /// Appends the tuple as an attribute of this type.
    pub(in crate::netlink) fn put(&self, request: Request, kind: u16, protocol: Protocol) -> Request {
        let (source, destination) = if self.source.is_ipv4() { (IP_V4_SRC, IP_V4_DST) } else { (IP_V6_SRC, IP_V6_DST) };
        request.nested(kind, |tuple| {
            tuple
                .nested(TUPLE_IP, |nest| nest.ip(source, self.source.ip()).ip(destination, self.destination.ip()))
                .nested(TUPLE_PROTO, |nest| {
                    let nest = nest.attribute(PROTO_NUM, &[protocol.number()]);
                    nest.be16(PROTO_SRC_PORT, self.source.port()).be16(PROTO_DST_PORT, self.destination.port())
                })
        })
    }
}

/// Appends a tuple of the protocol, and of the destination's port if there is one, for a filter.
pub(super) fn put_filter(request: Request, kind: u16, protocol: Protocol, port: Option<u16>) -> Request {
    request.nested(kind, |tuple| {
        tuple.nested(TUPLE_PROTO, |nest| {
            let nest = nest.attribute(PROTO_NUM, &[protocol.number()]);
            port.into_iter().fold(nest, |nest, port| nest.be16(PROTO_DST_PORT, port))
        })
    })
}
