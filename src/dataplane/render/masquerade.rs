//! How answers find their way back: whose source address is replaced by this gateway's.
//!
//! | chain | does |
//! |---|---|
//! | `postrouting` | finds what our rules have sent to an endpoint, by one look-up |
//! | `masquerade-N` | tells the frontends of one endpoint apart, by the original destination |
//! | `masquerade-auto` | masquerades where the client's address could not work |
//! | `masquerade-always` | masquerades |
//!
//! A client's address cannot work where the answer would not come back this way: the client is on the very link that the
//! endpoint is reached by (or is the endpoint itself), or its address means another host over there (127.0.0.1, ::1,
//! link-local). The sets `onlink4` and `onlink6` hold the prefixes of each interface.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nftables::expr::{FibFlag, MetaKey};
use nftables::stmt::Statement;
use nftables::types::{NfChainType, NfHook};
use serde_json::{Value, json};

use super::transaction::Transaction;
use super::words::{
    address_type, and, ct, ct_original, field, go_back, goto, ip_of, is, is_member, is_not, look_up, masquerade, meta,
    port_or_range, prefix, text,
};
use super::{is_port, shortened};
use crate::config::{Address, Masquerade, Protocol, Route};
use crate::dataplane::plan::{OnLink, Plan, Rules, State};

/// Just before `srcnat` (100): the first chain that translates a flow's source decides.
const PRIORITY: i32 = 99;

const AUTO: &str = "masquerade-auto";
const ALWAYS: &str = "masquerade-always";

/// The chains and maps, where any frontend's clients can need them.
pub(super) fn chains(transaction: &mut Transaction, plan: &Plan) {
    let endpoints = endpoints(plan);
    if endpoints.is_empty() {
        return;
    }
    if plan.has_masquerade(Masquerade::Auto) {
        auto(transaction);
    }
    if plan.has_masquerade(Masquerade::Always) {
        transaction.add_chain(ALWAYS);
        // oifname "lo" return
        transaction.add_rule(ALWAYS, vec![is(meta(MetaKey::Oifname), text("lo")), go_back()], None);
        // masquerade
        transaction.add_rule(ALWAYS, vec![masquerade()], None);
    }
    // type nat hook postrouting priority 99; policy accept;
    transaction.add_base_chain("postrouting", NfChainType::NAT, NfHook::Postrouting, PRIORITY);
    // ct status & dnat != dnat return
    let not_sent = is_not(and(ct("status"), text("dnat")), text("dnat"));
    transaction.add_rule("postrouting", vec![not_sent, go_back()], None);
    let sorts = [(true, false), (false, false), (true, true), (false, true)];
    for (v4, range) in sorts {
        let of_sort = |key: &&Endpoint| (key.1.is_ipv4(), key.1.ports.is_range()) == (v4, range);
        if !endpoints.keys().any(|key| of_sort(&key)) {
            continue;
        }
        let name = format!("masquerade_{}{}", if range { "range" } else { "ip" }, if v4 { 4 } else { 6 });
        let mut key = vec!["inet_proto", if v4 { "ipv4_addr" } else { "ipv6_addr" }, "inet_service"];
        // meta l4proto . ip daddr . th dport vmap @masquerade_ip4
        let mut found = vec![meta(MetaKey::L4proto), field(ip_of(v4), "daddr"), field("th", "dport")];
        if range {
            // The ports are told apart in the chain: ranges of frontends may overlap, those of a map may not.
            key.pop();
            found.pop();
        }
        transaction.add_verdict_map(&name, &key, false);
        transaction.add_rule("postrouting", vec![look_up(found, &name)], None);
        let mut elements: BTreeMap<String, (Value, String)> = BTreeMap::new();
        for (at, ((protocol, address), routes)) in endpoints.iter().enumerate() {
            if !of_sort(&&(*protocol, *address)) {
                continue;
            }
            let mut key = vec![json!(protocol.name()), json!(address.ip.to_string()), json!(address.ports.first())];
            if range {
                key.pop();
            }
            let key = json!({ "concat": key });
            let (_, chain) = elements.entry(key.to_string()).or_insert_with(|| {
                let chain = format!("masquerade-{at}");
                transaction.add_chain(&chain);
                (key, chain)
            });
            routes.iter().for_each(|(rules, route)| own_rule(transaction, chain, rules, route));
        }
        transaction.add_jumps(&name, elements.into_values());
    }
}

