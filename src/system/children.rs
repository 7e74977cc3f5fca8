//! Children of this process, and orphans that it adopts.
//!
//! In a container the daemon is often process 1: then each process that loses its parent becomes its child, and stays as a
//! zombie unless it is reaped. [`reap_orphans`] does that, and leaves the children that [`spawn`] started to their callers.

use std::collections::BTreeSet;
use std::io;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::process::{Pid, WaitOptions, getpid, waitpid};

use super::processes;

/// The children that a caller of [`spawn`] waits for.
static OURS: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

fn ours() -> MutexGuard<'static, BTreeSet<u32>> {
    OURS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts a program that the caller will wait for with [`wait`].
///
/// # Errors
/// It could not be started.
pub fn spawn(command: &mut Command) -> io::Result<Child> {
    // Locked meanwhile, so that a child that ends at once does not count as an orphan.
    let mut ours = ours();
    let child = command.spawn()?;
    ours.insert(child.id());
    Ok(child)
}

/// Waits for a child from [`spawn`], and reaps it.
///
/// # Errors
/// The operating system's error.
pub fn wait(child: &mut Child) -> io::Result<ExitStatus> {
    let status = child.wait()?;
    ours().remove(&child.id());
    Ok(status)
}

/// True if orphans of this process namespace become children of this process.
pub fn adopts_orphans() -> bool {
    getpid() == Pid::INIT
}

/// Reaps the dead children that no caller of [`spawn`] waits for.
pub fn reap_orphans() {
    let ours = ours();
    for pid in processes::dead_children_of(getpid()) {
        if !ours.contains(&pid.as_raw_pid().unsigned_abs()) {
            // Its status is of no use.
            let _ = waitpid(Some(pid), WaitOptions::NOHANG);
        }
    }
}
