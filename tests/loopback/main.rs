//! One daemon runs in a network namespace.

#[path = "../support/mod.rs"]
mod support;

mod lock;
