//! Where a cold frontend's flows go.
//!
//! | chain | does |
//! |---|---|
//! | `cold-drop` | drops a first packet; its client tries again |
//! | `cold-hold` | hands a first packet to the holder by NFLOG, and drops it |
//! | `cold-refuse` | tells the client that nobody is there |
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
use std::net::{Ipv4Addr, Ipv6Addr};

use nftables::expr::{Expression, FibFlag, MetaKey};
use nftables::types::{NfChainType, NfHook};
use serde_json::Value;

use super::maps::{Map, key_of};
use super::transaction::Transaction;
use super::words::{
    accept, address_type, and, ct, drop, field, go_back, goto, ip_of, is, is_family, is_member, is_not, is_one_of,
    jump, log_to_group, meta, prefix, refuse, reset, text,
};
use super::{PRIORITY, only_this_host, only_what_is_meant, only_who_may_come_in};
use crate::config::{Protocol, Route};
use crate::dataplane::plan::{ColdPath, OnFailure};
use crate::dataplane::plan::{Plan, Rules};
use crate::ids::FrontendId;

/// The chain that drops packets with forged sources.
const FORGED: &str = "forged";

/// What the names of the sets of guarded UDP listens begin with.
const GUARDED: &str = "guarded";

/// Whether first packets of clients on this host are dropped by the guard.
fn is_guarded(rules: &Rules) -> bool {
    rules.cold != ColdPath::Local && rules.protocol == Protocol::Udp
}

/// The chain that all cold frontends of one sort share.
fn shared_name(rules: &Rules, refusing: bool) -> Option<&'static str> {
    match rules.cold {
        ColdPath::Local => None,
        ColdPath::Drop => Some("cold-drop"),
        ColdPath::Hold(_) if refusing => Some("cold-refuse"),
        ColdPath::Hold(_) => Some("cold-hold"),
    }
}

/// Whether the shared chains cannot do for it.
fn has_own_chain(rules: &Rules) -> bool {
    !rules.access.is_open() || (rules.shadows_endpoint() && rules.cold != ColdPath::Local)
}

/// The chain of a route's cold path; `None` where its flows go on to this host's own sockets.
pub(super) fn cold_chain(id: FrontendId, rules: &Rules, route: &Route, refusing: bool) -> Option<String> {
    let shared = shared_name(rules, refusing);
    if has_own_chain(rules) {
        Some(own_name(id, rules, refusing))
    } else if route.is_wildcard() {
        Some(format!("{}-any", shared?))
    } else {
        Some(shared?.to_owned())
    }
}

fn own_name(id: FrontendId, rules: &Rules, refusing: bool) -> String {
    format!("{}-{id}", shared_name(rules, refusing).unwrap_or("cold-local"))
}

/// The chains that are shared, and the guard.
pub(super) fn shared_chains(transaction: &mut Transaction, plan: &Plan) {
    forged(transaction);
    let chain = |transaction: &mut Transaction, name: &str| {
        transaction.add_chain(name);
        // jump forged
        transaction.add_rule(name, vec![jump(FORGED)], None);
        // tcp flags & (fin | syn | rst | ack) != syn reject with tcp reset
        // The middle of a connection whose entry is gone: its client should know at once.
        let flags = and(field("tcp", "flags"), Expression::List(["fin", "syn", "rst", "ack"].map(text).to_vec()));
        transaction.add_rule(name, vec![is_not(flags, text("syn")), reset()], None);
    };
    chain(transaction, "cold-drop");
    drop_all(transaction, "cold-drop");
    chain(transaction, "cold-refuse");
    refuse_all(transaction, "cold-refuse");
    let mut names = vec!["cold-drop", "cold-refuse"];
    if let Some(group) = plan.group() {
        chain(transaction, "cold-hold");
        // log group 28775 snaplen 65535
        transaction.add_rule("cold-hold", vec![log_to_group(group)], None);
        drop_all(transaction, "cold-hold");
        names.push("cold-hold");
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
    for refusing in [false, true].into_iter().take(1 + usize::from(refuses)) {
        let name = own_name(id, rules, refusing);
        transaction.add_chain(&name);
        only_what_is_meant(transaction, &name, rules);
        if !rules.access.is_open() {
            // The gate may answer, so it does not see them.
            // jump forged
            transaction.add_rule(&name, vec![jump(FORGED)], None);
        }
        only_who_may_come_in(transaction, &name, id, rules);
        if let Some(shared) = shared_name(rules, refusing) {
            // goto cold-hold
            transaction.add_rule(&name, vec![goto(shared)], None);
        }
    }
}

/// Drops packets from outside whose source is this host's own, or no host's (RFC 1122, section 3.2.1.3; RFC 4291).
///
/// `fib` knows the host's own addresses, the broadcast addresses of its subnets and its IPv6 anycast addresses. Of two
/// others it returns `unicast` or `unspec`, depending on the routes: IPv4's network 0, and what IPv6 has outside of unicast.
fn forged(transaction: &mut Transaction) {
    transaction.add_chain(FORGED);
    // oif != 0 return
    // Clients on this host, and held packets that are sent again: these have passed here before.
    transaction.add_rule(FORGED, vec![is_not(meta(MetaKey::Oif), Expression::Number(0)), go_back()], None);
    // iifname "lo" return
    transaction.add_rule(FORGED, vec![is(meta(MetaKey::Iifname), text("lo")), go_back()], None);
    // fib saddr type { local, broadcast, anycast, multicast } drop
    let types = ["local", "broadcast", "anycast", "multicast"].map(text);
    transaction.add_rule(FORGED, vec![is_one_of(address_type(FibFlag::Saddr), types), drop()], None);
    // ip saddr { 0.0.0.0/8, 127.0.0.0/8 } drop
    let zero = prefix(Ipv4Addr::UNSPECIFIED.into(), 8);
    let loopback = prefix(Ipv4Addr::new(127, 0, 0, 0).into(), 8);
    transaction.add_rule(FORGED, vec![is_one_of(field("ip", "saddr"), [zero, loopback]), drop()], None);
    // ip6 saddr { ::/127, ::ffff:0:0/96, ff00::/8 } drop
    // The unspecified address and ::1; IPv4 addresses (RFC 4942, section 2.2); multicast.
    let addresses = [
        prefix(Ipv6Addr::UNSPECIFIED.into(), 127),
        prefix(Ipv4Addr::UNSPECIFIED.to_ipv6_mapped().into(), 96),
        prefix(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0).into(), 8),
    ];
    transaction.add_rule(FORGED, vec![is_one_of(field("ip6", "saddr"), addresses), drop()], None);
}

