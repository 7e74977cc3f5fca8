//! The real daemon in network namespaces: each test asserts on the rule set and on what a client sees.

#[path = "../support/mod.rs"]
mod support;

mod commands;
mod control;
mod descriptors;
mod failures;
mod flows;
mod hostile;
mod http;
mod lifecycle;
mod links;
mod ranges;
mod reach;
mod readiness;
mod routing;
mod services;
mod setup;
mod shape;
mod silent;
mod socket_file;
mod tamper;
mod threads;
mod udp;
