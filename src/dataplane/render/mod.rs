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
//!     set guarded_any4 { type inet_service }                                    # cold UDP, see `cold`
//!     chain prerouting { type nat hook prerouting priority -101; … vmap @active_ip4 … vmap @cold_ip4 … }
//!     chain output { …the same, for clients on this host }
//!     chain frontend-0 { jump timeout-60s; meta l4proto tcp dnat ip to 127.0.0.1:8080 comment "public-http" }
//!     chain cold-drop { … drop }
//!     chain cold-hold { … log group 28775 … drop }
//!     chain timeout-60s { meta l4proto tcp ct timeout set "tcp4-60s" … }
//! }
//! ```

mod access;
mod cold;
mod timeouts;
mod transaction;
mod words;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use nftables::expr::{FibFlag, MetaKey};
use nftables::types::{NfChainType, NfHook};
use serde_json::{Value, json};

use super::plan::{Plan, Rules, State};
use cold::cold_chain;
use timeouts::timeout_chain;
pub use timeouts::timeouts;
use transaction::Transaction;
use words::{address_type, and, ct, dnat, drop, field, go_back, is, is_not, jump, look_up, meta, prefix, text};

/// The name of our table, of family `inet`.
pub const TABLE: &str = "proxygw";

/// Just before `dstnat` (-100), so that a frontend means the same whoever loads a rule set before or after us: the first
/// chain that translates a flow decides.
const PRIORITY: i32 = -101;

/// The longest comment that nft takes, in bytes.
const LONGEST_COMMENT: usize = 127;

/// The keys of the maps, by whether they name an address and by IP version.
const MAPS: [(&str, &[&str]); 4] = [
    ("ip4", &["inet_proto", "ipv4_addr", "inet_service"]),
    ("any4", &["inet_proto", "inet_service"]),
    ("ip6", &["inet_proto", "ipv6_addr", "inet_service"]),
    ("any6", &["inet_proto", "inet_service"]),
];

/// One transaction that replaces whatever is there by the whole table in the given state. The timeouts follow in a
/// transaction of their own, see [`timeouts`].
pub fn table(plan: &Plan, state: &State) -> String {
    let mut transaction = Transaction::default();
    // Adding it first makes the deletion succeed whether it was there or not.
    transaction.add_table();
    transaction.delete_table();
    transaction.add_table();
    for temperature in ["active", "cold"] {
        for (map, key) in MAPS {
            transaction.add_verdict_map(&format!("{temperature}_{map}"), key);
        }
    }
    for timeouts in plan.timeouts() {
        transaction.add_chain(&timeout_chain(timeouts));
    }
    cold::shared_chains(&mut transaction, plan);
    for (id, rules) in plan.frontends.iter().enumerate() {
        access::gate(&mut transaction, id, rules);
        active_chain(&mut transaction, id, rules);
        cold::own_chains(&mut transaction, id, rules);
    }
    // type nat hook prerouting priority -101; policy accept;
    entrance(&mut transaction, "prerouting", NfHook::Prerouting);
    // type nat hook output priority -101; policy accept;
    entrance(&mut transaction, "output", NfHook::Output);
    if plan.needs_route_localnet() {
        guard(&mut transaction);
    }
    change(&mut transaction, plan, &State::default(), state);
    transaction.into_text()
}

/// One transaction that brings the table from one state to another; `None` if there is nothing to do.
pub fn changes(plan: &Plan, before: &State, after: &State) -> Option<String> {
    let mut transaction = Transaction::default();
    change(&mut transaction, plan, before, after);
    (!transaction.is_empty()).then(|| transaction.into_text())
}

/// One transaction after which nothing of us is left.
pub fn removal() -> String {
    let mut transaction = Transaction::default();
    transaction.add_table();
    transaction.delete_table();
    transaction.into_text()
}

/// A chain where a new flow's first packet is looked up.
fn entrance(transaction: &mut Transaction, chain: &str, hook: NfHook) {
    transaction.add_base_chain(chain, NfChainType::NAT, hook, PRIORITY);
    let protocol = || meta(MetaKey::L4proto);
    let port = || field("th", "dport");
    for temperature in ["active", "cold"] {
        for (ip, version) in [("ip", 4), ("ip6", 6)] {
            // meta l4proto . ip daddr . th dport vmap @active_ip4
            let key = vec![protocol(), field(ip, "daddr"), port()];
            transaction.add_rule(chain, vec![look_up(key, &format!("{temperature}_ip{version}"))], None);
            // meta nfproto ipv4 meta l4proto . th dport vmap @active_any4
            let family = is(meta(MetaKey::Nfproto), text(format!("ipv{version}")));
            let any = look_up(vec![protocol(), port()], &format!("{temperature}_any{version}"));
            transaction.add_rule(chain, vec![family, any], None);
        }
    }
}

