//! 127.0.0.0/8 of the gateway is out of reach from outside, whatever happens to the daemon and to its rules; and one daemon
//! runs in a network namespace.

#[path = "../support/mod.rs"]
mod support;

mod exposure;
mod flood;
mod guard;
mod lock;
mod manager;
mod world;
