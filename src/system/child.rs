//! A helper program, run to its end: bounded in time, and in what is kept of its words.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::children;

/// What is kept of a program's standard error; the rest is read and thrown away.
const MOST_WORDS: usize = 4096;

/// Longest time until a deadline that has moved is noticed. What is run ends much sooner, as a rule.
const RECHECK: Duration = Duration::from_millis(100);

/// How a program has ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit status.
    pub status: ExitStatus,
    /// Its standard output, if it was asked for.
    pub stdout: Vec<u8>,
    /// The beginning of its standard error.
    pub stderr: Vec<u8>,
}

/// Runs a program, calls `started` with its process id, gives it `input`, and collects its standard error. Its standard
/// output goes nowhere. `deadline` is queried again while the program runs: it may move.
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
/// As for [`run_with_input`]; and the output is longer than `most` bytes (the program has been killed).
pub fn run_for_output(command: &mut Command, most: usize, deadline: Instant) -> io::Result<Ended> {
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    run(command, b"", most, &|| deadline, &mut |_| {})
}

fn run(
    command: &mut Command,
    input: &[u8],
    most: usize,
    deadline: &dyn Fn() -> Instant,
    started: &mut dyn FnMut(u32),
) -> io::Result<Ended> {
    let mut child = children::spawn(command.stderr(Stdio::piped()))?;
    started(child.id());
    let result = converse(&mut child, input, most, deadline);
    if result.is_err() {
        // It may have ended already, which is as good.
        let _ = child.kill();
        let _ = children::wait(&mut child);
    }
    result
}

fn converse(child: &mut Child, mut input: &[u8], most: usize, deadline: &dyn Fn() -> Instant) -> io::Result<Ended> {
    let pidfd = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    let mut stdin = child.stdin.take();
    let mut stdout = child.stdout.take();
    let mut stderr = child.stderr.take();
    let fds = [stdin.as_ref().map(AsFd::as_fd), stdout.as_ref().map(AsFd::as_fd), stderr.as_ref().map(AsFd::as_fd)];
    for fd in fds.into_iter().flatten() {
        fcntl_setfl(fd, fcntl_getfl(fd)? | OFlags::NONBLOCK)?;
    }
    let mut output = Vec::new();
    let mut words = Vec::new();
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
        if let Some(fd) = &stdin
            && write_some(fd.as_fd(), &mut input)?
        {
            stdin = None;
        }
        if let Some(fd) = &stdout
            && read_some(fd.as_fd(), &mut output, most + 1)?
        {
            stdout = None;
        }
        if output.len() > most {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it says more than {most} bytes")));
        }
        if let Some(fd) = &stderr
            && read_some(fd.as_fd(), &mut words, MOST_WORDS)?
        {
            stderr = None;
        }
        if ended {
            return Ok(Ended { status: children::wait(child)?, stdout: output, stderr: words });
        }
    }
}

/// Writes what fits; true when all is written, or nobody reads it any more.
fn write_some(fd: BorrowedFd<'_>, input: &mut &[u8]) -> io::Result<bool> {
    while !input.is_empty() {
        match rustix::io::write(fd, input) {
            Ok(written) => *input = &input[written..],
            Err(Errno::AGAIN) => return Ok(false),
            Err(Errno::INTR) => {}
            Err(Errno::PIPE) => return Ok(true),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(true)
}

/// Reads what is there, and keeps `most` bytes of it; true at the end.
fn read_some(fd: BorrowedFd<'_>, words: &mut Vec<u8>, most: usize) -> io::Result<bool> {
    let mut buffer = [0; 4096];
    loop {
        match rustix::io::read(fd, &mut buffer) {
            Ok(0) => return Ok(true),
            Ok(read) => words.extend_from_slice(&buffer[..read.min(most.saturating_sub(words.len()))]),
            Err(Errno::AGAIN) => return Ok(false),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
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
        assert_eq!(ended.stderr.len(), MOST_WORDS);
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
        let run = |most| {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", "head -c 300000 /dev/zero; echo no >&2"]);
            run_for_output(&mut command, most, Instant::now() + Duration::from_secs(30))
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
