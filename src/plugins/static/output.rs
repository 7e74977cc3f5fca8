//! What a command prints, on its way to the log: line by line, with the target's name, and bounded.

use std::io::{self, PipeReader, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

/// A longer line is cut.
const LONGEST_LINE: usize = 1024;

/// How many lines may come at once before some are left out…
const BURST: u32 = 500;

/// …and how many of them come back per second.
const PER_SECOND: u32 = 100;

/// How much is read at once.
const PER_READ: usize = 64 * 1024;

/// How long a command that prints too much waits for its next read: it costs little then, and it slows itself down.
const HUSH: Duration = Duration::from_millis(10);

/// The reading end of a command's standard output and standard error.
pub(super) struct Output {
    /// `None` once the command has closed it.
    pipe: Option<PipeReader>,
    line: Vec<u8>,
    last: Option<String>,
    tokens: u32,
    refilled: Instant,
    left_out: u64,
    hushed_until: Option<Instant>,
}

impl Output {
    pub(super) fn new(pipe: PipeReader) -> io::Result<Output> {
        fcntl_setfl(&pipe, fcntl_getfl(&pipe)? | OFlags::NONBLOCK)?;
        Ok(Output {
            pipe: Some(pipe),
            line: Vec::new(),
            last: None,
            tokens: BURST,
            refilled: Instant::now(),
            left_out: 0,
            hushed_until: None,
        })
    }

    /// What to wait for, if there is anything to be read now.
    pub(super) fn readable(&self) -> Option<BorrowedFd<'_>> {
        let hushed = self.hushed_until.is_some_and(|until| until > Instant::now());
        self.pipe.as_ref().filter(|_| !hushed).map(AsFd::as_fd)
    }

    /// When reading goes on, if it has been put off.
    pub(super) fn resumes(&self) -> Option<Instant> {
        self.hushed_until.filter(|until| self.pipe.is_some() && *until > Instant::now())
    }

    /// The last line that was not empty.
    pub(super) fn last_line(&self) -> Option<&str> {
        self.last.as_deref()
    }

    /// Reads what is there, once.
    pub(super) fn take(&mut self, name: &str) {
        let Some(pipe) = &mut self.pipe else { return };
        let mut buffer = vec![0; PER_READ];
        match pipe.read(&mut buffer) {
            Ok(0) => self.pipe = None,
            Ok(read) => {
                let before = self.left_out;
                buffer[..read].iter().for_each(|byte| self.byte(*byte, name));
                self.hushed_until = (self.left_out > before || read == PER_READ).then(|| Instant::now() + HUSH);
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => {
                log::warn!("target {name}: cannot read its output: {error}");
                self.pipe = None;
            }
        }
    }

    /// The command is gone: what it printed last, and what was left out.
    pub(super) fn end(&mut self, name: &str) {
        self.take(name);
        self.pipe = None;
        if !self.line.is_empty() {
            self.finish_line(name);
        }
        self.tell_left_out(name);
    }

    fn byte(&mut self, byte: u8, name: &str) {
        if byte == b'\n' {
            self.finish_line(name);
        } else if self.line.len() <= LONGEST_LINE {
            self.line.push(byte);
        }
    }

    fn finish_line(&mut self, name: &str) {
        let line = readable(&self.line);
        self.line.clear();
        if line.is_empty() {
            return;
        }
        let gained = (self.refilled.elapsed().as_millis() * u128::from(PER_SECOND) / 1000).min(BURST.into()) as u32;
        if gained > 0 {
            self.refilled = Instant::now();
            self.tokens = (self.tokens + gained).min(BURST);
        }
        if self.tokens == 0 {
            self.left_out += 1;
        } else {
            self.tell_left_out(name);
            self.tokens = self.tokens.saturating_sub(1);
            log::info!("target {name}: | {line}");
        }
        self.last = Some(line);
    }

    fn tell_left_out(&mut self, name: &str) {
        if self.left_out > 0 {
            log::info!("target {name}: | … {} lines left out", self.left_out);
            self.left_out = 0;
        }
    }
}

/// A line as it may stand in a log: UTF-8, without control characters, cut where it is too long.
fn readable(line: &[u8]) -> String {
    let cut = line.len() > LONGEST_LINE;
    let text = String::from_utf8_lossy(&line[..line.len().min(LONGEST_LINE)]);
    let mut clean: String =
        text.trim_end().chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect();
    if cut {
        clean.push('…');
    }
    clean
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_line_is_cut_and_made_readable() {
        assert_eq!(readable(b"plain\r"), "plain");
        assert_eq!(readable(b"\x1b[31mred\xff\t."), "\u{fffd}[31mred\u{fffd}\t.");
        assert_eq!(readable(&[b'x'; 5000]).chars().count(), LONGEST_LINE + 1);
    }

    #[test]
    fn a_flood_is_left_out_and_counted() {
        let (read, mut write) = io::pipe().expect("a pipe");
        let mut output = Output::new(read).expect("an output");
        let lines = PER_READ / 8;
        write.write_all("7 bytes\n".repeat(lines).as_bytes()).expect("it fits");
        output.take("t");
        assert!(output.left_out > 0 && output.left_out <= (lines as u64 - u64::from(BURST)));
        assert!(output.resumes().is_some() && output.readable().is_none());
        drop(write);
        output.end("t");
        assert_eq!(output.last_line(), Some("7 bytes"));
    }
}
