//! Imports run one way: a file imports from modules below its own.

use std::collections::BTreeMap;
use std::path::Path;

/// The top-level modules, from the bottom to the top.
const LAYERS: &str = "ids config system logging vital netlink readiness dataplane engine plugin reactor assemble plugins \
                      doctor daemon";

/// Folders and files of tests, which may import anything.
const TESTS: [&str; 6] = ["test", "simulation", "fuzzing", "samples", "properties", "random"];

/// The code of each module, such as `engine::core::rules`, without comments and tests.
fn modules(folder: &Path, parent: &str, found: &mut BTreeMap<String, String>) {
    for entry in folder.read_dir().expect("a folder") {
        let path = entry.expect("an entry").path();
        let stem = path.file_stem().and_then(|stem| stem.to_str()).expect("a name");
        let name = if parent.is_empty() { stem.to_owned() } else { format!("{parent}::{stem}") };
        if TESTS.iter().any(|test| stem.contains(test)) || stem == "lib" {
            continue;
        }
        if path.is_dir() {
            modules(&path, &name, found);
        } else {
            let text = std::fs::read_to_string(&path).expect("a source file");
            let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default().replace("r#", "");
            let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
            found.insert(name.trim_end_matches("::mod").to_owned(), lines.collect::<Vec<_>>().join("\n"));
        }
    }
}

fn all_modules() -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    modules(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), "", &mut found);
    found
}

#[test]
fn modules_import_from_below() {
    let rank = |module: &str| LAYERS.split(' ').position(|layer| layer == module);
    for (module, code) in all_modules() {
        let own = module.split("::").next().and_then(rank).unwrap_or_else(|| panic!("{module} is in no layer"));
        for path in code.split("crate::").skip(1) {
            let name = path.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
            assert!(rank(name).is_none_or(|layer| layer <= own), "{module} imports {name}, which lies above it");
        }
    }
}
