//! The proxygw daemon.
fn main() {}