/// Drops what comes from elsewhere at once, and the UDP of this host later.
fn drop_all(transaction: &mut Transaction, chain: &str) {
    // oif != 0 meta l4proto udp accept
    let from_here = is_not(meta(MetaKey::Oif), Expression::Number(0));
    let udp = is(meta(MetaKey::L4proto), text("udp"));
    transaction.add_rule(chain, vec![from_here, udp, accept()], None);
    // drop
    transaction.add_rule(chain, vec![drop()], None);
}

/// Tells clients that nobody is there: TCP by a reset, everything else by ICMP.
pub(super) fn refuse_all(transaction: &mut Transaction, chain: &str) {
    // meta l4proto tcp reject with tcp reset
    transaction.add_rule(chain, vec![is(meta(MetaKey::L4proto), text("tcp")), reset()], None);
    // reject with icmpx port-unreachable
    transaction.add_rule(chain, vec![refuse()], None);
}

/// Drops the UDP of clients on this host after it has left them.
fn guard(transaction: &mut Transaction, plan: &Plan) {
    const CHAIN: &str = "cold-guard";
    for map in Map::of(plan) {
        transaction.add_set(&map.name(GUARDED), &map.key(false), map.range);
    }
    // type filter hook input priority -101; policy accept;
    transaction.add_base_chain(CHAIN, NfChainType::Filter, NfHook::Input, PRIORITY);
    for map in Map::of(plan) {
        let set = map.name(GUARDED);
        let not_sent = is_not(and(ct("status"), text("dnat")), text("dnat"));
        let mut expr = vec![is(meta(MetaKey::Iifname), text("lo")), is(meta(MetaKey::L4proto), text("udp")), not_sent];
        if map.any {
            // …meta nfproto ipv4 udp dport @guarded_any4 drop
            expr.extend([is_family(map.v4), is_member(vec![field("udp", "dport")], &set)]);
        } else {
            // iifname "lo" meta l4proto udp ct status & dnat != dnat ip daddr . udp dport @guarded_ip4 drop
            expr.push(is_member(vec![field(ip_of(map.v4), "daddr"), field("udp", "dport")], &set));
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
    let guarded = |id: &&FrontendId| is_guarded(&plan.frontends[id]);
    for map in Map::of(plan) {
        let set = map.name(GUARDED);
        let keys = |ids: &mut dyn Iterator<Item = &FrontendId>| -> Vec<Value> {
            let routes = ids.filter(guarded).flat_map(|id| &plan.frontends[id].routes);
            routes.filter(|route| Map::for_route(route) == map).map(|route| key_of(None, route)).collect()
        };
        let removed = keys(&mut before.difference(after));
        transaction.delete_elements(&set, removed.into_iter());
        let added = keys(&mut after.difference(before));
        transaction.add_members(&set, added.into_iter());
    }
}
