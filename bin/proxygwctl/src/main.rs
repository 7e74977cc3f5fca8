//! The proxygw control client.
fn main() {}
