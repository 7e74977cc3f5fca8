//! Runs of a helper program, bounded in time and in the output that is kept.

use std::io;
use std::os::fd::AsFd;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::children;

/// Maximum number of bytes of a program's standard error that are kept; the rest is discarded.
const MAX_STDERR: usize = 4096;

/// Maximum time until a moved deadline is noticed. Most programs end much sooner.
const RECHECK: Duration = Duration::from_millis(100);

/// Result of a run.
#[derive(Debug)]
pub struct Ended {
    /// The exit status.
    pub status: ExitStatus,
    /// The standard output, from [`run_for_output`].
    pub stdout: Vec<u8>,
    /// The beginning of the standard error.
    pub stderr: Vec<u8>,
}

/// Runs a program, calls `started` with its process id, writes `input` to it, and collects its standard error. Its standard
/// output is discarded. `deadline` is queried again while the program runs: it may move.
///
/// # Errors
/// The program could not be started, or had not ended by `deadline` (then it has been killed).
pub fn run_with_input(
    command: &mut Command,
    input: &[u8],
    deadline: &dyn Fn() -> Instant,
    started: &mut dyn FnMut(u32),
) -> io::Result<Ended> {
    command.stdin(Stdio::piped()).stdout(Stdio::null());
    run(command, input, 0, deadline, started)
}

/// Runs a program without input, and collects its standard output and error.
///
/// # Errors
/// As for [`run_with_input`]; and the output is longer than `max` bytes (the program has been killed).
pub fn run_for_output(command: &mut Command, max: usize, deadline: Instant) -> io::Result<Ended> {
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    run(command, b"", max, &|| deadline, &mut |_| {})
}

fn run(
    command: &mut Command,
    input: &[u8],
    max: usize,
    deadline: &dyn Fn() -> Instant,
    started: &mut dyn FnMut(u32),
) -> io::Result<Ended> {
    let mut child = children::spawn(command.stderr(Stdio::piped()))?;
    started(child.id());
    let result = converse(&mut child, input, max, deadline);
    if result.is_err() {
        // It may have ended already.
        let _ = child.kill();
        let _ = children::wait(&mut child);
    }
    result
}

fn converse(child: &mut Child, mut input: &[u8], max: usize, deadline: &dyn Fn() -> Instant) -> io::Result<Ended> {
    let pidfd = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    let (mut stdin, mut stdout, mut stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let fds = [stdin.as_ref().map(AsFd::as_fd), stdout.as_ref().map(AsFd::as_fd), stderr.as_ref().map(AsFd::as_fd)];
    for fd in fds.into_iter().flatten() {
        fcntl_setfl(fd, fcntl_getfl(fd)? | OFlags::NONBLOCK)?;
    }
    let (mut output, mut errors) = (Vec::new(), Vec::new());
    loop {
        let left = deadline().saturating_duration_since(Instant::now()).min(RECHECK);
        if left.is_zero() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "it did not end in time"));
        }
        let mut fds = vec![PollFd::new(&pidfd, PollFlags::IN)];
        fds.extend(stdin.as_ref().map(|fd| PollFd::new(fd, PollFlags::OUT)));
        fds.extend(stdout.as_ref().map(|fd| PollFd::new(fd, PollFlags::IN)));
        fds.extend(stderr.as_ref().map(|fd| PollFd::new(fd, PollFlags::IN)));
        let timeout = Timespec { tv_sec: left.as_secs() as _, tv_nsec: left.subsec_nanos().into() };
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ended = !fds[0].revents().is_empty();
        write_some(&mut stdin, &mut input)?;
        read_some(&mut stdout, &mut output, max + 1)?;
        if output.len() > max {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("its output exceeds {max} bytes")));
        }
        read_some(&mut stderr, &mut errors, MAX_STDERR)?;
        if ended {
            return Ok(Ended { status: children::wait(child)?, stdout: output, stderr: errors });
        }
    }
}

/// Writes what fits. Closes the pipe once all is written, or its reader is gone.
fn write_some(pipe: &mut Option<ChildStdin>, input: &mut &[u8]) -> io::Result<()> {
    while let Some(fd) = pipe {
        match if input.is_empty() { Err(Errno::PIPE) } else { rustix::io::write(fd, input) } {
            Ok(written) => *input = &input[written..],
            Err(Errno::AGAIN) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(Errno::PIPE) => *pipe = None,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Reads what waits, and keeps up to `max` bytes in total. Closes the pipe at its end.
fn read_some(pipe: &mut Option<impl AsFd>, kept: &mut Vec<u8>, max: usize) -> io::Result<()> {
    let mut buffer = [0; 4096];
    while let Some(fd) = pipe {
        match rustix::io::read(fd, &mut buffer) {
            Ok(0) => *pipe = None,
            Ok(read) => kept.extend_from_slice(&buffer[..read.min(max.saturating_sub(kept.len()))]),
            Err(Errno::AGAIN) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn run(script: &str, input: &[u8], within: Duration) -> io::Result<Ended> {
        let until = Instant::now() + within;
        run_with_input(Command::new("/bin/sh").args(["-c", script]), input, &|| until, &mut |_| {})
    }

    #[test]
    fn large_inputs_and_large_outputs_do_not_deadlock() {
        let input = vec![b'x'; 1 << 20];
        let script = "head -c 300000 /dev/zero >&2; test $(wc -c) = 1048576";
        let ended = run(script, &input, Duration::from_secs(30)).expect("it runs");
        assert!(ended.status.success());
        assert_eq!(ended.stderr.len(), MAX_STDERR);
    }

    #[test]
    fn a_program_that_does_not_read_or_closes_its_error_is_waited_for() {
        let input = vec![b'x'; 1 << 20];
        assert!(
            run("exec 2>&- <&-; exit 3", &input, Duration::from_secs(30)).is_ok_and(|e| e.status.code() == Some(3))
        );
    }

    #[test]
    fn an_output_is_collected_or_too_long() {
        let run = |max| {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", "head -c 300000 /dev/zero; echo no >&2"]);
            run_for_output(&mut command, max, Instant::now() + Duration::from_secs(30))
        };
        let ended = run(300_000).expect("it fits");
        assert_eq!((ended.stdout.len(), ended.stderr.as_slice()), (300_000, &b"no\n"[..]));
        assert_eq!(run(299_999).expect_err("it does not").kind(), io::ErrorKind::FileTooLarge);
    }

    #[test]
    fn a_program_that_hangs_is_killed() {
        let error = run("exec sleep 1000", b"", Duration::from_millis(50)).expect_err("it is too slow");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
