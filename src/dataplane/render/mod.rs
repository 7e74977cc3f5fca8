//! Renders the plan as nft's input. Pure functions: the same plan always gives the same text.
//!
//! The table, its chains and its maps are static. A warm step only adds elements to the `active` maps, which are looked up
//! before the `cold` ones: additions cost the kernel a few milliseconds less than deletions, which wait for an RCU grace
//! period. A flow's first packet costs one look-up per map, however many frontends there are; its other packets cost
//! nothing, since a `nat` chain never sees them.
//!
//! ```text
//! table inet proxygw {
//!     map active_ip4 { type inet_proto . ipv4_addr . inet_service : verdict }   # listen on one address
//!     map active_any4 { type inet_proto . inet_service : verdict }              # listen on every address of this host
//!     …the same for IPv6, and all four again as cold_…
//!     map active_range_any4 { type inet_proto . inet_service : verdict; flags interval }   # …where there are ranges of ports
//!     set guarded_any4 { type inet_service }                                    # cold UDP, see `cold`
//!     chain prerouting { type nat hook prerouting priority -101; … vmap @active_ip4 … vmap @cold_ip4 … }
//!     chain output { …the same, for clients on this host }
//!     chain frontend-0 { jump timeout-60s; meta l4proto tcp dnat ip to 127.0.0.1:8080 comment "public-http" }
//!     chain forged { … fib saddr type { local, … } drop … }
//!     chain cold-drop { jump forged … drop }
//!     chain cold-hold { … log group 28775 … drop }
//!     chain timeout-60s { meta l4proto tcp ct timeout set "tcp4-60s" … }
//! }
//! ```

mod access;
mod cold;
mod guard;
mod maps;
mod masquerade;
mod timeouts;
mod transaction;
mod wildcard;
mod words;

use std::collections::{BTreeMap, BTreeSet};

use nftables::expr::{Expression, FibFlag, MetaKey};
use nftables::stmt::Statement;
use nftables::types::{NfChainType, NfHook};

use super::apply::Language;
use super::plan::{Plan, Rules, State};
use super::repair::Parts;
use crate::config::{Ports, Route, Shift};
use crate::ids::FrontendId;
use crate::netlink::nftables::{Listing, SetKind};
use cold::cold_chain;
use maps::{Map, key_of};
use timeouts::timeout_chain;
pub use timeouts::timeouts;
use transaction::{Selection, Transaction};
use words::{
    address_type, dnat, field, go_back, ip_of, is, is_family, is_not, jump, look_up, map_to, meta, port_or_range, text,
};

/// The name of our table, of family `inet`.
pub const TABLE: &str = "proxygw";

/// The chain that keeps clients outside from 127.0.0.0/8, where `route_localnet` is on.
pub const GUARD: &str = "guard";

/// Just before `dstnat` (-100), so that a frontend means the same whoever loads a rule set before or after us: the first
/// chain that translates a flow decides.
const PRIORITY: i32 = -101;

/// The longest comment that nft takes, in bytes.
const LONGEST_COMMENT: usize = 127;

/// One transaction that replaces whatever is there by the whole table in the given state. The timeouts follow in a
/// transaction of their own, see [`timeouts`].
pub fn table(plan: &Plan, state: &State) -> String {
    let mut transaction = Transaction::default();
    // Adding it first makes the deletion succeed whether it was there or not.
    transaction.add_table();
    transaction.delete_table();
    transaction.add_table();
    fill(&mut transaction, plan, state);
    transaction.into_text()
}

/// The structure of the table as [`table`] and [`timeouts`] make it.
pub fn outline(plan: &Plan) -> Listing {
    let mut transaction = Transaction::outline();
    fill(&mut transaction, plan, &State::default());
    let mut listing = transaction.into_outline();
    timeouts::outline(plan, &mut listing);
    listing
}

