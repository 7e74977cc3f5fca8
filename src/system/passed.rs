//! Open files that a service manager passes to the process that it starts (sd_listen_fds(3)).
//!
//! With `after_fork`, the only place with unsafe code: Rust has no safe way to take over a descriptor that it did not open.

#![allow(unsafe_code)]

use std::os::fd::{BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::sync::Once;

use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};

/// `SD_LISTEN_FDS_START`: the first passed descriptor.
const FIRST: RawFd = 3;

/// Maximum number of files that are taken over; the unit keeps one.
const MAX: usize = 64;

/// Variables with the number of passed files, their names, and the process that they are for.
pub const VARIABLES: [&str; 3] = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"];

/// Takes over the files that the service manager passed, each with its name, and marks them close-on-exec. Call it before the
/// process opens a file; a second call returns none.
pub fn take_passed() -> Vec<(String, OwnedFd)> {
    static TAKEN: Once = Once::new();
    let mut taken = Vec::new();
    TAKEN.call_once(|| {
        let [pid, count, names] = VARIABLES.map(|name| std::env::var(name).unwrap_or_default());
        let names = names_of(&pid, &count, &names);
        taken = (FIRST..).zip(names).filter_map(|(fd, name)| Some((name, take(fd)?))).collect();
    });
    taken
}

/// The names of the descriptors that are for this process.
fn names_of(pid: &str, count: &str, names: &str) -> Vec<String> {
    let is_ours = pid.parse() == Ok(std::process::id());
    let count = count.parse().ok().filter(|_| is_ours).unwrap_or(0).min(MAX);
    let names = names.split(':').map(str::to_owned);
    names.chain(std::iter::repeat_with(String::new)).take(count).collect()
}

fn take(fd: RawFd) -> Option<OwnedFd> {
    // SAFETY: borrowed for two system calls only, which fail on a number that is not open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    let flags = fcntl_getfd(borrowed).ok()?;
    fcntl_setfd(borrowed, flags | FdFlags::CLOEXEC).ok()?;
    // SAFETY: it is open, and the variables name this process, so it was passed to this process to own. Nothing else in the
    // process owns it: no file is opened before, and `take_passed` gets here once.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_meant_for_this_process_is_taken() {
        let own = std::process::id().to_string();
        assert_eq!(names_of(&own, "2", "a:b"), ["a", "b"]);
        assert_eq!(names_of(&own, "2", "a"), ["a", ""]);
        assert_eq!(names_of(&own, "1", "a:b"), ["a"]);
        assert_eq!(names_of(&own, "18446744073709551615", "").len(), MAX);
        for (pid, count) in [("1", "2"), ("", "2"), (&own, ""), (&own, "-1"), (&own, "x")] {
            assert_eq!(names_of(pid, count, "a:b"), [""; 0], "{pid:?} {count:?}");
        }
    }
}
