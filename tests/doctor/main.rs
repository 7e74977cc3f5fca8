//! `proxygw doctor`: each problem is created, found and fixed, and then the client is served.

#[path = "../support/mod.rs"]
mod support;

mod command_line;
mod firewalls;
mod host;
mod table;
mod world;
