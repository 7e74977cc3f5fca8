//! The few words of nft's JSON (libnftables-json(5)) that the rules are made of.

use std::net::{IpAddr, SocketAddr};

use nftables::expr::{
    BinaryOperation, CT, Expression, Fib, FibFlag, FibResult, Meta, MetaKey, NamedExpression, Payload, PayloadField,
    Prefix, SetItem,
};
use nftables::schema::{Chain, NfListObject, Rule, Table};
use nftables::stmt::{
    self, JumpTarget, Log, Match, NAT, NATFamily, Operator, Reject, RejectType, Statement, VerdictMap,
};
use nftables::types::{NfChainPolicy, NfChainType, NfFamily, NfHook, RejectCode};
use serde_json::{Value, json};

use super::TABLE;

type E = Expression<'static>;
type S = Statement<'static>;

/// A transaction that is being put together, in the order in which nft wants it.
#[derive(Default)]
pub(super) struct Transaction(Vec<Value>);

impl Transaction {
    /// The text for `nft -j -f -`.
    pub(super) fn into_text(self) -> String {
        json!({ "nftables": self.0 }).to_string()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn add(&mut self, object: &NfListObject<'_>) {
        self.0.push(json!({ "add": object }));
    }

    pub(super) fn add_table(&mut self) {
        self.add(&table());
    }

    pub(super) fn delete_table(&mut self) {
        self.0.push(json!({ "delete": table() }));
    }

    /// A map from `key` to verdicts. The crate has no type for it: its `SetType` lacks `verdict`.
    pub(super) fn add_verdict_map(&mut self, name: &str, key: &[&str]) {
        self.0.push(json!({ "add": { "map": {
            "family": "inet", "table": TABLE, "name": name, "type": key, "map": "verdict",
        }}}));
    }

    /// Puts elements into a verdict map.
    pub(super) fn add_elements(&mut self, map: &str, elements: Vec<(Value, String)>) {
        if !elements.is_empty() {
            let elements: Vec<Value> =
                elements.into_iter().map(|(key, chain)| json!([key, { "goto": { "target": chain } }])).collect();
            self.0.push(json!({ "add": { "element": {
                "family": "inet", "table": TABLE, "name": map, "elem": elements,
            }}}));
        }
    }

    /// A set of single values.
    pub(super) fn add_set(&mut self, name: &str, key: &[&str]) {
        let key = if let [one] = key { json!(one) } else { json!(key) };
        self.0.push(json!({ "add": { "set": { "family": "inet", "table": TABLE, "name": name, "type": key }}}));
    }

    /// A set of addresses and prefixes, none of which is in another.
    pub(super) fn add_interval_set(&mut self, name: &str, v4: bool, elements: Vec<Value>) {
        let key = if v4 { "ipv4_addr" } else { "ipv6_addr" };
        let mut set = json!({
            "family": "inet", "table": TABLE, "name": name, "type": key, "flags": ["interval"],
        });
        if !elements.is_empty() {
            set["elem"] = Value::Array(elements);
        }
        self.0.push(json!({ "add": { "set": set }}));
    }

    /// Puts elements into a set.
    pub(super) fn add_members(&mut self, set: &str, elements: Vec<Value>) {
        if !elements.is_empty() {
            self.0.push(json!({ "add": { "element": {
                "family": "inet", "table": TABLE, "name": set, "elem": elements,
            }}}));
        }
    }

    /// Takes elements out of a map or a set.
    pub(super) fn delete_elements(&mut self, map: &str, keys: Vec<Value>) {
        if !keys.is_empty() {
            self.0.push(json!({ "delete": { "element": {
                "family": "inet", "table": TABLE, "name": map, "elem": keys,
            }}}));
        }
    }

    pub(super) fn add_chain(&mut self, name: &str) {
        self.add(&NfListObject::Chain(chain(name)));
    }

    pub(super) fn add_base_chain(&mut self, name: &str, kind: NfChainType, hook: NfHook, priority: i32) {
        self.add(&NfListObject::Chain(Chain {
            _type: Some(kind),
            hook: Some(hook),
            prio: Some(priority),
            policy: Some(NfChainPolicy::Accept),
            ..chain(name)
        }));
    }

    pub(super) fn add_rule(&mut self, chain: &str, expr: Vec<S>, comment: Option<&str>) {
        self.add(&NfListObject::Rule(Rule {
            family: NfFamily::INet,
            table: TABLE.into(),
            chain: chain.into(),
            expr: expr.into(),
            handle: None,
            index: None,
            comment: comment.map(Into::into),
        }));
    }
}

fn table() -> NfListObject<'static> {
    NfListObject::Table(Table { family: NfFamily::INet, name: TABLE.into(), handle: None })
}

fn chain(name: &str) -> Chain<'_> {
    Chain {
        family: NfFamily::INet,
        table: TABLE.into(),
        name: name.into(),
        newname: None,
        handle: None,
        _type: None,
        hook: None,
        prio: None,
        dev: None,
        policy: None,
    }
}

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

pub(super) fn dnat(to: SocketAddr) -> S {
    Statement::DNAT(Some(NAT {
        addr: Some(text(to.ip().to_string())),
        family: Some(if to.is_ipv4() { NATFamily::IP } else { NATFamily::IP6 }),
        port: Some(Expression::Number(to.port().into())),
        flags: None,
    }))
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
