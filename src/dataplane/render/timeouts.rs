//! `flow_timeout`, as conntrack timeout policies.
//!
//! They are written in nft's own language, not in JSON: nft 1.0.6 accepts a policy in JSON and silently drops it. The
//! chains that set them are part of the table, and empty until this transaction fills them. That leaves no gap: no
//! frontend is active before both transactions are in.

use std::fmt::Write as _;

use super::TABLE;
use crate::config::Protocol;
use crate::dataplane::plan::{Plan, Timeouts};

/// The chain that sets a flow's timeouts.
pub(super) fn timeout_chain(timeouts: Timeouts) -> String {
    format!("timeout-{}s", timeouts.silent)
}

/// One transaction, for `nft -f -`, that adds the timeout policies and fills their chains. `None` if there is none.
pub fn timeouts(plan: &Plan) -> Option<String> {
    let mut script = String::new();
    for timeouts in plan.timeouts() {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            for (l3, version) in [("ip", 4), ("ip6", 6)] {
                let name = format!("{protocol}{version}-{}s", timeouts.silent);
                let policy = match protocol {
                    Protocol::Tcp => tcp_policy(timeouts),
                    Protocol::Udp => format!("unreplied : {0}, replied : {0}", timeouts.silent),
                };
                let chain = timeout_chain(timeouts);
                // Writing to a string cannot fail.
                let _ = writeln!(
                    script,
                    "add ct timeout inet {TABLE} {name} {{ protocol {protocol}; l3proto {l3}; policy = {{ {policy} }} ; }}\n\
                     add rule inet {TABLE} {chain} meta nfproto ipv{version} meta l4proto {protocol} ct timeout set \"{name}\""
                );
            }
        }
    }
    (!script.is_empty()).then_some(script)
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
