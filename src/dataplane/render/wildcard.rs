//! Answers of UDP sockets on this host that are bound to all addresses, to clients elsewhere.
//!
//! The kernel sends them from the address that the route to the client has. If the client was sent to 127.0.0.1, conntrack does
//! not know such an answer: it would leave with a strange address and port. So the client's address becomes the endpoint's own,
//! and the route leads back to it. Only what is bound like that is in the maps, see [`State::wildcards`].
//!
//! | chain | does |
//! |---|---|
//! | `wildcard-input` | translates the source of clients from outside |
//! | `wildcard-postrouting` | the same for clients on this host, and for held packets that are sent on |

use std::collections::BTreeSet;

use nftables::expr::MetaKey;
use nftables::types::{NfChainType, NfHook};
use serde_json::{Value, json};

use super::transaction::Transaction;
use super::words::{and, concat, ct, field, ip_of, is, map_to, meta, snat, text};
use crate::config::{Address, Ports};
use crate::dataplane::plan::{Plan, Rules, State};

/// Just before `srcnat` (100), as `masquerade` has it.
const PRIORITY: i32 = 99;

/// The maps and chains, where any frontend can need them.
pub(super) fn chains(transaction: &mut Transaction, plan: &Plan) {
    let endpoints: BTreeSet<Address> = plan.frontends.values().flat_map(Rules::may_be_wildcards).collect();
    let ranges = endpoints.iter().any(|endpoint| endpoint.ports.is_range());
    let families: BTreeSet<bool> = endpoints.iter().map(|endpoint| endpoint.is_ipv4()).collect();
    for v4 in families.iter().copied() {
        transaction.add_address_map(name(v4), v4, ranges);
    }
    if endpoints.is_empty() {
        return;
    }
    // type nat hook input priority 99; policy accept;
    // type nat hook postrouting priority 99; policy accept;
    for (chain, hook) in [("wildcard-input", NfHook::Input), ("wildcard-postrouting", NfHook::Postrouting)] {
        transaction.add_base_chain(chain, NfChainType::NAT, hook, PRIORITY);
        for v4 in families.iter().copied() {
            // meta l4proto udp ct status & dnat == dnat snat ip to ip daddr . udp dport map @wildcard4
            let udp = is(meta(MetaKey::L4proto), text("udp"));
            let sent = is(and(ct("status"), text("dnat")), text("dnat"));
            let endpoint = concat(vec![field(ip_of(v4), "daddr"), field("udp", "dport")]);
            transaction.add_rule(chain, vec![udp, sent, snat(map_to(endpoint, name(v4)), v4)], None);
        }
    }
}

fn name(v4: bool) -> &'static str {
    if v4 { "wildcard4" } else { "wildcard6" }
}

/// Brings the maps from one state to another.
pub(super) fn change(transaction: &mut Transaction, plan: &Plan, before: &State, after: &State) {
    let (before, after) = (elements(plan, before), elements(plan, after));
    for v4 in [true, false] {
        let ours = |endpoint: &&Address| endpoint.is_ipv4() == v4;
        transaction.delete_elements(name(v4), before.difference(&after).filter(ours).map(key));
        let pair = |endpoint: &Address| json!([key(endpoint), endpoint.ip.to_string()]);
        transaction.add_members(name(v4), after.difference(&before).filter(ours).map(pair));
    }
}

fn key(endpoint: &Address) -> Value {
    let ports = endpoint.ports;
    let port = if ports.is_range() { json!({ "range": [ports.first(), ports.last()] }) } else { json!(ports.first()) };
    json!({ "concat": [endpoint.ip.to_string(), port] })
}

/// What is in the maps: those endpoints that can be, and no port twice.
fn elements(plan: &Plan, state: &State) -> BTreeSet<Address> {
    if state.wildcards.is_empty() {
        return BTreeSet::new();
    }
    let may_be: BTreeSet<Address> = plan.frontends.values().flat_map(Rules::may_be_wildcards).collect();
    let endpoints: BTreeSet<_> = state.wildcards.iter().map(|(_, endpoint)| *endpoint).collect();
    let mut merged: Vec<Address> = Vec::new();
    for endpoint in endpoints.intersection(&may_be) {
        match merged.last_mut() {
            Some(last) if last.ip == endpoint.ip && last.ports.common(endpoint.ports).is_some() => {
                let end = last.ports.last().max(endpoint.ports.last());
                last.ports = Ports::range(last.ports.first(), end).unwrap_or(last.ports);
            }
            _ => merged.push(*endpoint),
        }
    }
    merged.into_iter().collect()
}
