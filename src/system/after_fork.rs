//! What a command's process does between fork and exec: the one place with unsafe code.

#![allow(unsafe_code)]

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use rustix::process::{Pid, Resource, Rlimit, Signal, getpid, getppid, set_parent_process_death_signal, setrlimit};

/// Makes the command's process die with the thread that starts it, and gives it `files` as its limit of open files where
/// ours was raised.
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
    // The parent may have died before the signal was asked for.
    if getppid() != Some(us) {
        return Err(io::Error::from_raw_os_error(rustix::io::Errno::SRCH.raw_os_error()));
    }
    Ok(())
}
