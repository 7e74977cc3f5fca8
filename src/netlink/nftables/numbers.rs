//! Numbers of linux/netfilter/nf_tables.h that several modules need.

use crate::netlink::netfilter::NFTABLES;

/// `NFT_MSG_GETTABLE`, `NFT_MSG_DELTABLE` and `NFT_MSG_GETGEN`.
pub const GET_TABLE: u16 = NFTABLES | 1;
pub const DELETE_TABLE: u16 = NFTABLES | 2;
pub const GET_GENERATION: u16 = NFTABLES | 16;

/// `struct nfgenmsg`: the family `NFPROTO_INET`, version 0, resource 0.
pub const INET: [u8; 4] = [1, 0, 0, 0];

/// `NFTA_…_TABLE` of chains, rules, sets, elements, objects and flowtables, and `NFTA_TABLE_NAME`.
pub const TABLE: u16 = 1;
/// `NFTA_TABLE_FLAGS`.
pub const TABLE_FLAGS: u16 = 2;
/// `NFTA_CHAIN_NAME`, `_HOOK`, `_POLICY` and `_TYPE`; `NFTA_HOOK_HOOKNUM` and `_PRIORITY`.
pub const CHAIN_NAME: u16 = 3;
pub const CHAIN_HOOK: u16 = 4;
pub const CHAIN_POLICY: u16 = 5;
pub const CHAIN_TYPE: u16 = 7;
pub const HOOK_NUMBER: u16 = 1;
pub const HOOK_PRIORITY: u16 = 2;
/// `NFTA_RULE_CHAIN`.
pub const RULE_CHAIN: u16 = 2;
/// `NFTA_SET_NAME`, `NFTA_SET_ELEM_LIST_SET`, `NFTA_OBJ_NAME` and `NFTA_FLOWTABLE_NAME`.
pub const NAME: u16 = 2;
/// `NFTA_SET_FLAGS`, and of them `NFT_SET_ANONYMOUS`: the set belongs to a rule.
pub const SET_FLAGS: u16 = 3;
pub const ANONYMOUS: u32 = 1;
/// `NFTA_GEN_ID`.
pub const GENERATION: u16 = 1;

/// `NF_DROP` and `NF_ACCEPT` (linux/netfilter.h).
pub const DROP: u32 = 0;
pub const ACCEPT: u32 = 1;
