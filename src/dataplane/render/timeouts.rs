//! `flow_timeout`, as conntrack timeout policies.
//!
//! They are written in nft's own language, because nft 1.0.6 accepts a policy in JSON and silently drops it. The chains that
//! set them are part of the table, and empty until this transaction fills them. No frontend is active before both are in.

use std::fmt::Write as _;

use super::TABLE;
use super::expr::ip;
use crate::config::Protocol;
use crate::dataplane::plan::{Plan, Timeouts};
use crate::dataplane::repair::Parts;
use crate::ids::Family;
use crate::netlink::nftables::Listing;

/// Name of the chain that sets a flow's timeouts.
pub(super) fn timeout_chain(timeouts: Timeouts) -> String {
    format!("timeout-{}s", timeouts.silent)
}

/// `NFT_OBJECT_CT_TIMEOUT`.
const OBJECT_TYPE: u32 = 7;

/// One timeout policy, and the rule that sets it.
struct Policy {
    name: String,
    /// The chain of the rule.
    chain: String,
    protocol: Protocol,
    family: Family,
    timeouts: Timeouts,
}

impl Policy {
    /// The policies of a plan.
    fn of(plan: &Plan) -> impl Iterator<Item = Policy> {
        let kinds = [Protocol::Tcp, Protocol::Udp]
            .into_iter()
            .flat_map(|protocol| Family::ALL.map(|family| (protocol, family)));
        plan.timeouts().into_iter().flat_map(move |timeouts| {
            kinds.clone().map(move |(protocol, family)| Policy {
                name: format!("{protocol}{}-{}s", family.version(), timeouts.silent),
                chain: timeout_chain(timeouts),
                protocol,
                family,
                timeouts,
            })
        })
    }

    fn add(&self, script: &mut String) {
        let Policy { name, protocol, timeouts, .. } = self;
        let l3 = ip(self.family);
        let policy = match protocol {
            Protocol::Tcp => tcp_policy(*timeouts),
            Protocol::Udp => format!("unreplied : {0}, replied : {0}", timeouts.silent),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(
            script,
            "add ct timeout inet {TABLE} {name} {{ protocol {protocol}; l3proto {l3}; policy = {{ {policy} }} ; }}"
        );
    }

    fn add_rule(&self, script: &mut String) {
        let Policy { name, chain, protocol, family, .. } = self;
        let version = family.version();
        let _ = writeln!(
            script,
            "add rule inet {TABLE} {chain} meta nfproto ipv{version} meta l4proto {protocol} ct timeout set \"{name}\""
        );
    }
}

/// One transaction, for `nft -f -`, that adds the timeout policies and fills their chains. `None` if there is none.
pub fn timeouts(plan: &Plan) -> Option<String> {
    let mut script = String::new();
    for policy in Policy::of(plan) {
        policy.add(&mut script);
        policy.add_rule(&mut script);
    }
    (!script.is_empty()).then_some(script)
}

/// One transaction, for `nft -f -`, that restores those of these chains that set timeouts, and changes no policy. `None` if
/// there is none.
pub(super) fn restored(plan: &Plan, parts: &Parts) -> Option<String> {
    let mut script = String::new();
    for timeouts in plan.timeouts() {
        let chain = timeout_chain(timeouts);
        if !parts.gets_rules(&chain) {
            continue;
        }
        if !parts.new_chains.contains(&chain) || parts.deleted_chains.contains(&chain) {
            let _ = writeln!(script, "flush chain inet {TABLE} {chain}");
        }
        if parts.deleted_chains.contains(&chain) {
            let _ = writeln!(script, "delete chain inet {TABLE} {chain}");
        }
        let _ = writeln!(script, "add chain inet {TABLE} {chain}");
        Policy::of(plan).filter(|policy| policy.chain == chain).for_each(|policy| policy.add_rule(&mut script));
    }
    (!script.is_empty()).then_some(script)
}

/// Adds the policies, and the rules that set them, to the structure of the table.
pub(super) fn outline(plan: &Plan, listing: &mut Listing) {
    for policy in Policy::of(plan) {
        listing.objects.insert((policy.name, OBJECT_TYPE));
        listing.chains.entry(policy.chain).or_default().rules += 1;
    }
}

/// Each state of a TCP connection: the kernel's default (nf_conntrack_proto_tcp.c), but never longer than an idle
/// connection lives; and that long where one side alone has closed, because it may wait for the other's answer.
fn tcp_policy(timeouts: Timeouts) -> String {
    let states = [
        ("syn_sent", timeouts.syn_sent()),
        ("syn_recv", timeouts.syn_received()),
        ("established", timeouts.silent),
        ("fin_wait", timeouts.at_most(120)),
        ("close_wait", timeouts.silent),
        ("last_ack", timeouts.at_most(30)),
        ("time_wait", timeouts.closed()),
        ("close", timeouts.closed()),
        ("syn_sent2", timeouts.at_most(120)),
        ("retrans", timeouts.at_most(300)),
        ("unack", timeouts.at_most(300)),
    ];
    states.map(|(state, seconds)| format!("{state} : {seconds}")).join(", ")
}
