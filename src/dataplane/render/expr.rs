//! Expressions and statements of nft's JSON (libnftables-json(5)) that the rules consist of.

use std::net::{IpAddr, Ipv4Addr};

use nftables::expr::{
    BinaryOperation, CT, CTDir, Expression, Fib, FibFlag, FibResult, Map, Meta, MetaKey, NamedExpression, Payload,
    PayloadField, Range, SetItem,
};
use nftables::stmt::{
    self, JumpTarget, Log, Match, NAT, NATFamily, Operator, Reject, RejectType, Statement, VerdictMap,
};
use nftables::types::RejectCode;

use crate::config::{Ports, Prefix, Protocol};
use crate::ids::Family;

type E = Expression<'static>;
type S = Statement<'static>;

/// 127.0.0.0/8.
pub(super) const LOOPBACK: Prefix = Prefix { address: IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), length: 8 };

pub(super) fn text(text: impl Into<std::borrow::Cow<'static, str>>) -> E {
    Expression::String(text.into())
}

pub(super) fn number(number: impl Into<u32>) -> E {
    Expression::Number(number.into())
}

pub(super) fn concat(parts: Vec<E>) -> E {
    Expression::Named(NamedExpression::Concat(parts))
}

pub(super) fn field(protocol: &'static str, field: &'static str) -> E {
    Expression::Named(NamedExpression::Payload(Payload::PayloadField(PayloadField {
        protocol: protocol.into(),
        field: field.into(),
    })))
}

pub(super) fn meta(key: MetaKey) -> E {
    Expression::Named(NamedExpression::Meta(Meta { key }))
}

/// `ct status & dnat`, compared with `dnat`.
fn translated(op: Operator) -> S {
    let status = Expression::Named(NamedExpression::CT(CT { key: "status".into(), family: None, dir: None }));
    let left = Expression::BinaryOperation(Box::new(BinaryOperation::AND(status, text("dnat"))));
    Statement::Match(Match { left, right: text("dnat"), op })
}

/// `ct status & dnat == dnat`.
pub(super) fn is_translated() -> S {
    translated(Operator::EQ)
}

/// `ct status & dnat != dnat`.
pub(super) fn is_not_translated() -> S {
    translated(Operator::NEQ)
}

/// `meta l4proto tcp` or `meta l4proto udp`.
pub(super) fn is_protocol(protocol: Protocol) -> S {
    is(meta(MetaKey::L4proto), text(protocol.name()))
}

/// `oif != 0`: true in the output hook only, for packets of this host.
pub(super) fn is_from_here() -> S {
    is_not(meta(MetaKey::Oif), number(0u32))
}

/// `tcp flags & (fin | syn | rst | ack) != syn`: any TCP segment but the first of a connection.
pub(super) fn is_not_first_segment() -> S {
    let bits = Expression::List(["fin", "syn", "rst", "ack"].map(text).into());
    is_not(Expression::BinaryOperation(Box::new(BinaryOperation::AND(field("tcp", "flags"), bits))), text("syn"))
}

/// `ct original proto-dst` and the like: a field of the flow's first packet, before any translation.
pub(super) fn ct_original(key: &'static str) -> E {
    Expression::Named(NamedExpression::CT(CT { key: key.into(), family: None, dir: Some(CTDir::Original) }))
}

pub(super) fn masquerade() -> S {
    Statement::Masquerade(None)
}

/// A prefix, or the only address in it.
pub(super) fn prefix(prefix: Prefix) -> E {
    let addr = text(prefix.address.to_string());
    if prefix.length == if prefix.address.is_ipv4() { 32 } else { 128 } {
        return addr;
    }
    let len = prefix.length.into();
    Expression::Named(NamedExpression::Prefix(nftables::expr::Prefix { addr: Box::new(addr), len }))
}

/// `fib daddr type` or `fib saddr type`.
pub(super) fn address_type(of: FibFlag) -> E {
    let flags = std::collections::HashSet::from([of]);
    Expression::Named(NamedExpression::Fib(Fib { result: FibResult::Type, flags }))
}

