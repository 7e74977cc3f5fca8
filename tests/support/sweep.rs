//! Removes what test processes that were killed have left behind.

use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use super::namespace::{FOLDER, Namespace};
use super::temporary;

/// What the names of all namespaces begin with; the process id follows.
const PREFIX: &str = "pgwt-";

/// A new prefix for the names of a lab's namespaces.
pub(super) fn prefix() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let random = RandomState::new().hash_one(0) as u16;
    format!("{PREFIX}{}-{}-{random:04x}-", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Removes namespaces (with the processes in them) and temporary folders of test processes that are no more; once per
/// process.
pub(super) fn sweep() {
    static ONCE: OnceLock<()> = OnceLock::new();
    ONCE.get_or_init(|| {
        for name in leftovers(Path::new(FOLDER), PREFIX) {
            drop(Namespace::adopt(name, Path::new("nft")));
        }
        let folder = std::env::temp_dir();
        for name in leftovers(&folder, temporary::PREFIX) {
            let _ = std::fs::remove_dir_all(folder.join(name));
        }
    });
}

/// The names in a folder that begin with the prefix and the id of a process that is no more.
fn leftovers(folder: &Path, prefix: &str) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| owner(name, prefix).is_some_and(|pid| !Path::new("/proc").join(pid).exists())).collect()
}

/// The process id in a name.
fn owner<'a>(name: &'a str, prefix: &str) -> Option<&'a str> {
    let pid = name.strip_prefix(prefix)?.split('-').next()?;
    (!pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit())).then_some(pid)
}
