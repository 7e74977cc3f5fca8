//! Renders the plan as nft's input. Pure functions of the plan and its states.
//!
//! The table, its chains and its maps are static. A warm-up only adds elements to the `active` maps, which are looked up
//! before the `cold` ones: additions cost the kernel a few milliseconds less than deletions, which wait for an RCU grace
//! period. A flow's first packet costs one lookup per map, however many frontends there are; its other packets cost
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
mod expr;
mod guard;
mod maps;
mod masquerade;
mod timeouts;
mod transaction;
mod wildcard;

use std::collections::{BTreeMap, BTreeSet};

use nftables::expr::{Expression, FibFlag, MetaKey};
use nftables::stmt::Statement;
use nftables::types::{NfChainType, NfHook};

use super::apply::Language;
use super::plan::{Plan, Rules, State};
use super::repair::Parts;
use crate::config::{Ports, Route, Shift};
use crate::ids::{Family, FrontendId};
use crate::netlink::nftables::{Listing, SetKind};
use cold::{Manner, cold_chain};
use expr::{
    address_type, dnat, field, go_back, goto, ip, is, is_family, is_not, is_protocol, jump, meta, number, ports, text,
    value_of, verdict_of,
};
use maps::{Map, key_of};
use timeouts::timeout_chain;
pub use timeouts::timeouts;
use transaction::Transaction;

/// The name of our table, of family `inet`.
pub const TABLE: &str = "proxygw";

/// The chain that keeps packets from outside away from 127.0.0.0/8, where `route_localnet` is on.
pub const GUARD: &str = "guard";

/// Just before `dstnat` (-100). The first chain that translates a flow decides, so a frontend works the same whether other
/// rule sets are loaded before or after ours.
const PRIORITY: i32 = -101;

/// Maximum length of a comment in nft, in bytes.
const MAX_COMMENT: usize = 127;

/// One transaction that replaces the table, if there is one, by the whole table in the given state. The timeouts follow in
/// a transaction of their own, see [`timeouts`].
pub fn table(plan: &Plan, state: &State) -> String {
    let mut transaction = Transaction::default();
    // Adding it first makes the deletion succeed whether it was there or not.
    ["add", "delete", "add"].into_iter().for_each(|verb| transaction.command_on_table(verb));
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
    // The chains that set timeouts come first, so that no flow meets them while they are empty.
    let mut transactions: Vec<_> =
        timeouts::restored(plan, parts).into_iter().map(|script| (Language::Native, script)).collect();
    let done: BTreeSet<String> = plan.timeouts().into_iter().map(timeout_chain).collect();
    let mut parts = parts.clone();
    for chains in [&mut parts.chains, &mut parts.new_chains, &mut parts.deleted_chains] {
        chains.retain(|chain| !done.contains(chain));
    }
    let mut transaction = Transaction::only(parts.clone());
    let flushed = parts.chains.union(&parts.deleted_chains);
    flushed.for_each(|chain| transaction.command_on("flush", "chain", chain));
    for (verb, sets) in [("flush", &parts.sets), ("flush", &parts.deleted_sets), ("delete", &parts.deleted_sets)] {
        for (name, kind) in sets {
            transaction.command_on(verb, if *kind == SetKind::Map { "map" } else { "set" }, name);
        }
    }
    parts.deleted_chains.iter().for_each(|chain| transaction.command_on("delete", "chain", chain));
    parts.deleted_objects.iter().for_each(|(name, kind)| transaction.command_on("delete", kind, name));
    fill(&mut transaction, plan, state);
    if !transaction.is_empty() {
        transactions.push((Language::Json, transaction.into_text()));
    }
    if parts.wake {
        // In a transaction of its own: kernels refuse, or have refused, a change of the table's flags together with one of
        // its base chains.
        let mut transaction = Transaction::default();
        transaction.command_on_table("add");
        transactions.push((Language::Json, transaction.into_text()));
    }
    transactions
}

