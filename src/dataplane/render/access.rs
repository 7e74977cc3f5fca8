//! Who may come in, judged by a flow's first packet, before anything is captured or woken.

use nftables::expr::{Expression, FibFlag, MetaKey};
use serde_json::{Value, json};

use super::cold::refuse_all;
use super::transaction::Transaction;
use super::words::{
    address_type, drop, field, go_back, goto, ip_of, is_member, is_not, is_not_member, is_not_one_of, meta, text,
};
use crate::config::Prefix;
use crate::dataplane::plan::Rules;
use crate::ids::FrontendId;

/// Clients on this host, in a list of interfaces.
const LOOPBACK: &str = "lo";

/// The chain that sends away those who may not come in, and returns for the others.
pub(super) fn gate_name(id: FrontendId) -> String {
    format!("gate-{id}")
}

/// The gate of a frontend, where not everybody may come in.
pub(super) fn gate(transaction: &mut Transaction, id: FrontendId, rules: &Rules) {
    let access = &rules.access;
    if access.is_open() {
        return;
    }
    let gate = gate_name(id);
    let away = format!("away-{id}");
    transaction.add_chain(&away);
    if access.reject {
        refuse_all(transaction, &away);
    } else {
        // drop
        transaction.add_rule(&away, vec![drop()], None);
    }
    transaction.add_chain(&gate);
    for (v4, version) in [(true, 4), (false, 6)] {
        // No client of another family comes.
        if rules.routes_of(v4).next().is_none() {
            continue;
        }
        let source = || vec![field(ip_of(v4), "saddr")];
        if !access.deny.is_empty() {
            let set = format!("deny{version}-{id}");
            transaction.add_interval_set(&set, v4, elements(&access.deny, v4));
            // ip saddr @deny4-0 goto away-0
            transaction.add_rule(&gate, vec![is_member(source(), &set), goto(&away)], None);
        }
        if !access.allow.is_empty() {
            let set = format!("allow{version}-{id}");
            transaction.add_interval_set(&set, v4, elements(&access.allow, v4));
            // ip saddr != @allow4-0 goto away-0
            transaction.add_rule(&gate, vec![is_not_member(source(), &set), goto(&away)], None);
        }
    }
    if !access.interfaces.is_empty() {
        // Only packets from this host have an outgoing interface here: those of its own clients, and those that were held
        // and are sent on, whose sources are elsewhere; they have come in already.
        let from_here = is_not(meta(MetaKey::Oif), Expression::Number(0));
        let mut may_go_on = vec![from_here];
        if !access.interfaces.iter().any(|name| name == LOOPBACK) {
            may_go_on.push(is_not(address_type(FibFlag::Saddr), text("local")));
        }
        // oif != 0 fib saddr type != local return
        may_go_on.push(go_back());
        transaction.add_rule(&gate, may_go_on, None);
        // iifname != { "eth0", "eth1" } goto away-0
        let elsewhere = is_not_one_of(meta(MetaKey::Iifname), &access.interfaces);
        transaction.add_rule(&gate, vec![elsewhere, goto(&away)], None);
    }
}

/// The prefixes of one family.
fn elements(prefixes: &[Prefix], v4: bool) -> impl Iterator<Item = Value> {
    let ours = prefixes.iter().filter(move |prefix| prefix.address.is_ipv4() == v4);
    let whole = if v4 { 32 } else { 128 };
    ours.map(move |prefix| match prefix.length {
        length if length == whole => json!(prefix.address.to_string()),
        length => json!({ "prefix": { "addr": prefix.address.to_string(), "len": length } }),
    })
}
