//! The limit of open files: a frontend with a listener of its own needs a descriptor.

use std::sync::OnceLock;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What the soft limit was before it was raised.
static ORIGINAL: OnceLock<Rlimit> = OnceLock::new();

/// Raises the soft limit of open files to the hard one. Commands get the original limit back.
pub fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    ORIGINAL.get_or_init(|| limit);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        log::warn!("cannot raise the limit of open files: {error}");
    }
}

/// The limit before [`raise_limit`], if it was called.
pub fn original_limit() -> Option<Rlimit> {
    ORIGINAL.get().copied()
}
