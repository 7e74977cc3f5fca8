//! Rules that keep packets from outside away from 127.0.0.0/8 while `route_localnet` is on; without it, the kernel does.
//!
//! Only a DNAT of ours leads to 127.0.0.0/8, and no source in 127.0.0.0/8 is accepted from outside:
//!
//! | chain | drops |
//! |---|---|
//! | `guard` (input) | every packet to a socket of this host, also one that conntrack does not track |
//! | `prerouting` (nat) | the first packet of a flow with such a source, before it wakes a target, is held, or is sent to another host |
//!
//! Neither costs the packets of a forwarded flow anything. A forged packet that is merely forwarded, outside of any flow,
//! is left to the next host, which drops it. See also [`crate::netlink::guard_table`].

use nftables::expr::MetaKey;
use nftables::stmt::Statement;
use nftables::types::{NfChainType, NfHook};

use super::expr::{LOOPBACK, drop, field, is, is_not, is_not_translated, meta, prefix, text};
use super::transaction::Transaction;
use super::{GUARD, PRIORITY};

/// The chain in the input hook.
pub(super) fn chain(transaction: &mut Transaction) {
    // type filter hook input priority -101; policy accept;
    transaction.add_base_chain(GUARD, NfChainType::Filter, NfHook::Input, PRIORITY);
    // iifname != "lo" ip daddr 127.0.0.0/8 ct status & dnat != dnat drop
    transaction.add_rule(GUARD, vec![is_outside(), is_loopback("daddr"), is_not_translated(), drop()], None);
    forged_sources(transaction, GUARD);
}

/// Drops packets from outside with a source in 127.0.0.0/8.
pub(super) fn forged_sources(transaction: &mut Transaction, chain: &str) {
    // iifname != "lo" ip saddr 127.0.0.0/8 drop
    transaction.add_rule(chain, vec![is_outside(), is_loopback("saddr"), drop()], None);
}

fn is_outside() -> Statement<'static> {
    is_not(meta(MetaKey::Iifname), text("lo"))
}

fn is_loopback(address: &'static str) -> Statement<'static> {
    is(field("ip", address), prefix(LOOPBACK))
}
