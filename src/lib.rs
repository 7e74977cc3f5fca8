//! proxygw warms backends on demand and routes traffic to them with nftables DNAT.

pub mod config;
pub mod engine;
pub mod netlink;
pub mod plugin;
pub mod reactor;
pub mod system;
