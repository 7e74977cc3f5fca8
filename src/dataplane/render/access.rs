//! Access rules of a frontend, applied to a flow's first packet before anything is captured or woken.

use nftables::expr::{FibFlag, MetaKey};

use super::cold::refuse_all;
use super::expr::{
    address_key, address_type, drop, field, go_back, goto, ip, is_from_here, is_member, is_not, is_not_member, meta,
    prefix, set, text,
};
use super::transaction::Transaction;
use crate::dataplane::plan::Rules;
use crate::ids::{Family, FrontendId};

/// Clients on this host, in a list of interfaces.
const LOOPBACK: &str = "lo";

/// The chain that sends denied clients away, and returns for the others.
pub(super) fn gate_name(id: FrontendId) -> String {
    format!("gate-{id}")
}

/// The gate of a frontend that has access rules.
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
    for family in Family::ALL {
        // No client of another family comes.
        if rules.routes_of(family).next().is_none() {
            continue;
        }
        // ip saddr @deny4-0 goto away-0
        // ip saddr != @allow4-0 goto away-0
        for (list, prefixes, matches) in
            [("deny", &access.deny, is_member as fn(_, &str) -> _), ("allow", &access.allow, is_not_member)]
        {
            if prefixes.is_empty() {
                continue;
            }
            let set = format!("{list}{}-{id}", family.version());
            transaction.add_set(&set, &[address_key(family)], true);
            let of_family = prefixes.iter().filter(|prefix| Family::of(prefix.address) == family);
            transaction.add_elements(&set, of_family.copied().map(prefix));
            transaction.add_rule(&gate, vec![matches(vec![field(ip(family), "saddr")], &set), goto(&away)], None);
        }
    }
    if !access.interfaces.is_empty() {
        // Only packets from this host have an outgoing interface here: those of its own clients, and held packets that are
        // sent on, whose sources are remote; the gate has let those in already.
        let mut passes = vec![is_from_here()];
        if !access.interfaces.iter().any(|name| name == LOOPBACK) {
            passes.push(is_not(address_type(FibFlag::Saddr), text("local")));
        }
        // oif != 0 fib saddr type != local return
        passes.push(go_back());
        transaction.add_rule(&gate, passes, None);
        // iifname != { "eth0", "eth1" } goto away-0
        let unlisted = is_not(meta(MetaKey::Iifname), set(access.interfaces.iter().cloned().map(text)));
        transaction.add_rule(&gate, vec![unlisted, goto(&away)], None);
    }
}