/// The transactions that restore parts of the table in the given state, in their order. The table stays, and the timeout
/// policies with it, so that no flow loses its timeouts.
pub fn restoration(plan: &Plan, state: &State, parts: &Parts) -> Vec<(Language, String)> {
    // The chains that set timeouts come first, so that no flow comes to them while they are empty.
    let mut transactions: Vec<_> =
        timeouts::restored(plan, parts).into_iter().map(|script| (Language::Native, script)).collect();
    let done: BTreeSet<String> = plan.timeouts().into_iter().map(timeout_chain).collect();
    let mut transaction = Transaction::only(Selection {
        new_chains: parts.new_chains.difference(&done).cloned().collect(),
        chains: parts.new_chains.union(&parts.chains).cloned().collect(),
        new_sets: parts.new_sets.clone(),
        sets: parts.new_sets.iter().chain(parts.sets.keys()).cloned().collect(),
    });
    let chains: BTreeSet<_> =
        parts.chains.union(&parts.deleted_chains).filter(|chain| !done.contains(*chain)).collect();
    chains.iter().for_each(|chain| transaction.command_on("flush", "chain", chain));
    for (verb, sets) in [("flush", &parts.sets), ("flush", &parts.deleted_sets), ("delete", &parts.deleted_sets)] {
        for (name, kind) in sets {
            transaction.command_on(verb, if *kind == SetKind::Map { "map" } else { "set" }, name);
        }
    }
    let deleted = parts.deleted_chains.iter().filter(|chain| !done.contains(*chain));
    deleted.for_each(|chain| transaction.command_on("delete", "chain", chain));
    parts.deleted_objects.iter().for_each(|(name, sort)| transaction.command_on("delete", sort, name));
    fill(&mut transaction, plan, state);
    if !transaction.is_empty() {
        transactions.push((Language::Json, transaction.into_text()));
    }
    if parts.wake {
        // The kernel takes a change of the table's flags and of its base chains in one transaction for an error, or did.
        let mut transaction = Transaction::default();
        transaction.add_table();
        transactions.push((Language::Json, transaction.into_text()));
    }
    transactions
}

/// Everything in the table but the timeouts.
fn fill(transaction: &mut Transaction, plan: &Plan, state: &State) {
    for temperature in ["active", "cold"] {
        for map in Map::of(plan) {
            transaction.add_verdict_map(&map.name(temperature), &map.key(true), map.range);
        }
    }
    for shift in plan.shifts() {
        transaction.add_port_map(&ports_name(shift), shift.pairs());
    }
    for timeouts in plan.timeouts() {
        transaction.add_chain(&timeout_chain(timeouts));
    }
    cold::shared_chains(transaction, plan);
    for (&id, rules) in &plan.frontends {
        access::gate(transaction, id, rules);
        active_chain(transaction, id, rules);
        cold::own_chains(transaction, id, rules);
    }
    // type nat hook prerouting priority -101; policy accept;
    entrance(transaction, plan, "prerouting", NfHook::Prerouting);
    // type nat hook output priority -101; policy accept;
    entrance(transaction, plan, "output", NfHook::Output);
    masquerade::chains(transaction, plan);
    wildcard::chains(transaction, plan);
    if plan.needs_route_localnet() {
        guard::chain(transaction);
    }
    change(transaction, plan, &State::default(), state);
}

/// One transaction that brings the table from one state to another; `None` if there is nothing to do.
pub fn changes(plan: &Plan, before: &State, after: &State) -> Option<String> {
    let mut transaction = Transaction::default();
    change(&mut transaction, plan, before, after);
    (!transaction.is_empty()).then(|| transaction.into_text())
}

