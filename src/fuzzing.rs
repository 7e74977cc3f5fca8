//! Entry points for `contrib/fuzz`: one function for each parser of data that comes from outside.
//!
//! Each function takes any bytes and panics if a property does not hold: nothing panics on the way, what was decoded can
//! be encoded again, and what is sent is well formed. This module exists under `cfg(fuzzing)` only, and in unit tests,
//! which replay the seeds of `tests/fuzz/seeds/`, among them every input that once failed.

pub use crate::assemble::fuzzing::config;
pub use crate::dataplane::hold::fuzzing::packet;
pub use crate::doctor::firewall::fuzzing::listing;
pub use crate::netlink::fuzzing::netlink;
pub use crate::plugins::ctl::wire::fuzzing::{cbor, json};
pub use crate::plugins::r#static::http::fuzzing::http;

/// A fuzz target.
pub type Target = fn(&[u8]);

/// Every target with its name, which is that of its folder of seeds.
pub const TARGETS: [(&str, Target); 7] = [
    ("cbor", cbor),
    ("config", config),
    ("http", http),
    ("json", json),
    ("listing", listing),
    ("netlink", netlink),
    ("packet", packet),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::TARGETS;

    /// Seeds, and what they become when they are cut short or a byte of them is changed.
    #[test]
    fn seeds_hold_their_properties() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/seeds");
        let names = std::fs::read_dir(&folder).expect("the seeds").map(|entry| entry.expect("a folder").file_name());
        let names: BTreeSet<_> = names.map(|name| name.into_string().expect("a name")).collect();
        assert_eq!(names, TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect());
        for (name, target) in TARGETS {
            for entry in std::fs::read_dir(folder.join(name)).expect("the seeds of a target") {
                let path = entry.expect("a seed").path();
                let seed = std::fs::read(&path).expect("a seed");
                let result = std::panic::catch_unwind(|| {
                    target(&seed);
                    let step = (seed.len() / 64).max(1);
                    for at in (0..seed.len()).step_by(step) {
                        target(&seed[..at]);
                        let mut changed = seed.clone();
                        changed[at] = changed[at].wrapping_add(1 << (at % 8));
                        target(&changed);
                    }
                });
                assert!(result.is_ok(), "{}", path.display());
            }
        }
    }
}
