//! `proxygw doctor`: each finding is provoked, what it says is done, and then it is gone and the client is served.

#[path = "../support/mod.rs"]
mod support;

mod command_line;
mod firewalls;
mod host;
mod table;
mod world;
