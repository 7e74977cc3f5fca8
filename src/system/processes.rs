//! Finds and ends the processes of a command, in any process group.
//!
//! A command's processes are known by their process group, and by a variable in their environment that children inherit.
//! The variable finds those that left the group (daemons do), and those that a crashed daemon left behind: nothing needs to
//! be recorded elsewhere, because the record is in the processes themselves.

use std::io;
use std::os::fd::AsFd;
use std::os::linux::fs::MetadataExt;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open, pidfd_send_signal};

/// The variable that marks a command's processes. Its value is [`Mark`]'s text.
pub const VARIABLE: &str = "PROXYGW_RUN";

/// Maximum number of bytes that are read of a process's environment; the variable comes early in it.
const MAX_ENVIRONMENT: u64 = 256 * 1024;

/// Timeout for the end of killed processes.
const KILLED: Duration = Duration::from_secs(2);

/// Mark of a command's processes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// `NAMESPACE.` for all commands of a network namespace, or `NAMESPACE.DAEMON.RUN` for one run.
    text: String,
}

impl Mark {
    /// The commands of any daemon in this network namespace.
    ///
    /// # Errors
    /// There is no `/proc`.
    pub fn of_namespace() -> io::Result<Mark> {
        Ok(Mark { text: format!("{}.", std::fs::metadata("/proc/self/ns/net")?.st_ino()) })
    }

    /// One run of one command of this daemon.
    pub fn of_run(&self, run: u64) -> Mark {
        Mark { text: format!("{}{}.{run}", self.text, std::process::id()) }
    }

    /// The variable's value.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// True if a process's environment has the mark.
    fn is_in(&self, environment: &[u8]) -> bool {
        environment.split(|byte| *byte == 0).any(|variable| {
            let value = variable.strip_prefix(VARIABLE.as_bytes()).and_then(|rest| rest.strip_prefix(b"="));
            let rest = value.and_then(|value| value.strip_prefix(self.text.as_bytes()));
            rest.is_some_and(|rest| self.text.ends_with('.') || rest.is_empty())
        })
    }
}

/// The living processes that have the mark, or are in the process group; never this process or one of its ancestors.
///
/// # Errors
/// There is no `/proc`, or it cannot be read for lack of descriptors or memory.
pub fn find(mark: &Mark, group: Option<Pid>) -> io::Result<Vec<Pid>> {
    let ours = ancestors()?;
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| Pid::from_raw(name.parse().ok()?)) else {
            continue;
        };
        let Some(stat) = Stat::of(pid)? else { continue };
        if stat.alive && belongs(pid, &stat, mark, group)? && !ours.contains(&pid) {
            found.push(pid);
        }
    }
    Ok(found)
}

/// Sends a signal to each marked process. A group's leader must not have been reaped, so that its
/// number is still the group's.
///
/// # Errors
/// As for [`find`]. The processes of the group got the signal anyway: that needs no descriptor.
pub fn signal(mark: &Mark, group: Option<Pid>, signal: Signal) -> io::Result<usize> {
    let sent = try_signal(mark, group, signal);
    if let (Err(_), Some(group)) = (&sent, group) {
        // It fails if none of them is left.
        let _ = kill_process_group(group, signal);
    }
    sent
}

fn try_signal(mark: &Mark, group: Option<Pid>, signal: Signal) -> io::Result<usize> {
    let found = find(mark, group)?;
    for pid in &found {
        // The descriptor holds the process: what is checked now is what is signalled.
        if let Some(pidfd) = present(pidfd_open(*pid, PidfdFlags::empty()).map_err(io::Error::from))?
            && let Some(stat) = Stat::of(*pid)?
            && belongs(*pid, &stat, mark, group)?
        {
            // It fails if the process has ended meanwhile.
            let _ = pidfd_send_signal(pidfd.as_fd(), signal);
        }
    }
    Ok(found.len())
}