/// What is looked up: the endpoint's address and ports.
type Endpoint = (Protocol, Address);

/// Who is sent to each endpoint that is reached through a link.
fn endpoints(plan: &Plan) -> BTreeMap<Endpoint, Vec<(&Rules, &Route)>> {
    let mut endpoints: BTreeMap<Endpoint, Vec<(&Rules, &Route)>> = BTreeMap::new();
    for rules in plan.frontends.values() {
        for route in rules.masqueraded() {
            endpoints.entry((rules.protocol, route.endpoint)).or_default().push((rules, route));
        }
    }
    endpoints
}

/// Sends the flows of one route on to the shared chain.
fn own_rule(transaction: &mut Transaction, chain: &str, rules: &Rules, route: &Route) {
    // meta l4proto tcp ct original proto-dst 80 ct original ip daddr 192.0.2.1 goto masquerade-auto
    // The match of the protocol is there for nft, which wants one before it takes a port.
    let mut expr: Vec<Statement<'static>> = vec![is(meta(MetaKey::L4proto), text(rules.protocol.name()))];
    if route.endpoint.ports.is_range() {
        expr.push(is_port(rules, route.endpoint.ports));
    }
    expr.push(is(ct_original("proto-dst"), port_or_range(route.listen.ports)));
    if !route.is_wildcard() {
        let daddr = if route.listen.is_ipv4() { "ip daddr" } else { "ip6 daddr" };
        expr.push(is(ct_original(daddr), text(route.listen.ip.to_string())));
    }
    expr.push(goto(if rules.masquerade == Masquerade::Always { ALWAYS } else { AUTO }));
    transaction.add_rule(chain, expr, Some(shortened(&rules.name)));
}

/// Masquerades whose address could not work, and nobody else.
fn auto(transaction: &mut Transaction) {
    transaction.add_chain(AUTO);
    for v4 in [true, false] {
        transaction.add_set(on_link_set(v4), &["iface_index", if v4 { "ipv4_addr" } else { "ipv6_addr" }], true);
    }
    // oifname "lo" return
    transaction.add_rule(AUTO, vec![is(meta(MetaKey::Oifname), text("lo")), go_back()], None);
    let elsewhere: [(IpAddr, u32); 3] = [
        (Ipv4Addr::new(127, 0, 0, 0).into(), 8),
        (Ipv6Addr::LOCALHOST.into(), 128),
        (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0).into(), 10),
    ];
    for (address, length) in elsewhere {
        // ip saddr 127.0.0.0/8 masquerade
        let source = is(field(ip_of(address.is_ipv4()), "saddr"), prefix(address, length));
        transaction.add_rule(AUTO, vec![source, masquerade()], None);
    }
    // fib saddr type local return
    transaction.add_rule(AUTO, vec![is(address_type(FibFlag::Saddr), text("local")), go_back()], None);
    for v4 in [true, false] {
        // meta oif . ip saddr @onlink4 masquerade
        let client = is_member(vec![meta(MetaKey::Oif), field(ip_of(v4), "saddr")], on_link_set(v4));
        transaction.add_rule(AUTO, vec![client, masquerade()], None);
    }
}

fn on_link_set(v4: bool) -> &'static str {
    if v4 { "onlink4" } else { "onlink6" }
}

/// Brings the sets of prefixes from one state to another.
pub(super) fn change(transaction: &mut Transaction, plan: &Plan, before: &State, after: &State) {
    if !plan.has_masquerade(Masquerade::Auto) {
        return;
    }
    for v4 in [true, false] {
        let key = |on_link: &OnLink| {
            let (address, length) = (on_link.prefix.address.to_string(), on_link.prefix.length);
            json!({ "concat": [on_link.interface, { "prefix": { "addr": address, "len": length } }] })
        };
        let ours = |on_link: &&OnLink| on_link.prefix.address.is_ipv4() == v4;
        let removed = before.on_link.difference(&after.on_link).filter(ours);
        transaction.delete_elements(on_link_set(v4), removed.map(key));
        let added = after.on_link.difference(&before.on_link).filter(ours);
        transaction.add_members(on_link_set(v4), added.map(key));
    }
}
