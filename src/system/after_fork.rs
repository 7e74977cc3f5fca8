//! Code that a command's process runs between fork and exec: with `passed`, the only place with unsafe code.

#![allow(unsafe_code)]

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use rustix::process::{Pid, Resource, Rlimit, Signal, getpid, getppid, set_parent_process_death_signal, setrlimit};

/// Lets the command's process die with the thread that starts it, and sets its limit of open files to `files`, where this
/// process has raised its own.
///
/// The signal is tied to the starting *thread*, and is not inherited by the command's own children.
pub fn bind_to_us(command: &mut Command, files: Option<Rlimit>) {
    let us = getpid();
    let prepare = move || prepare(us, files);
    // SAFETY: between fork and exec only async-signal-safe functions may be called, and nothing may be allocated. The
    // closure makes four system calls through rustix, which are plain system calls without locks or allocation; an error
    // is returned as a bare error number.
    unsafe {
        command.pre_exec(prepare);
    }
}

fn prepare(us: Pid, files: Option<Rlimit>) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    if let Some(files) = files {
        setrlimit(Resource::Nofile, files)?;
    }
    // The parent may have died before the signal was set.
    if getppid() != Some(us) {
        return Err(io::Error::from_raw_os_error(rustix::io::Errno::SRCH.raw_os_error()));
    }
    Ok(())
}
