//! The thread `log`: the only one that waits for the output. It sleeps while no line waits.

use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::output::Output;
use super::queue::{Batch, Queue};

/// `PIPE_BUF`: after `POLLOUT`, a pipe accepts as many bytes at once.
const CHUNK: usize = 4096;

/// Pauses between two attempts to open a FIFO.
const MIN_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// Pause after the output was reported writable and was not.
const RETRY: Duration = Duration::from_millis(10);

pub(super) struct Writer<'q> {
    queue: &'q Queue,
    output: Output,
    pause: Duration,
    /// Lines that were lost and not reported yet.
    lost: u64,
    /// A line was written in part.
    in_line: bool,
}

/// A chunk that could not be written.
struct Lost;

impl Writer<'_> {
    pub(super) fn new(queue: &Queue, output: Output) -> Writer<'_> {
        Writer { queue, output, pause: MIN_PAUSE, lost: 0, in_line: false }
    }

    pub(super) fn run(mut self) {
        loop {
            match self.queue.take() {
                Some(batch) => self.write(&batch),
                None => self.reopen_if_wanted(),
            }
        }
    }

    /// Writes a batch, and the number of lost lines. Lines that the output refuses (a full disk, a closed pipe) are counted as
    /// lost.
    fn write(&mut self, batch: &Batch) {
        let mut rest = &batch.bytes[..];
        while !rest.is_empty() {
            let (chunk, after) = rest.split_at(chunk_of(rest));
            if self.write_chunk(chunk).is_err() {
                self.lost += rest.iter().filter(|byte| **byte == b'\n').count() as u64;
                break;
            }
            rest = after;
        }
        self.lost += batch.dropped;
        if self.lost > 0 && rest.is_empty() {
            let note = super::line(format_args!("WARN  {} log lines dropped: the output was blocked", self.lost));
            if self.write_chunk(note.as_bytes()).is_ok() {
                self.lost = 0;
            }
        }
    }

    /// Writes lines, without a timeout.
    fn write_chunk(&mut self, chunk: &[u8]) -> Result<(), Lost> {
        let mut rest = chunk;
        if std::mem::take(&mut self.in_line) {
            self.write_chunk(b"\n")?;
        }
        while !rest.is_empty() {
            if !self.await_output() {
                // A new file begins with a whole line.
                if self.output.is_open() {
                    rest = chunk;
                }
                continue;
            }
            let Some(fd) = self.output.fd() else { continue };
            match rustix::io::write(fd, &rest[..rest.len().min(CHUNK)]) {
                Ok(written) => {
                    self.pause = MIN_PAUSE;
                    rest = &rest[written..];
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => std::thread::sleep(RETRY),
                Err(Errno::PIPE) if self.output.close_fifo() => rest = chunk,
                Err(_) => {
                    self.in_line = rest.len() < chunk.len();
                    return Err(Lost);
                }
            }
        }
        Ok(())
    }

    /// Waits until the output is writable, without a timeout; false after an attempt to open it again.
    fn await_output(&mut self) -> bool {
        let reopen = self.queue.reopen_fd();
        let mut fds = vec![PollFd::from_borrowed_fd(reopen, PollFlags::IN)];
        fds.extend(self.output.fd().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::OUT)));
        let is_open = fds.len() > 1;
        let timeout = (!is_open).then_some(Timespec { tv_sec: self.pause.as_secs() as i64, tv_nsec: 0 });
        let result = poll(&mut fds, timeout.as_ref());
        let wants_reopen = !fds[0].revents().is_empty();
        let writable = fds.get(1).is_some_and(|fd| !fd.revents().is_empty());
        drop(fds);
        if wants_reopen {
            self.reopen_if_wanted();
        } else if !is_open && result == Ok(0) {
            self.pause = (self.pause * 2).min(MAX_PAUSE);
            self.output.reopen();
        } else if result.is_err_and(|error| error != Errno::INTR) {
            std::thread::sleep(RETRY);
        }
        writable && !wants_reopen
    }

    fn reopen_if_wanted(&mut self) {
        if self.queue.take_reopen() {
            self.output.reopen();
            self.in_line = false;
        }
    }
}

/// Length of the whole lines that are written at once, at least one.
fn chunk_of(lines: &[u8]) -> usize {
    let end_of_line = |bytes: &[u8]| bytes.iter().rposition(|byte| *byte == b'\n').map(|at| at + 1);
    let whole = &lines[..lines.len().min(CHUNK)];
    let first = || lines.iter().position(|byte| *byte == b'\n').map_or(lines.len(), |at| at + 1);
    end_of_line(whole).unwrap_or_else(first)
}