/// Adds everything in the table but the timeouts.
fn fill(transaction: &mut Transaction, plan: &Plan, state: &State) {
    for set in MAP_SETS {
        for map in Map::of(plan) {
            transaction.add_map(&map.name(set), &map.key(true), "verdict", map.range);
        }
    }
    for shift in plan.shifts() {
        let name = ports_name(shift);
        transaction.add_map(&name, &["inet_service"], "inet_service", false);
        transaction.add_elements(&name, shift.pairs());
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

/// A chain that looks up a new flow's first packet.
fn entrance(transaction: &mut Transaction, plan: &Plan, chain: &str, hook: NfHook) {
    let guarded = matches!(hook, NfHook::Prerouting) && plan.needs_route_localnet();
    transaction.add_base_chain(chain, NfChainType::NAT, hook, PRIORITY);
    if guarded {
        guard::forged_sources(transaction, chain);
    }
    let protocol = || meta(MetaKey::L4proto);
    let port = || field("th", "dport");
    for set in MAP_SETS {
        for map in Map::of(plan) {
            let name = map.name(set);
            if map.any {
                // meta nfproto ipv4 meta l4proto . th dport vmap @active_any4
                let any = verdict_of(vec![protocol(), port()], &name);
                transaction.add_rule(chain, vec![is_family(map.family), any], None);
            } else {
                // meta l4proto . ip daddr . th dport vmap @active_ip4
                let key = vec![protocol(), field(ip(map.family), "daddr"), port()];
                transaction.add_rule(chain, vec![verdict_of(key, &name)], None);
            }
        }
    }
}

/// The chain of an active frontend's flows.
fn active_chain(transaction: &mut Transaction, id: FrontendId, rules: &Rules) {
    let name = active_name(id);
    transaction.add_chain(&name);
    only_own_packets(transaction, &name, rules);
    only_admitted(transaction, &name, id, rules);
    // jump timeout-60s
    transaction.add_rule(&name, vec![jump(&timeout_chain(rules.timeouts))], None);
    for family in Family::ALL {
        let Some(first) = rules.routes_of(family).next() else { continue };
        // All lead to one endpoint, and only those to a range of it keep or shift their ports.
        let differ = rules.routes_of(family).any(|route| new_port(rules, route) != new_port(rules, first));
        for route in rules.routes_of(family).take(if differ { usize::MAX } else { 1 }) {
            // meta l4proto tcp dnat ip to 127.0.0.1:8080 comment "public-http"
            // nft requires a match of the protocol before a port.
            let mut expr = vec![is_protocol(rules.protocol)];
            if differ {
                expr.extend(is_of_route(rules, route));
            }
            expr.push(dnat(route.endpoint.ip, new_port(rules, route)));
            transaction.add_rule(&name, expr, Some(shortened(&rules.name)));
        }
    }
}

/// The new port of a packet; `None` if it keeps its own.
fn new_port(rules: &Rules, route: &Route) -> Option<Expression<'static>> {
    if let Some(shift) = route.shift() {
        // udp dport map @ports-27015-27030-to-30015
        return Some(value_of(field(rules.protocol.name(), "dport"), &ports_name(shift)));
    }
    let ports = route.endpoint.ports;
    (!ports.is_range()).then(|| number(ports.first()))
}

/// Name of the map from one range to another. Frontends with the same ranges share it.
fn ports_name(shift: Shift) -> String {
    format!("ports-{}-to-{}", shift.from, shift.to)
}

/// Matches the packets of one route, among those of the frontend.
fn is_of_route(rules: &Rules, route: &Route) -> [Statement<'static>; 2] {
    let family = Family::of(route.listen.ip);
    let address = if route.is_wildcard() {
        // meta nfproto ipv4
        is_family(family)
    } else {
        // ip daddr 192.0.2.1
        is(field(ip(family), "daddr"), text(route.listen.ip.to_string()))
    };
    // udp dport 27015-27030
    [address, is_port(rules, route.listen.ports)]
}

fn is_port(rules: &Rules, of: Ports) -> Statement<'static> {
    is(field(rules.protocol.name(), "dport"), ports(of))
}

