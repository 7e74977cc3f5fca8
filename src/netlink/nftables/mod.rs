//! One table of nftables: notifications of each change, and a listing of its structure.
//!
//! | module | purpose |
//! |---|---|
//! | `watch` | reads each transaction that changes the table, and the process that committed it |
//! | `changes` | adds up the objects that transactions changed |
//! | `listing` | reads the table's flags, chains, rules per chain, sets and objects |
//!
//! Numbers are those of linux/netfilter/nf_tables.h and linux/netfilter/nfnetlink.h.

mod changes;
mod listing;
mod watch;

use super::netfilter::NFTABLES;

pub use changes::{Action, Changes, Object};
pub use listing::{Base, Chain, Listing, Policy, SetKind, Tables, delete_table};
#[cfg(any(test, fuzzing))]
pub(super) use watch::Reader;
pub use watch::{Process, TableWatch, Transaction, Watched};

/// `NFT_MSG_GETTABLE`, `NFT_MSG_DELTABLE` and `NFT_MSG_GETGEN`.
pub(super) const GET_TABLE: u16 = NFTABLES | 1;
pub(super) const DELETE_TABLE: u16 = NFTABLES | 2;
pub(super) const GET_GENERATION: u16 = NFTABLES | 16;

/// `struct nfgenmsg`: the family `NFPROTO_INET`, version 0, resource 0.
const INET: [u8; 4] = [1, 0, 0, 0];

/// `NFTA_…_TABLE` of chains, rules, sets, elements, objects and flowtables, and `NFTA_TABLE_NAME`.
pub(super) const TABLE: u16 = 1;
/// `NFTA_TABLE_FLAGS`.
pub(super) const TABLE_FLAGS: u16 = 2;

/// `NFTA_CHAIN_NAME`, `_HOOK`, `_POLICY` and `_TYPE`; `NFTA_HOOK_HOOKNUM` and `_PRIORITY`.
pub(super) const CHAIN_NAME: u16 = 3;
pub(super) const CHAIN_HOOK: u16 = 4;
pub(super) const CHAIN_POLICY: u16 = 5;
pub(super) const CHAIN_TYPE: u16 = 7;
pub(super) const HOOK_NUMBER: u16 = 1;
pub(super) const HOOK_PRIORITY: u16 = 2;
/// `NFTA_RULE_CHAIN`.
pub(super) const RULE_CHAIN: u16 = 2;
/// `NFTA_SET_NAME`, `NFTA_SET_ELEM_LIST_SET`, `NFTA_OBJ_NAME` and `NFTA_FLOWTABLE_NAME`.
const NAME: u16 = 2;
/// `NFTA_SET_FLAGS`.
const SET_FLAGS: u16 = 3;
/// `NFTA_OBJ_TYPE`.
const OBJECT_TYPE: u16 = 3;

/// `NFT_SET_ANONYMOUS`: the set belongs to a rule.
const ANONYMOUS: u32 = 1;

/// `NFTA_GEN_ID`.
const GENERATION: u16 = 1;

/// A string with its final zero. Names in the kernel are bytes; ours are ASCII.
fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned()
}
