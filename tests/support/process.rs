//! A process with its whole group, and what it prints.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// How many of the newest lines are kept.
const LINES: usize = 10_000;

/// How much of one line is kept.
const LINE: u64 = 16 * 1024;

/// A running process. On drop, its whole process group is killed and it is waited for.
#[derive(Debug)]
pub struct Process {
    child: Child,
    output: Arc<Output>,
    readers: Vec<JoinHandle<()>>,
    status: Option<ExitStatus>,
}

impl Process {
    /// Starts a command as the leader of a process group of its own; what it prints is captured.
    #[track_caller]
    pub fn start(mut command: Command) -> Process {
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let output = Arc::new(Output::default());
        let stdout = read(child.stdout.take().expect("piped"), &output);
        let stderr = read(child.stderr.take().expect("piped"), &output);
        Process { child, output, readers: vec![stdout, stderr], status: None }
    }

    /// Its process id, which is also its group's.
    pub fn pid(&self) -> i32 {
        self.child.id().try_into().expect("a process id")
    }

    fn target(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Sends a signal to the process alone.
    pub fn signal(&mut self, signal: Signal) {
        // Once it has been waited for, its id may be another's.
        if self.try_wait().is_none() {
            let _ = kill_process(self.target(), signal);
        }
    }

    /// Its exit status, if it has ended.
    pub fn try_wait(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().expect("a child of ours");
        }
        self.status
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If it has not ended within `timeout`, with what it printed.
    #[track_caller]
    pub fn wait(&mut self, timeout: Duration) -> ExitStatus {
        let until = Instant::now() + timeout;
        loop {
            if let Some(status) = self.try_wait() {
                return status;
            }
            assert!(Instant::now() < until, "still running after {timeout:?}:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// What it has printed so far, stdout and stderr together, line by line; the newest 10,000 lines.
    pub fn log(&self) -> String {
        let lines = self.output.lock();
        lines.kept.iter().map(|line| format!("{line}\n")).collect()
    }

    /// How many lines it has printed so far.
    pub fn lines(&self) -> usize {
        self.output.lock().count
    }

    /// Waits until it has printed a line that contains `text`, and returns the first such line.
    ///
    /// # Panics
    /// If there is none within `timeout`, with what it printed.
    #[track_caller]
    pub fn await_line(&self, text: &str, timeout: Duration) -> String {
        self.await_line_after(0, text, timeout)
    }

    /// Like [`Process::await_line`], but passes over the first `after` lines, for instance those of [`Process::lines`].
    #[track_caller]
    pub fn await_line_after(&self, after: usize, text: &str, timeout: Duration) -> String {
        let until = Instant::now() + timeout;
        let mut lines = self.output.lock();
        loop {
            let dropped = lines.count - lines.kept.len();
            if let Some(line) = lines.kept.iter().skip(after.saturating_sub(dropped)).find(|line| line.contains(text)) {
                return line.clone();
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                drop(lines);
                panic!("no line with {text:?} within {timeout:?}:\n{}", self.log());
            }
            lines = self.output.grown.wait_timeout(lines, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Ends the process group with SIGKILL and waits for the process.
    pub fn kill(&mut self) -> ExitStatus {
        // The leader is still ours to wait for, or a zombie: its id cannot be another's. If it has been waited for,
        // members of the group may live on, and as long as they do, the id stays the group's.
        let _ = kill_process_group(self.target(), Signal::KILL);
        let status = self.child.wait().expect("a child of ours");
        *self.status.insert(status)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        // A process outside the group could hold the pipes open, so the readers are not waited for in vain.
        for reader in self.readers.drain(..) {
            if reader.is_finished() {
                let _ = reader.join();
            }
        }
    }
}

#[derive(Debug, Default)]
struct Output {
    lines: Mutex<Lines>,
    grown: Condvar,
}

#[derive(Debug, Default)]
struct Lines {
    kept: VecDeque<String>,
    /// Of all lines, also of those that are no longer kept.
    count: usize,
}

impl Output {
    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads lines until the end, in a thread of its own.
fn read(pipe: impl Read + Send + 'static, output: &Arc<Output>) -> JoinHandle<()> {
    let output = Arc::clone(output);
    std::thread::spawn(move || {
        let mut pipe = BufReader::new(pipe);
        loop {
            let mut line = Vec::new();
            match pipe.by_ref().take(LINE).read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
            let mut lines = output.lock();
            if lines.kept.len() == LINES {
                lines.kept.pop_front();
            }
            lines.kept.push_back(String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned());
            lines.count += 1;
            output.grown.notify_all();
        }
    })
}