/// A chain where a new flow's first packet is looked up.
fn entrance(transaction: &mut Transaction, plan: &Plan, chain: &str, hook: NfHook) {
    let guarded = matches!(hook, NfHook::Prerouting) && plan.needs_route_localnet();
    transaction.add_base_chain(chain, NfChainType::NAT, hook, PRIORITY);
    if guarded {
        guard::forged_sources(transaction, chain);
    }
    let protocol = || meta(MetaKey::L4proto);
    let port = || field("th", "dport");
    for temperature in ["active", "cold"] {
        for map in Map::of(plan) {
            let name = map.name(temperature);
            if map.any {
                // meta nfproto ipv4 meta l4proto . th dport vmap @active_any4
                let any = look_up(vec![protocol(), port()], &name);
                transaction.add_rule(chain, vec![is_family(map.v4), any], None);
            } else {
                // meta l4proto . ip daddr . th dport vmap @active_ip4
                let key = vec![protocol(), field(ip_of(map.v4), "daddr"), port()];
                transaction.add_rule(chain, vec![look_up(key, &name)], None);
            }
        }
    }
}

/// Where an active frontend's flows go.
fn active_chain(transaction: &mut Transaction, id: FrontendId, rules: &Rules) {
    let name = active_name(id);
    transaction.add_chain(&name);
    only_what_is_meant(transaction, &name, rules);
    only_who_may_come_in(transaction, &name, id, rules);
    // jump timeout-60s
    transaction.add_rule(&name, vec![jump(&timeout_chain(rules.timeouts))], None);
    for v4 in [true, false] {
        let Some(first) = rules.routes_of(v4).next() else { continue };
        // All lead to one endpoint, and only those to a range of it keep or shift their ports.
        let differ = rules.routes_of(v4).any(|route| new_port(rules, route) != new_port(rules, first));
        for route in rules.routes_of(v4).take(if differ { usize::MAX } else { 1 }) {
            // meta l4proto tcp dnat ip to 127.0.0.1:8080 comment "public-http"
            // The match is there for nft, which wants one before it takes a port.
            let mut expr = vec![is(meta(MetaKey::L4proto), text(rules.protocol.name()))];
            if differ {
                expr.extend(is_for(rules, route));
            }
            expr.push(dnat(route.endpoint.ip, new_port(rules, route)));
            transaction.add_rule(&name, expr, Some(shortened(&rules.name)));
        }
    }
}

/// The port that a packet goes to; `None` where that is its own.
fn new_port(rules: &Rules, route: &Route) -> Option<Expression<'static>> {
    if let Some(shift) = route.shift() {
        // udp dport map @ports-27015-27030-to-30015
        return Some(map_to(field(rules.protocol.name(), "dport"), &ports_name(shift)));
    }
    let ports = route.endpoint.ports;
    (!ports.is_range()).then(|| Expression::Number(ports.first().into()))
}

/// The map of a range to another one. Frontends with the same ranges share it.
fn ports_name(shift: Shift) -> String {
    format!("ports-{}-to-{}", shift.from, shift.to)
}

/// Tells the packets of one route from those of the frontend's others.
fn is_for(rules: &Rules, route: &Route) -> [Statement<'static>; 2] {
    let address = if route.is_wildcard() {
        // meta nfproto ipv4
        is_family(route.listen.is_ipv4())
    } else {
        // ip daddr 192.0.2.1
        is(field(ip_of(route.listen.is_ipv4()), "daddr"), text(route.listen.ip.to_string()))
    };
    // udp dport 27015-27030
    [address, is_port(rules, route.listen.ports)]
}

fn is_port(rules: &Rules, ports: Ports) -> Statement<'static> {
    is(field(rules.protocol.name(), "dport"), port_or_range(ports))
}

/// Sends back from a frontend's chain what its map's key alone cannot tell from its flows.
fn only_what_is_meant(transaction: &mut Transaction, chain: &str, rules: &Rules) {
    if rules.routes.iter().all(|route| route.is_wildcard()) {
        only_this_host(transaction, chain, Vec::new());
    } else {
        for route in rules.routes.iter().filter(|route| route.is_wildcard()) {
            only_this_host(transaction, chain, is_for(rules, route).into());
        }
    }
    for route in &rules.routes {
        let Some(ports) = route.shadows_endpoint() else { continue };
        // ip daddr 127.0.0.1 return
        let v4 = route.endpoint.is_ipv4();
        let mut expr = vec![is(field(ip_of(v4), "daddr"), text(route.endpoint.ip.to_string()))];
        if rules.routes_of(v4).any(|other| other.listen.ports != ports) {
            expr.push(is_port(rules, ports));
        }
        expr.push(go_back());
        transaction.add_rule(chain, expr, None);
    }
}