pub(super) fn is(left: E, right: E) -> S {
    Statement::Match(Match { left, right, op: Operator::EQ })
}

pub(super) fn is_not(left: E, right: E) -> S {
    Statement::Match(Match { left, right, op: Operator::NEQ })
}

pub(super) fn is_member(key: Vec<E>, set: &str) -> S {
    is(one_or_concat(key), text(format!("@{set}")))
}

pub(super) fn is_not_member(key: Vec<E>, set: &str) -> S {
    is_not(one_or_concat(key), text(format!("@{set}")))
}

pub(super) fn one_or_concat(mut key: Vec<E>) -> E {
    match (key.pop(), key.is_empty()) {
        (Some(only), true) => only,
        (last, _) => concat(key.into_iter().chain(last).collect()),
    }
}

/// `{ VALUE, … }`.
pub(super) fn set(values: impl IntoIterator<Item = E>) -> E {
    Expression::Named(NamedExpression::Set(values.into_iter().map(SetItem::Element).collect()))
}

/// `log group N snaplen 65535`: the whole packet.
pub(super) fn log_to_group(group: u16) -> S {
    Statement::Log(Some(Log {
        prefix: None,
        group: Some(group.into()),
        snaplen: Some(0xffff),
        queue_threshold: None,
        level: None,
        flags: None,
    }))
}

/// `reject with icmpx port-unreachable`.
pub(super) fn unreachable() -> S {
    Statement::Reject(Some(Reject::new(Some(RejectType::ICMPX), Some(RejectCode::PortUnreach))))
}

pub(super) fn accept() -> S {
    Statement::Accept(Some(stmt::Accept {}))
}

/// `KEY vmap @MAP`.
pub(super) fn verdict_of(key: Vec<E>, map: &str) -> S {
    Statement::VerdictMap(VerdictMap { key: concat(key), data: text(format!("@{map}")) })
}

/// `dnat ip to …`; without a port, the packet keeps its own.
pub(super) fn dnat(to: IpAddr, port: Option<E>) -> S {
    Statement::DNAT(Some(nat(Family::of(to), text(to.to_string()), port)))
}

/// `snat ip to …`.
pub(super) fn snat(family: Family, to: E) -> S {
    Statement::SNAT(Some(nat(family, to, None)))
}

fn nat(family: Family, to: E, port: Option<E>) -> NAT<'static> {
    let family = if family == Family::V4 { NATFamily::IP } else { NATFamily::IP6 };
    NAT { addr: Some(to), family: Some(family), port, flags: None }
}

/// The protocol of a family's header.
pub(super) fn ip(family: Family) -> &'static str {
    if family == Family::V4 { "ip" } else { "ip6" }
}

/// The type of a family's addresses.
pub(super) fn address_key(family: Family) -> &'static str {
    if family == Family::V4 { "ipv4_addr" } else { "ipv6_addr" }
}

/// `meta nfproto ipv4` or `meta nfproto ipv6`.
pub(super) fn is_family(family: Family) -> S {
    is(meta(MetaKey::Nfproto), text(format!("ipv{}", family.version())))
}

/// `KEY map @MAP`.
pub(super) fn value_of(key: E, map: &str) -> E {
    let data = text(format!("@{map}"));
    Expression::Named(NamedExpression::Map(Box::new(Map { key, data })))
}

pub(super) fn ports(ports: Ports) -> E {
    if !ports.is_range() {
        return number(ports.first());
    }
    Expression::Range(Box::new(Range { range: [number(ports.first()), number(ports.last())] }))
}

/// `reject with tcp reset`.
pub(super) fn reset() -> S {
    Statement::Reject(Some(Reject::new(Some(RejectType::TCPReset), None)))
}

pub(super) fn jump(chain: &str) -> S {
    Statement::Jump(JumpTarget { target: chain.to_owned().into() })
}

pub(super) fn goto(chain: &str) -> S {
    Statement::Goto(JumpTarget { target: chain.to_owned().into() })
}

pub(super) fn drop() -> S {
    Statement::Drop(Some(stmt::Drop {}))
}

pub(super) fn go_back() -> S {
    Statement::Return(Some(stmt::Return {}))
}
