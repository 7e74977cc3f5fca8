//! One program for all fuzz targets; `PROXYGW_FUZZ_TARGET` names the one that runs. Started by contrib/fuzz.

#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use proxygw::fuzzing::{TARGETS, Target};

static TARGET: OnceLock<Target> = OnceLock::new();

fuzz_target!(
    init: {
        let name = std::env::var("PROXYGW_FUZZ_TARGET").expect("PROXYGW_FUZZ_TARGET names a target");
        let found = TARGETS.iter().find(|(target, _)| *target == name);
        let (_, target) = found.unwrap_or_else(|| panic!("there is no target {name}"));
        TARGET.get_or_init(|| *target);
    },
    |data: &[u8]| {
        if let Some(target) = TARGET.get() {
            target(data);
        }
    }
);
