//! Return paths: the clients whose source address is replaced by this gateway's.
//!
//! | chain | does |
//! |---|---|
//! | `postrouting` | finds flows that our rules have sent to an endpoint, by one lookup |
//! | `masquerade-N` | tells the frontends of one endpoint apart, by the original destination |
//! | `masquerade-auto` | masquerades where the client's address could not work |
//! | `masquerade-always` | masquerades |
//!
//! A client's address cannot work where the answer would not come back this way: the client is on the very link that the
//! endpoint is reached by (or is the endpoint itself), or its address means another host over there (127.0.0.1, ::1,
//! link-local). The sets `onlink4` and `onlink6` hold the prefixes of each interface.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use nftables::expr::{FibFlag, MetaKey};
use nftables::stmt::Statement;
use nftables::types::{NfChainType, NfHook};

use super::expr::{
    LOOPBACK, address_key, address_type, concat, ct_original, field, go_back, goto, ip, is, is_member,
    is_not_translated, is_protocol, jump, masquerade, meta, number, ports, prefix, text, verdict_of,
};
use super::transaction::Transaction;
use super::{is_port, shortened};
use crate::config::{Address, Masquerade, Prefix, Protocol, Route};
use crate::dataplane::plan::{OnLink, Plan, Rules, State};
use crate::ids::Family;

/// Just before `srcnat` (100): the first chain that translates a flow's source decides.
pub(super) const PRIORITY: i32 = 99;

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
    transaction.add_rule("postrouting", vec![is_not_translated(), go_back()], None);
    let kinds = [(Family::V4, false), (Family::V6, false), (Family::V4, true), (Family::V6, true)];
    for (family, range) in kinds {
        let of_kind = |(_, to): &Endpoint| (Family::of(to.ip), to.ports.is_range()) == (family, range);
        if !endpoints.keys().any(of_kind) {
            continue;
        }
        let name = format!("masquerade_{}{}", if range { "range" } else { "ip" }, family.version());
        let mut key = vec!["inet_proto", address_key(family), "inet_service"];
        // meta l4proto . ip daddr . th dport vmap @masquerade_ip4
        let mut fields = vec![meta(MetaKey::L4proto), field(ip(family), "daddr"), field("th", "dport")];
        if range {
            // The ports are told apart in the chain: ranges of frontends may overlap, those of a map may not.
            key.pop();
            fields.pop();
        }
        transaction.add_map(&name, &key, "verdict", false);
        transaction.add_rule("postrouting", vec![verdict_of(fields, &name)], None);
        let mut elements = BTreeMap::new();
        for (at, (endpoint, routes)) in endpoints.iter().enumerate().filter(|(_, (endpoint, _))| of_kind(endpoint)) {
            let (protocol, Address { ip, ports }) = *endpoint;
            let mut key = vec![text(protocol.name()), text(ip.to_string()), number(ports.first())];
            if range {
                key.pop();
            }
            let (_, chain) =
                elements.entry((protocol.name(), ip.to_string(), (!range).then_some(ports))).or_insert_with(|| {
                    let chain = format!("masquerade-{at}");
                    transaction.add_chain(&chain);
                    (concat(key), chain)
                });
            routes.iter().for_each(|(rules, route)| own_rule(transaction, chain, rules, route));
        }
        transaction.add_elements(&name, elements.into_values().map(|(key, chain)| (key, jump(&chain))));
    }
}

/// The key of a lookup.
type Endpoint = (Protocol, Address);

/// The routes to each endpoint that is reached through a link.
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
    // nft requires a match of the protocol before a port.
    let mut expr: Vec<Statement<'static>> = vec![is_protocol(rules.protocol)];
    if route.endpoint.ports.is_range() {
        expr.push(is_port(rules, route.endpoint.ports));
    }
    expr.push(is(ct_original("proto-dst"), ports(route.listen.ports)));
    if !route.is_wildcard() {
        let daddr = if route.listen.is_ipv4() { "ip daddr" } else { "ip6 daddr" };
        expr.push(is(ct_original(daddr), text(route.listen.ip.to_string())));
    }
    expr.push(goto(if rules.masquerade == Masquerade::Always { ALWAYS } else { AUTO }));
    transaction.add_rule(chain, expr, Some(shortened(&rules.name)));
}

/// Masquerades only clients whose address could not work.
fn auto(transaction: &mut Transaction) {
    transaction.add_chain(AUTO);
    for family in Family::ALL {
        transaction.add_set(on_link_set(family), &["iface_index", address_key(family)], true);
    }
    // oifname "lo" return
    transaction.add_rule(AUTO, vec![is(meta(MetaKey::Oifname), text("lo")), go_back()], None);
    let ambiguous = [
        LOOPBACK,
        Prefix { address: Ipv6Addr::LOCALHOST.into(), length: 128 },
        Prefix { address: Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0).into(), length: 10 },
    ];
    for network in ambiguous {
        // ip saddr 127.0.0.0/8 masquerade
        let source = is(field(ip(Family::of(network.address)), "saddr"), prefix(network));
        transaction.add_rule(AUTO, vec![source, masquerade()], None);
    }
    // fib saddr type local return
    transaction.add_rule(AUTO, vec![is(address_type(FibFlag::Saddr), text("local")), go_back()], None);
    for family in Family::ALL {
        // meta oif . ip saddr @onlink4 masquerade
        let client = is_member(vec![meta(MetaKey::Oif), field(ip(family), "saddr")], on_link_set(family));
        transaction.add_rule(AUTO, vec![client, masquerade()], None);
    }
}

fn on_link_set(family: Family) -> &'static str {
    if family == Family::V4 { "onlink4" } else { "onlink6" }
}

/// Brings the sets of prefixes from one state to another.
pub(super) fn change(transaction: &mut Transaction, plan: &Plan, before: &State, after: &State) {
    if !plan.has_masquerade(Masquerade::Auto) {
        return;
    }
    for family in Family::ALL {
        let key = |on_link: &OnLink| concat(vec![number(on_link.interface), prefix(on_link.prefix)]);
        let of_family = |on_link: &&OnLink| Family::of(on_link.prefix.address) == family;
        let removed = before.on_link.difference(&after.on_link).filter(of_family);
        transaction.delete_elements(on_link_set(family), removed.map(key));
        let added = after.on_link.difference(&before.on_link).filter(of_family);
        transaction.add_elements(on_link_set(family), added.map(key));
    }
}
