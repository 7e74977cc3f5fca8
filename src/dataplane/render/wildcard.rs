//! Answers of UDP sockets on this host that are bound to all addresses, to clients on other hosts.
//!
//! The kernel sends them from the address that the route to the client has. If the client was sent to 127.0.0.1, conntrack does
//! not know such an answer: it would leave with a wrong source. So the client's address becomes the endpoint's own, and the
//! route leads back to it. Only endpoints with such a socket are in the maps, see [`State::wildcards`].
//!
//! | chain | translates the source of |
//! |---|---|
//! | `wildcard-input` | clients on other hosts |
//! | `wildcard-postrouting` | clients on this host, and held packets that are sent on |

use std::collections::BTreeSet;

use nftables::expr::Expression;
use nftables::types::{NfChainType, NfHook};

use super::expr::{address_key, concat, field, ip, is_protocol, is_translated, ports, snat, text, value_of};
use super::masquerade::PRIORITY;
use super::transaction::Transaction;
use crate::config::{Address, Ports, Protocol};
use crate::dataplane::plan::{Plan, Rules, State};
use crate::ids::Family;

/// The maps and chains, where a frontend can need them.
pub(super) fn chains(transaction: &mut Transaction, plan: &Plan) {
    let endpoints = candidates(plan);
    let ranges = endpoints.iter().any(|endpoint| endpoint.ports.is_range());
    let families: BTreeSet<Family> = endpoints.iter().map(|endpoint| Family::of(endpoint.ip)).collect();
    for family in &families {
        let address = address_key(*family);
        transaction.add_map(map(*family), &[address, "inet_service"], address, ranges);
    }
    if endpoints.is_empty() {
        return;
    }
    // type nat hook input priority 99; policy accept;
    // type nat hook postrouting priority 99; policy accept;
    for (chain, hook) in [("wildcard-input", NfHook::Input), ("wildcard-postrouting", NfHook::Postrouting)] {
        transaction.add_base_chain(chain, NfChainType::NAT, hook, PRIORITY);
        for family in families.iter().copied() {
            // meta l4proto udp ct status & dnat == dnat snat ip to ip daddr . udp dport map @wildcard4
            let endpoint = concat(vec![field(ip(family), "daddr"), field("udp", "dport")]);
            let translation = snat(family, value_of(endpoint, map(family)));
            transaction.add_rule(chain, vec![is_protocol(Protocol::Udp), is_translated(), translation], None);
        }
    }
}

fn map(family: Family) -> &'static str {
    if family == Family::V4 { "wildcard4" } else { "wildcard6" }
}

/// Brings the maps from one state to another.
pub(super) fn change(transaction: &mut Transaction, plan: &Plan, before: &State, after: &State) {
    let (before, after) = (elements(plan, before), elements(plan, after));
    for family in Family::ALL {
        let of_family = |endpoint: &&Address| Family::of(endpoint.ip) == family;
        transaction.delete_elements(map(family), before.difference(&after).filter(of_family).map(key));
        let pair = |endpoint: &Address| [key(endpoint), text(endpoint.ip.to_string())];
        transaction.add_elements(map(family), after.difference(&before).filter(of_family).map(pair));
    }
}

fn key(endpoint: &Address) -> Expression<'static> {
    concat(vec![text(endpoint.ip.to_string()), ports(endpoint.ports)])
}

/// The endpoints that can need an element.
fn candidates(plan: &Plan) -> BTreeSet<Address> {
    plan.frontends.values().flat_map(Rules::may_be_wildcards).collect()
}

/// The elements of a state. Those with common ports are merged, because a map of intervals takes no overlaps.
fn elements(plan: &Plan, state: &State) -> BTreeSet<Address> {
    if state.wildcards.is_empty() {
        return BTreeSet::new();
    }
    let endpoints: BTreeSet<_> = state.wildcards.iter().map(|(_, endpoint)| *endpoint).collect();
    let mut merged: Vec<Address> = Vec::new();
    for endpoint in endpoints.intersection(&candidates(plan)) {
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