/// Where an active frontend's flows go.
fn active_chain(transaction: &mut Transaction, id: usize, rules: &Rules) {
    let name = active_name(id);
    transaction.add_chain(&name);
    only_what_is_meant(transaction, &name, id, rules);
    // jump timeout-60s
    transaction.add_rule(&name, vec![jump(&timeout_chain(rules.timeouts))], None);
    // meta l4proto tcp dnat ip to 127.0.0.1:8080 comment "public-http"
    // The match is there for nft, which wants one before it takes a port.
    let protocol = is(meta(MetaKey::L4proto), text(rules.protocol.name()));
    transaction.add_rule(&name, vec![protocol, dnat(rules.endpoint)], Some(shortened(&rules.name)));
}

/// Sends back from a frontend's chain what its map's key alone cannot tell from its flows, and those who may not come in.
fn only_what_is_meant(transaction: &mut Transaction, chain: &str, id: usize, rules: &Rules) {
    if rules.is_wildcard() {
        only_this_host(transaction, chain);
    }
    if rules.shadows_endpoint() {
        // ip daddr 127.0.0.1 return
        let ip = if rules.endpoint.is_ipv4() { "ip" } else { "ip6" };
        let endpoint = is(field(ip, "daddr"), text(rules.endpoint.ip().to_string()));
        transaction.add_rule(chain, vec![endpoint, go_back()], None);
    }
    if !rules.access.is_open() {
        // jump gate-0
        transaction.add_rule(chain, vec![jump(&access::gate_name(id))], None);
    }
}

/// Leaves alone what is merely forwarded.
fn only_this_host(transaction: &mut Transaction, chain: &str) {
    // fib daddr type != local return
    transaction.add_rule(chain, vec![is_not(address_type(FibFlag::Daddr), text("local")), go_back()], None);
}

/// With `route_localnet`, keeps everybody outside from 127.0.0.0/8 who was not sent there by a DNAT.
fn guard(transaction: &mut Transaction) {
    const CHAIN: &str = "guard";
    // type filter hook input priority -101; policy accept;
    transaction.add_base_chain(CHAIN, NfChainType::Filter, NfHook::Input, PRIORITY);
    // iifname != "lo" ip daddr 127.0.0.0/8 ct status & dnat != dnat drop
    let outside = is_not(meta(MetaKey::Iifname), text("lo"));
    let loopback = is(field("ip", "daddr"), prefix(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), 8));
    let not_sent = is_not(and(ct("status"), text("dnat")), text("dnat"));
    transaction.add_rule(CHAIN, vec![outside, loopback, not_sent, drop()], None);
}

/// What is in force of one temperature: each frontend's chain.
type Elements = BTreeMap<usize, String>;

fn change(transaction: &mut Transaction, plan: &Plan, before: &State, after: &State) {
    let active = |state: &State| -> Elements { state.active.iter().map(|id| (*id, active_name(*id))).collect() };
    let cold = |state: &State| -> Elements {
        let chain = |id: &usize| Some((*id, cold_chain(*id, &plan.frontends[*id], state.refusing.contains(id))?));
        state.cold.iter().filter_map(chain).collect()
    };
    change_maps(transaction, plan, "active", &active(before), &active(after));
    change_maps(transaction, plan, "cold", &cold(before), &cold(after));
    cold::change_guarded(transaction, plan, &before.cold, &after.cold);
}

/// Brings the four maps of one temperature from one set of elements to another. A transaction is seen as a whole or not at
/// all, so that no packet meets neither path.
fn change_maps(transaction: &mut Transaction, plan: &Plan, temperature: &str, before: &Elements, after: &Elements) {
    for (map, _) in MAPS {
        let not_in = |id: &usize, chain: &String, others: &Elements| {
            map_of(&plan.frontends[*id]) == map && others.get(id) != Some(chain)
        };
        let name = format!("{temperature}_{map}");
        let removed = before.iter().filter(|(id, chain)| not_in(id, chain, after));
        transaction.delete_elements(&name, removed.map(|(id, _)| key_of(&plan.frontends[*id])));
        let added = after.iter().filter(|(id, chain)| not_in(id, chain, before));
        let added = added.map(|(id, chain)| (key_of(&plan.frontends[*id]), chain.clone()));
        transaction.add_elements(&name, added);
    }
}

fn map_of(rules: &Rules) -> &'static str {
    match (rules.is_wildcard(), rules.listen.is_ipv4()) {
        (false, true) => "ip4",
        (true, true) => "any4",
        (false, false) => "ip6",
        (true, false) => "any6",
    }
}

fn key_of(rules: &Rules) -> Value {
    let (protocol, address, port) = (rules.protocol.name(), rules.listen.ip().to_string(), rules.listen.port());
    if rules.is_wildcard() {
        json!({ "concat": [protocol, port] })
    } else {
        json!({ "concat": [protocol, address, port] })
    }
}

fn active_name(id: usize) -> String {
    format!("frontend-{id}")
}

/// A name, cut where nft would refuse it as a comment.
fn shortened(name: &str) -> &str {
    let end = (0..=name.len().min(LONGEST_COMMENT)).rev().find(|end| name.is_char_boundary(*end));
    &name[..end.unwrap_or(0)]
}
