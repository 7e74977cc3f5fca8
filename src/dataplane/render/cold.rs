//! The cold paths: new flows of frontends that are not active.
//!
//! | chain | does |
//! |---|---|
//! | `cold-drop` | drops a first packet; its client retransmits |
//! | `cold-hold` | passes a first packet to the holder by NFLOG, and drops it |
//! | `cold-refuse` | refuses the client |
//! | `forged` | drops packets from outside whose source no other host can have; the others jump to it first |
//!
//! A packet in `prerouting` has not met the kernel's checks of source addresses: they follow with its route. One that is
//! held and sent again from here never meets them, and an answer to a forged one would be a packet of this host to itself.
//!
//! A drop in the output hook is an error for a local sender of UDP (`EPERM`). So the UDP of clients on this host is let out
//! of the cold chains, and dropped further on, after the loopback interface, by `cold-guard`.
//!
//! `cold-…-any` is the same for a wildcard listen, `cold-…-N` for a frontend with rules of its own.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nftables::expr::{FibFlag, MetaKey};
use nftables::types::{NfChainType, NfHook};

use super::expr::{
    LOOPBACK, accept, address_type, drop, field, go_back, goto, ip, is, is_family, is_from_here, is_member,
    is_not_first_segment, is_not_translated, is_protocol, jump, log_to_group, meta, prefix, reset, set, text,
    unreachable,
};
use super::maps::{Map, key_of};
use super::transaction::Transaction;
use super::{PRIORITY, only_admitted, only_own_packets, only_this_host};
use crate::config::{Prefix, Protocol, Route};
use crate::dataplane::plan::{ColdPath, OnFailure, Plan, Rules};
use crate::ids::FrontendId;

/// The chain that drops packets with forged sources.
const FORGED: &str = "forged";

/// Start of the names of the sets of guarded UDP listens.
const GUARDED: &str = "guarded";

/// Whether the guard drops first packets of clients on this host.
fn is_guarded(rules: &Rules) -> bool {
    rules.cold != ColdPath::Local && rules.protocol == Protocol::Udp
}

/// Manner of a cold path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    /// As the frontend's kind has it.
    Usual,
    /// Clients are refused for as long as the target backs off.
    Refusing,
}

/// The chain that all cold frontends of one kind share.
fn shared_name(rules: &Rules, manner: Manner) -> Option<&'static str> {
    match rules.cold {
        ColdPath::Local => None,
        ColdPath::Drop => Some("cold-drop"),
        ColdPath::Hold(_) if manner == Manner::Refusing => Some("cold-refuse"),
        ColdPath::Hold(_) => Some("cold-hold"),
    }
}

/// Whether a frontend needs chains of its own.
fn has_own_chain(rules: &Rules) -> bool {
    !rules.access.is_open() || (rules.shadows_endpoint() && rules.cold != ColdPath::Local)
}

/// The chain of a route's cold path; `None` where its flows go to this host's own sockets.
pub(super) fn cold_chain(id: FrontendId, rules: &Rules, route: &Route, manner: Manner) -> Option<String> {
    let shared = shared_name(rules, manner);
    if has_own_chain(rules) {
        Some(own_name(id, rules, manner))
    } else if route.is_wildcard() {
        Some(format!("{}-any", shared?))
    } else {
        Some(shared?.to_owned())
    }
}

fn own_name(id: FrontendId, rules: &Rules, manner: Manner) -> String {
    format!("{}-{id}", shared_name(rules, manner).unwrap_or("cold-local"))
}

/// The shared chains, and the guard.
pub(super) fn shared_chains(transaction: &mut Transaction, plan: &Plan) {
    forged(transaction);
    let names = ["cold-drop", "cold-refuse", "cold-hold"].into_iter().take(2 + usize::from(plan.group().is_some()));
    for name in names.clone() {
        transaction.add_chain(name);
        // jump forged
        transaction.add_rule(name, vec![jump(FORGED)], None);
        // tcp flags & (fin | syn | rst | ack) != syn reject with tcp reset
        // A connection whose entry is gone: a reset notifies its client at once.
        transaction.add_rule(name, vec![is_not_first_segment(), reset()], None);
        if name == "cold-refuse" {
            refuse_all(transaction, name);
            continue;
        }
        if let Some(group) = plan.group().filter(|_| name == "cold-hold") {
            // log group 28775 snaplen 65535
            transaction.add_rule(name, vec![log_to_group(group)], None);
        }
        // Packets from outside are dropped here, the UDP of this host later.
        // oif != 0 meta l4proto udp accept
        transaction.add_rule(name, vec![is_from_here(), is_protocol(Protocol::Udp), accept()], None);
        // drop
        transaction.add_rule(name, vec![drop()], None);
    }
    if plan.frontends.values().any(is_guarded) {
        guard(transaction, plan);
    }
    for name in names {
        let any = format!("{name}-any");
        transaction.add_chain(&any);
        only_this_host(transaction, &any, Vec::new());
        // goto cold-drop
        transaction.add_rule(&any, vec![goto(name)], None);
    }
}