/// Kills the marked processes until none is left; returns their number.
///
/// # Errors
/// As for [`signal`], for two seconds; or some survive.
pub fn kill_all(mark: &Mark, group: Option<Pid>) -> io::Result<usize> {
    let deadline = Instant::now() + KILLED;
    let mut first = None;
    let mut pause = Duration::from_millis(1);
    loop {
        let killed = signal(mark, group, Signal::KILL);
        match killed {
            Ok(0) => return Ok(first.unwrap_or(0)),
            Ok(left) if Instant::now() >= deadline => {
                return Err(io::Error::other(format!("{left} processes survived SIGKILL")));
            }
            Ok(left) => _ = first.get_or_insert(left),
            Err(error) if Instant::now() >= deadline => return Err(error),
            // The shortage may pass.
            Err(_) => {}
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// The children of a process that have ended and wait to be reaped.
pub(super) fn dead_children_of(parent: Pid) -> Vec<Pid> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?));
    let dead = |stat: &Stat| !stat.alive && stat.parent == parent.as_raw_pid();
    pids.filter(|pid| matches!(Stat::of(*pid), Ok(Some(stat)) if dead(&stat))).collect()
}

fn belongs(pid: Pid, stat: &Stat, mark: &Mark, group: Option<Pid>) -> io::Result<bool> {
    Ok(group.is_some_and(|group| stat.group == group.as_raw_pid()) || has_mark(pid, mark)?)
}

fn has_mark(pid: Pid, mark: &Mark) -> io::Result<bool> {
    use std::io::Read as _;
    let mut environment = Vec::new();
    let read = std::fs::File::open(format!("/proc/{}/environ", pid.as_raw_pid()))
        .and_then(|file| file.take(MAX_ENVIRONMENT).read_to_end(&mut environment));
    Ok(present(read)?.is_some_and(|_| mark.is_in(&environment)))
}

/// `None` for a process that has ended, or that belongs to another user.
///
/// # Errors
/// Nothing is known about it: no descriptor or no memory is left.
fn present<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM)) => {
            Err(error)
        }
        result => Ok(result.ok()),
    }
}

/// The fields of `/proc/PID/stat` that are used here (proc_pid_stat(5)).
struct Stat {
    alive: bool,
    parent: i32,
    group: i32,
}

impl Stat {
    fn of(pid: Pid) -> io::Result<Option<Stat>> {
        let stat = present(std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_pid())))?;
        Ok(stat.and_then(|stat| Stat::parse(&stat)))
    }

    fn parse(stat: &str) -> Option<Stat> {
        // The name, in parentheses, can contain anything.
        let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_whitespace();
        let state = fields.next()?;
        let alive = !matches!(state, "Z" | "X");
        Some(Stat { alive, parent: fields.next()?.parse().ok()?, group: fields.next()?.parse().ok()? })
    }
}

/// This process, its parent, and their ancestors.
fn ancestors() -> io::Result<Vec<Pid>> {
    let mut all = Vec::new();
    let mut next = Some(rustix::process::getpid());
    while let Some(pid) = next
        && !all.contains(&pid)
    {
        all.push(pid);
        next = Stat::of(pid)?.and_then(|stat| Pid::from_raw(stat.parent));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_matches_its_own_run_and_a_namespace_all_of_its_runs() {
        let namespace = Mark { text: "4026531840.".to_owned() };
        let run = Mark { text: "4026531840.77.1".to_owned() };
        let environment = b"HOME=/\0PROXYGW_RUN=4026531840.77.1\0X=";
        assert!(namespace.is_in(environment) && run.is_in(environment));
        for other in
            [&b"PROXYGW_RUN=4026531840.77.12"[..], b"PROXYGW_RUN=402653184.77.1", b"XPROXYGW_RUN=4026531840.77.1", b""]
        {
            assert!(!run.is_in(other), "{:?}", String::from_utf8_lossy(other));
        }
        assert!(namespace.is_in(b"PROXYGW_RUN=4026531840.77.12"));
        assert!(!namespace.is_in(b"PROXYGW_RUN=40265318401.77.12"));
    }
}
