//! The support module of the integration tests: a small world in network namespaces, and the daemon in it.
//!
//! ```text
//!   client ── 198.51.100.0/24, 2001:db8:1::/64 ── gateway ── 203.0.113.0/24, 2001:db8:2::/64 ── backend
//!      .2, ::2                            .1, ::1         .1, ::1                         .2, ::2
//! ```
//!
//! Every test makes a [`Lab`] of its own, so tests run side by side. Whatever a test leaves behind (namespaces, processes
//! in them, temporary folders) goes when its guards are dropped, also by a panic; what a killed test process leaves
//! behind goes at the next start, see [`sweep`]. Nothing outside these namespaces is touched.
//!
//! Every wait has a bound and a reason: [`eventually`], never a bare sleep.

// Each test program uses a part of this.
#![allow(dead_code, unused_imports)]

mod binaries;
mod clients;
mod control;
mod daemon;
mod kernel;
mod lab;
mod namespace;
pub mod packets;
mod process;
mod rights;
mod servers;
pub mod setup;
mod sweep;
mod temporary;
mod time;

pub use binaries::binary;
pub use clients::{Client, http_get, http_get_within, udp_ask};
pub use daemon::{Daemon, DaemonOptions};
pub use kernel::{conntrack_entries, nft, nft_ruleset};
pub use lab::{BACKEND_V4, BACKEND_V6, GATEWAY_V4, GATEWAY_V6, Lab};
pub use namespace::Namespace;
pub use process::Process;
pub use rights::{require_namespaces, second_nft};
pub use servers::{Server, serve_http, serve_udp_echo};
pub use temporary::Temporary;
pub use time::eventually;

/// The command line that starts the test backend with these options, for a target's `command` or a
/// [`Namespace::command`] by way of `sh -c`. `tests/support/backend.py --help` lists the options.
pub fn backend_command(options: &str) -> String {
    format!("exec /usr/bin/python3 -u {}/tests/support/backend.py {options}", env!("CARGO_MANIFEST_DIR"))
}
