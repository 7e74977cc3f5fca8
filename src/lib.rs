//! proxygw warms backends on demand and routes traffic to them with nftables DNAT.

pub mod config;
pub mod daemon;
pub mod dataplane;
pub mod engine;
pub mod logging;
pub mod netlink;
pub mod plugin;
pub mod plugins;
pub mod reactor;
mod readiness;
pub mod system;
