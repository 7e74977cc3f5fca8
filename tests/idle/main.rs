//! Idleness: a target drains its idle time after its last use, neither early nor late, whatever happens around it.
//!
//! Moments of the daemon are read from its log, those of the clients from the same clock.

#[path = "../support/mod.rs"]
mod support;

mod clock;
mod cost;
mod ends;
mod explain;
mod fire;
mod moments;
mod overrun;
mod race;
mod uptime;
