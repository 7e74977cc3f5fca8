//! Our children, and those that become ours.
//!
//! In a container the daemon is often process 1: then whatever loses its parent becomes its child, and stays as a zombie
//! unless it is reaped. [`reap_strangers`] does that, and leaves alone the children that [`spawn`] has started: whoever
//! started them waits for them.

use std::collections::BTreeSet;
use std::io;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::process::{Pid, WaitOptions, getpid, waitpid};

use super::processes;

/// The children that somebody waits for.
static OURS: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

fn ours() -> MutexGuard<'static, BTreeSet<u32>> {
    OURS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts a program that the caller will wait for with [`wait`].
///
/// # Errors
/// It could not be started.
pub fn spawn(command: &mut Command) -> io::Result<Child> {
    // Held meanwhile, so that a child that ends at once is not taken for a stranger.
    let mut ours = ours();
    let child = command.spawn()?;
    ours.insert(child.id());
    Ok(child)
}

/// Waits for a child from [`spawn`], and reaps it.
///
/// # Errors
/// What the operating system said.
pub fn wait(child: &mut Child) -> io::Result<ExitStatus> {
    let status = child.wait()?;
    ours().remove(&child.id());
    Ok(status)
}

/// Whether orphans of this process namespace become our children.
pub fn adopts_orphans() -> bool {
    getpid() == Pid::INIT
}

/// Reaps the dead children that nobody waits for.
pub fn reap_strangers() {
    let ours = ours();
    for pid in processes::dead_children_of(getpid()) {
        if !ours.contains(&pid.as_raw_pid().unsigned_abs()) {
            // Nobody is interested in how it ended.
            let _ = waitpid(Some(pid), WaitOptions::NOHANG);
        }
    }
}
