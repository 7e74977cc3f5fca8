//! The configuration as the daemon reads it: with its own plugins.

#![allow(dead_code, reason = "each test uses some of it")]

use proxygw::assemble::{self, Setup};
use proxygw::plugin::Registry;
use proxygw::plugins::{ctl, packet, r#static};

/// Reads a text; the file is called `f`.
pub fn parse(text: &str) -> Result<Setup, String> {
    assemble::parse("f", text, &mut registry()).map_err(|error| error.to_string())
}

/// The plugins that every build has.
pub fn registry() -> Registry {
    let mut registry = Registry::default();
    registry.add("ctl", ctl::plugin());
    registry.add("static", r#static::plugin());
    registry.add("packet", packet::plugin());
    registry
}
