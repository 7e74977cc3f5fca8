//! `flow_timeout`, as conntrack timeout policies.
//!
//! They are written in nft's own language, not in JSON: nft 1.0.6 accepts a policy in JSON and silently drops it. The
//! chains that set them are part of the table, and empty until this transaction fills them. That leaves no gap: no
//! frontend is active before both transactions are in.

use std::fmt::Write as _;

use super::TABLE;
use crate::config::Protocol;
use crate::dataplane::plan::{Plan, Timeouts};
use crate::dataplane::repair::Parts;
use crate::netlink::nftables::Listing;

/// The chain that sets a flow's timeouts.
pub(super) fn timeout_chain(timeouts: Timeouts) -> String {
    format!("timeout-{}s", timeouts.silent)
}

/// `NFT_OBJECT_CT_TIMEOUT`.
const OBJECT_TYPE: u32 = 7;

/// One timeout policy, and the rule that sets it.
struct Policy {
    /// The policy's name.
    name: String,
    /// The chain of the rule.
    chain: String,
    protocol: Protocol,
    /// The version of IP, 4 or 6.
    version: u8,
    timeouts: Timeouts,
}

impl Policy {
    /// Those of a plan.
    fn of(plan: &Plan) -> impl Iterator<Item = Policy> {
        const SORTS: [(Protocol, u8); 4] =
            [(Protocol::Tcp, 4), (Protocol::Tcp, 6), (Protocol::Udp, 4), (Protocol::Udp, 6)];
        plan.timeouts().into_iter().flat_map(|timeouts| {
            SORTS.map(|(protocol, version)| Policy {
                name: format!("{protocol}{version}-{}s", timeouts.silent),
                chain: timeout_chain(timeouts),
                protocol,
                version,
                timeouts,
            })
        })
    }

    fn add(&self, script: &mut String) {
        let Policy { name, protocol, timeouts, .. } = self;
        let l3 = if self.version == 4 { "ip" } else { "ip6" };
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
        let Policy { name, chain, protocol, version, .. } = self;
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

/// One transaction, for `nft -f -`, that restores those of these chains that set timeouts, and touches no policy. `None` if
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

/// Each state of a TCP connection: the kernel's default (nf_conntrack_proto_tcp.c), but never longer than a silent
/// connection may live; and so long where one side alone has closed, as it may wait for the other's answer.
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
