//! proxygw warms backends on demand and routes traffic to them with nftables DNAT.
//!
//! The map, in the order in which a wake travels (`docs/architecture.md` follows one step by step):
//!
//! - [`config`]: from the file to typed data, or to a list of all that is wrong with it;
//! - [`assemble`]: configuration and plugins, put together;
//! - [`plugin`]: the interface of plugins; [`plugins`] are the built-in ones;
//! - [`reactor`]: the mio loop, which owns every socket that clients or operators connect to;
//! - [`engine`]: every decision, in a pure [`engine::core`], on a thread of its own;
//! - `readiness`: probes of a backend;
//! - [`dataplane`]: rules, flows and held packets; [`netlink`] has the sockets to the kernel;
//! - [`doctor`]: checks of the host;
//! - [`logging`]: the log, a bounded queue with a thread that writes;
//! - [`system`]: small wrappers around the operating system;
//! - [`vital`]: threads that the daemon cannot live without;
//! - [`ids`]: identifiers that all of them share;
//! - [`daemon`]: the main function, which starts and stops all of this.

pub mod assemble;
pub mod config;
pub mod daemon;
pub mod dataplane;
pub mod doctor;
pub mod engine;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod ids;
pub mod logging;
pub mod netlink;
pub mod plugin;
pub mod plugins;
#[cfg(test)]
mod random;
pub mod reactor;
mod readiness;
pub mod system;
pub mod vital;

/// Reason why something failed, in a few lower-case words for the log and for `last_error`.
pub type Error = Box<dyn std::error::Error + Send + Sync>;