/// Returns from a frontend's chain with packets that are not the frontend's, although its element matches them.
fn only_own_packets(transaction: &mut Transaction, chain: &str, rules: &Rules) {
    if rules.routes.iter().all(|route| route.is_wildcard()) {
        only_this_host(transaction, chain, Vec::new());
    } else {
        for route in rules.routes.iter().filter(|route| route.is_wildcard()) {
            only_this_host(transaction, chain, is_of_route(rules, route).into());
        }
    }
    for route in &rules.routes {
        let Some(ports) = route.shadows_endpoint() else { continue };
        // ip daddr 127.0.0.1 return
        let family = Family::of(route.endpoint.ip);
        let mut expr = vec![is(field(ip(family), "daddr"), text(route.endpoint.ip.to_string()))];
        if rules.routes_of(family).any(|other| other.listen.ports != ports) {
            expr.push(is_port(rules, ports));
        }
        expr.push(go_back());
        transaction.add_rule(chain, expr, None);
    }
}

/// Sends clients away that the frontend's access rules do not admit.
fn only_admitted(transaction: &mut Transaction, chain: &str, id: FrontendId, rules: &Rules) {
    if !rules.access.is_open() {
        // jump gate-0
        transaction.add_rule(chain, vec![jump(&access::gate_name(id))], None);
    }
}

/// Returns with those packets that `which` matches and that are merely forwarded.
fn only_this_host(transaction: &mut Transaction, chain: &str, mut which: Vec<Statement<'static>>) {
    // fib daddr type != local return
    which.extend([is_not(address_type(FibFlag::Daddr), text("local")), go_back()]);
    transaction.add_rule(chain, which, None);
}

/// Both sets of maps, in the order of their lookups.
const MAP_SETS: [&str; 2] = ["active", "cold"];

/// The elements of one set of maps: the chain of each route, by its frontend and position.
type Elements = BTreeMap<(FrontendId, usize), String>;

fn change(transaction: &mut Transaction, plan: &Plan, before: &State, after: &State) {
    let routes = |ids: &BTreeSet<FrontendId>, chain: &dyn Fn(FrontendId, &Route) -> Option<String>| -> Elements {
        let of = |id: FrontendId| plan.frontends[&id].routes.iter().enumerate().map(move |(at, route)| (id, at, route));
        let all = ids.iter().flat_map(|id| of(*id));
        all.filter_map(|(id, at, route)| Some(((id, at), chain(id, route)?))).collect()
    };
    let active = |state: &State| routes(&state.active, &|id, _| Some(active_name(id)));
    let cold = |state: &State| {
        let manner = |id| if state.refusing.contains(&id) { Manner::Refusing } else { Manner::Usual };
        routes(&state.cold, &|id, route| cold_chain(id, &plan.frontends[&id], route, manner(id)))
    };
    change_maps(transaction, plan, "active", &active(before), &active(after));
    change_maps(transaction, plan, "cold", &cold(before), &cold(after));
    cold::change_guarded(transaction, plan, &before.cold, &after.cold);
    masquerade::change(transaction, plan, before, after);
    wildcard::change(transaction, plan, before, after);
}

/// Brings one set of maps from some elements to others. A packet sees all of a transaction or nothing, so that none meets
/// neither path.
fn change_maps(transaction: &mut Transaction, plan: &Plan, set: &str, before: &Elements, after: &Elements) {
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
        let name = map.name(set);
        let removed = before.iter().filter(|(at, chain)| not_in(**at, chain, after));
        transaction.delete_elements(&name, removed.map(|(at, _)| key(*at)));
        let added = after.iter().filter(|(at, chain)| not_in(**at, chain, before));
        transaction.add_elements(&name, added.map(|(at, chain)| (key(*at), goto(chain))));
    }
}

fn active_name(id: FrontendId) -> String {
    format!("frontend-{id}")
}

/// A name, cut where it would be too long for a comment of nft.
fn shortened(name: &str) -> &str {
    let end = (0..=name.len().min(MAX_COMMENT)).rev().find(|end| name.is_char_boundary(*end));
    &name[..end.unwrap_or(0)]
}

#[cfg(test)]
mod golden_tests;
#[cfg(test)]
pub(crate) mod samples;
#[cfg(test)]
mod tests;