/// The chains of a frontend with rules of its own.
pub(super) fn own_chains(transaction: &mut Transaction, id: FrontendId, rules: &Rules) {
    if !has_own_chain(rules) {
        return;
    }
    let refuses = matches!(rules.cold, ColdPath::Hold(options) if options.on_failure == OnFailure::Reject);
    for manner in [Manner::Usual, Manner::Refusing].into_iter().take(1 + usize::from(refuses)) {
        let name = own_name(id, rules, manner);
        transaction.add_chain(&name);
        only_own_packets(transaction, &name, rules);
        if !rules.access.is_open() {
            // First, because the gate may answer.
            // jump forged
            transaction.add_rule(&name, vec![jump(FORGED)], None);
        }
        only_admitted(transaction, &name, id, rules);
        if let Some(shared) = shared_name(rules, manner) {
            // goto cold-hold
            transaction.add_rule(&name, vec![goto(shared)], None);
        }
    }
}

/// Drops packets from outside whose source is an address of this host, or of no host (RFC 1122, section 3.2.1.3; RFC 4291).
///
/// `fib` knows the host's own addresses, the broadcast addresses of its subnets and its IPv6 anycast addresses. Of two
/// others it returns `unicast` or `unspec`, depending on the routes: IPv4's network 0, and what IPv6 has outside of unicast.
fn forged(transaction: &mut Transaction) {
    transaction.add_chain(FORGED);
    // oif != 0 return
    // Clients on this host, and held packets that are sent again, which have passed here before.
    transaction.add_rule(FORGED, vec![is_from_here(), go_back()], None);
    // iifname "lo" return
    transaction.add_rule(FORGED, vec![is(meta(MetaKey::Iifname), text("lo")), go_back()], None);
    // fib saddr type { local, broadcast, anycast, multicast } drop
    let types = ["local", "broadcast", "anycast", "multicast"].map(text);
    transaction.add_rule(FORGED, vec![is(address_type(FibFlag::Saddr), set(types)), drop()], None);
    // ip saddr { 0.0.0.0/8, 127.0.0.0/8 } drop
    let network = |address: IpAddr, length| Prefix { address, length };
    let addresses = [network(Ipv4Addr::UNSPECIFIED.into(), 8), LOOPBACK].map(prefix);
    transaction.add_rule(FORGED, vec![is(field("ip", "saddr"), set(addresses)), drop()], None);
    // ip6 saddr { ::/127, ::ffff:0:0/96, ff00::/8 } drop
    // The unspecified address and ::1; IPv4 addresses (RFC 4942, section 2.2); multicast.
    let addresses = [
        network(Ipv6Addr::UNSPECIFIED.into(), 127),
        network(Ipv4Addr::UNSPECIFIED.to_ipv6_mapped().into(), 96),
        network(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0).into(), 8),
    ]
    .map(prefix);
    transaction.add_rule(FORGED, vec![is(field("ip6", "saddr"), set(addresses)), drop()], None);
}

/// Refuses clients: TCP by a reset, everything else by ICMP.
pub(super) fn refuse_all(transaction: &mut Transaction, chain: &str) {
    // meta l4proto tcp reject with tcp reset
    transaction.add_rule(chain, vec![is_protocol(Protocol::Tcp), reset()], None);
    // reject with icmpx port-unreachable
    transaction.add_rule(chain, vec![unreachable()], None);
}

/// Drops the UDP of clients on this host behind the loopback interface.
fn guard(transaction: &mut Transaction, plan: &Plan) {
    const CHAIN: &str = "cold-guard";
    for map in Map::of(plan) {
        transaction.add_set(&map.name(GUARDED), &map.key(false), map.range);
    }
    // type filter hook input priority -101; policy accept;
    transaction.add_base_chain(CHAIN, NfChainType::Filter, NfHook::Input, PRIORITY);
    for map in Map::of(plan) {
        let set = map.name(GUARDED);
        let from_lo = is(meta(MetaKey::Iifname), text("lo"));
        let mut expr = vec![from_lo, is_protocol(Protocol::Udp), is_not_translated()];
        if map.any {
            // …meta nfproto ipv4 udp dport @guarded_any4 drop
            expr.extend([is_family(map.family), is_member(vec![field("udp", "dport")], &set)]);
        } else {
            // iifname "lo" meta l4proto udp ct status & dnat != dnat ip daddr . udp dport @guarded_ip4 drop
            expr.push(is_member(vec![field(ip(map.family), "daddr"), field("udp", "dport")], &set));
        }
        expr.push(drop());
        transaction.add_rule(CHAIN, expr, None);
    }
}

/// Brings the sets of guarded UDP listens from one state to another.
pub(super) fn change_guarded(
    transaction: &mut Transaction,
    plan: &Plan,
    before: &BTreeSet<FrontendId>,
    after: &BTreeSet<FrontendId>,
) {
    for map in Map::of(plan) {
        let set = map.name(GUARDED);
        let keys = |id: &FrontendId| {
            let routes = Some(&plan.frontends[id]).filter(|rules| is_guarded(rules)).map(|rules| &rules.routes);
            let ours = routes.into_iter().flatten().filter(move |route| Map::for_route(route) == map);
            ours.map(|route| key_of(None, route))
        };
        transaction.delete_elements(&set, before.difference(after).flat_map(keys));
        transaction.add_elements(&set, after.difference(before).flat_map(keys));
    }
}
