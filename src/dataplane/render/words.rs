//! The few words of nft's JSON (libnftables-json(5)) that the rules are made of.

use std::net::IpAddr;

use nftables::expr::{
    BinaryOperation, CT, CTDir, Expression, Fib, FibFlag, FibResult, Map, Meta, MetaKey, NamedExpression, Payload,
    PayloadField, Prefix, Range, SetItem,
};
use nftables::stmt::{
    self, JumpTarget, Log, Match, NAT, NATFamily, Operator, Reject, RejectType, Statement, VerdictMap,
};
use nftables::types::RejectCode;

use crate::config::Ports;

type E = Expression<'static>;
type S = Statement<'static>;

pub(super) fn text(text: impl Into<std::borrow::Cow<'static, str>>) -> E {
    Expression::String(text.into())
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

pub(super) fn ct(key: &'static str) -> E {
    Expression::Named(NamedExpression::CT(CT { key: key.into(), family: None, dir: None }))
}

/// `ct original proto-dst`, and the like: what the flow's first packet had, before any translation.
pub(super) fn ct_original(key: &'static str) -> E {
    Expression::Named(NamedExpression::CT(CT { key: key.into(), family: None, dir: Some(CTDir::Original) }))
}

pub(super) fn masquerade() -> S {
    Statement::Masquerade(None)
}

pub(super) fn and(left: E, right: E) -> E {
    Expression::BinaryOperation(Box::new(BinaryOperation::AND(left, right)))
}

pub(super) fn prefix(address: IpAddr, len: u32) -> E {
    Expression::Named(NamedExpression::Prefix(Prefix { addr: Box::new(text(address.to_string())), len }))
}

/// `fib daddr type`, or the same of the source.
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

fn one_or_concat(mut key: Vec<E>) -> E {
    match (key.pop(), key.is_empty()) {
        (Some(only), true) => only,
        (last, _) => concat(key.into_iter().chain(last).collect()),
    }
}

pub(super) fn is_one_of(left: E, values: impl IntoIterator<Item = E>) -> S {
    is(left, Expression::Named(NamedExpression::Set(values.into_iter().map(SetItem::Element).collect())))
}

pub(super) fn is_not_one_of(left: E, values: &[String]) -> S {
    let values = values.iter().map(|value| SetItem::Element(text(value.clone()))).collect();
    is_not(left, Expression::Named(NamedExpression::Set(values)))
}

/// `log group N snaplen 65535`: whole packets.
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

pub(super) fn refuse() -> S {
    Statement::Reject(Some(Reject::new(Some(RejectType::ICMPX), Some(RejectCode::PortUnreach))))
}

pub(super) fn accept() -> S {
    Statement::Accept(Some(stmt::Accept {}))
}

pub(super) fn look_up(key: Vec<E>, map: &str) -> S {
    Statement::VerdictMap(VerdictMap { key: concat(key), data: text(format!("@{map}")) })
}

/// `dnat ip to …`; without a port, the packet's own stays.
pub(super) fn dnat(to: IpAddr, port: Option<E>) -> S {
    Statement::DNAT(Some(NAT {
        addr: Some(text(to.to_string())),
        family: Some(if to.is_ipv4() { NATFamily::IP } else { NATFamily::IP6 }),
        port,
        flags: None,
    }))
}

/// `snat ip to …`.
pub(super) fn snat(to: E, v4: bool) -> S {
    let family = if v4 { NATFamily::IP } else { NATFamily::IP6 };
    Statement::SNAT(Some(NAT { addr: Some(to), family: Some(family), port: None, flags: None }))
}

/// `ip` or `ip6`.
pub(super) fn ip_of(v4: bool) -> &'static str {
    if v4 { "ip" } else { "ip6" }
}

/// `meta nfproto ipv4`, or the same of IPv6.
pub(super) fn is_family(v4: bool) -> S {
    is(meta(MetaKey::Nfproto), text(if v4 { "ipv4" } else { "ipv6" }))
}

/// What the named map has for a key.
pub(super) fn map_to(key: E, map: &str) -> E {
    let data = text(format!("@{map}"));
    Expression::Named(NamedExpression::Map(Box::new(Map { key, data })))
}

pub(super) fn port_or_range(ports: Ports) -> E {
    let number = |port: u16| Expression::Number(port.into());
    if !ports.is_range() {
        return number(ports.first());
    }
    Expression::Range(Box::new(Range { range: [number(ports.first()), number(ports.last())] }))
}

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
