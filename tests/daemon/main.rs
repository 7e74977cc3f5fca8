//! The real daemon in network namespaces: each test asserts on the rule set and on what a client sees.

#[path = "../support/mod.rs"]
mod support;

mod flows;
mod lifecycle;
mod routing;
mod setup;