/// Sends clients away that the frontend's access rules do not admit.
fn only_who_may_come_in(transaction: &mut Transaction, chain: &str, id: FrontendId, rules: &Rules) {
    if !rules.access.is_open() {
        // jump gate-0
        transaction.add_rule(chain, vec![jump(&access::gate_name(id))], None);
    }
}

/// Leaves alone what is merely forwarded, of the packets that `which` tells from others.
fn only_this_host(transaction: &mut Transaction, chain: &str, mut which: Vec<Statement<'static>>) {
    // fib daddr type != local return
    which.extend([is_not(address_type(FibFlag::Daddr), text("local")), go_back()]);
    transaction.add_rule(chain, which, None);
}

/// What is in force of one temperature: the chain of each route of each frontend.
type Elements = BTreeMap<(FrontendId, usize), String>;

fn change(transaction: &mut Transaction, plan: &Plan, before: &State, after: &State) {
    let routes = |ids: &BTreeSet<FrontendId>, chain: &dyn Fn(FrontendId, &Route) -> Option<String>| -> Elements {
        let of = |id: FrontendId| plan.frontends[&id].routes.iter().enumerate().map(move |(at, route)| (id, at, route));
        let all = ids.iter().flat_map(|id| of(*id));
        all.filter_map(|(id, at, route)| Some(((id, at), chain(id, route)?))).collect()
    };
    let active = |state: &State| routes(&state.active, &|id, _| Some(active_name(id)));
    let cold = |state: &State| {
        let chain = |id, route: &Route| cold_chain(id, &plan.frontends[&id], route, state.refusing.contains(&id));
        routes(&state.cold, &chain)
    };
    change_maps(transaction, plan, "active", &active(before), &active(after));
    change_maps(transaction, plan, "cold", &cold(before), &cold(after));
    cold::change_guarded(transaction, plan, &before.cold, &after.cold);
    masquerade::change(transaction, plan, before, after);
    wildcard::change(transaction, plan, before, after);
}

/// Brings the maps of one temperature from one set of elements to another. A transaction is seen as a whole or not at
/// all, so that no packet meets neither path.
fn change_maps(transaction: &mut Transaction, plan: &Plan, temperature: &str, before: &Elements, after: &Elements) {
    let route_of =
        |(id, at): (FrontendId, usize)| (Some(plan.frontends[&id].protocol), &plan.frontends[&id].routes[at]);
    for map in Map::of(plan) {
        let not_in = |at: (FrontendId, usize), chain: &String, others: &Elements| {
            Map::for_route(route_of(at).1) == map && others.get(&at) != Some(chain)
        };
        let key = |at: (FrontendId, usize)| {
            let (protocol, route) = route_of(at);
            key_of(protocol, route)
        };
        let name = map.name(temperature);
        let removed = before.iter().filter(|(at, chain)| not_in(**at, chain, after));
        transaction.delete_elements(&name, removed.map(|(at, _)| key(*at)));
        let added = after.iter().filter(|(at, chain)| not_in(**at, chain, before));
        transaction.add_elements(&name, added.map(|(at, chain)| (key(*at), chain.clone())));
    }
}

fn active_name(id: FrontendId) -> String {
    format!("frontend-{id}")
}

/// A name, cut where nft would refuse it as a comment.
fn shortened(name: &str) -> &str {
    let end = (0..=name.len().min(LONGEST_COMMENT)).rev().find(|end| name.is_char_boundary(*end));
    &name[..end.unwrap_or(0)]
}

#[cfg(test)]
mod golden_tests;
#[cfg(test)]
pub(crate) mod samples;
#[cfg(test)]
mod tests;
