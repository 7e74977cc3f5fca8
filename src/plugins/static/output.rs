//! Output of a command on its way to the log: line by line, with the target's name, at a bounded rate.

use std::io::{self, PipeReader, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

/// Maximum length of a line. The rest of a longer one is cut off.
const MAX_LINE: usize = 1024;

/// Number of lines that may come at once before further ones are dropped.
const BURST: u32 = 500;

/// Number of lines per second after a burst.
const PER_SECOND: u32 = 100;

/// Bytes read at once.
const PER_READ: usize = 64 * 1024;

/// Time between reads from a command that prints too much. It costs little then, and the full pipe slows it down.
const THROTTLE: Duration = Duration::from_millis(10);

/// The reading end of a command's standard output and standard error.
pub(super) struct Output {
    /// `None` once the command has closed it.
    pipe: Option<PipeReader>,
    line: Vec<u8>,
    last: Option<String>,
    rate: Rate,
    dropped: u64,
    throttled_until: Option<Instant>,
}

/// Token bucket of lines.
struct Rate {
    tokens: u32,
    refilled: Instant,
}

impl Rate {
    /// Takes a token. Returns false if there is none.
    fn take(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.refilled).as_millis();
        let gained = (passed * u128::from(PER_SECOND) / 1000).min(BURST.into()) as u32;
        if gained > 0 {
            self.refilled = now;
            self.tokens = (self.tokens + gained).min(BURST);
        }
        let taken = self.tokens.checked_sub(1);
        self.tokens = taken.unwrap_or(0);
        taken.is_some()
    }
}

impl Output {
    pub(super) fn new(pipe: PipeReader) -> io::Result<Output> {
        fcntl_setfl(&pipe, fcntl_getfl(&pipe)? | OFlags::NONBLOCK)?;
        Ok(Output {
            pipe: Some(pipe),
            line: Vec::new(),
            last: None,
            rate: Rate { tokens: BURST, refilled: Instant::now() },
            dropped: 0,
            throttled_until: None,
        })
    }

    /// The descriptor to wait for, unless reading is throttled.
    pub(super) fn readable(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().filter(|_| self.resumes().is_none()).map(AsFd::as_fd)
    }

    /// Time at which throttled reading resumes.
    pub(super) fn resumes(&self) -> Option<Instant> {
        self.throttled_until.filter(|until| self.pipe.is_some() && *until > Instant::now())
    }

    /// The last line that was not empty.
    pub(super) fn last_line(&self) -> Option<&str> {
        self.last.as_deref()
    }

    /// Reads once, without blocking.
    pub(super) fn read(&mut self, name: &str) {
        let Some(pipe) = &mut self.pipe else { return };
        let mut buffer = vec![0; PER_READ];
        match pipe.read(&mut buffer) {
            Ok(0) => self.pipe = None,
            Ok(read) => {
                let before = self.dropped;
                buffer[..read].iter().for_each(|byte| self.push(*byte, name));
                self.throttled_until = (self.dropped > before || read == PER_READ).then(|| Instant::now() + THROTTLE);
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => {
                log::warn!("target {name}: cannot read its output: {error}");
                self.pipe = None;
            }
        }
    }

    /// Logs the rest after the command has ended.
    pub(super) fn end(&mut self, name: &str) {
        self.read(name);
        self.pipe = None;
        if !self.line.is_empty() {
            self.finish_line(name);
        }
        self.log_dropped(name);
    }

    fn push(&mut self, byte: u8, name: &str) {
        if byte == b'\n' {
            self.finish_line(name);
        } else if self.line.len() <= MAX_LINE {
            self.line.push(byte);
        }
    }

    fn finish_line(&mut self, name: &str) {
        let line = printable(&self.line);
        self.line.clear();
        if line.is_empty() {
            return;
        }
        if self.rate.take(Instant::now()) {
            self.log_dropped(name);
            log::info!("target {name}: | {line}");
        } else {
            self.dropped += 1;
        }
        self.last = Some(line);
    }

    fn log_dropped(&mut self, name: &str) {
        if self.dropped > 0 {
            log::info!("target {name}: | … {} lines dropped", self.dropped);
            self.dropped = 0;
        }
    }
}

/// A line for the log: UTF-8 without control characters, cut if it is too long.
fn printable(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(&line[..line.len().min(MAX_LINE)]);
    let mut clean: String =
        text.trim_end().chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect();
    if line.len() > MAX_LINE {
        clean.push('…');
    }
    clean
}

#[cfg(test)]
mod tests {
    use std::io::{PipeWriter, Write as _};

    use super::*;

    fn output() -> (Output, PipeWriter) {
        let (read, write) = io::pipe().expect("a pipe");
        (Output::new(read).expect("an output"), write)
    }

    #[test]
    fn a_line_is_cut_and_made_printable() {
        assert_eq!(printable(b"plain\r"), "plain");
        assert_eq!(printable(b"\x1b[31mred\xff\t."), "\u{fffd}[31mred\u{fffd}\t.");
        assert_eq!(printable(&[b'x'; MAX_LINE]), "x".repeat(MAX_LINE));
        assert_eq!(printable(&[b'x'; 5000]), "x".repeat(MAX_LINE) + "…");
    }

    #[test]
    fn last_line_is_the_last_that_is_not_empty() {
        let (mut output, mut write) = output();
        output.read("t");
        assert_eq!((output.last_line(), output.readable().is_some()), (None, true));
        write.write_all(b"first\nsec").expect("space");
        output.read("t");
        assert_eq!(output.last_line(), Some("first"));
        write.write_all(b"ond\n\n \n").expect("space");
        output.read("t");
        assert_eq!(output.last_line(), Some("second"));
        write.write_all(&[b'x'; 2 * MAX_LINE]).expect("space");
        drop(write);
        output.end("t");
        assert_eq!(output.last_line().map(|line| line.chars().count()), Some(MAX_LINE + 1));
        assert!(output.readable().is_none() && output.resumes().is_none());
    }

    #[test]
    fn a_flood_is_dropped_and_throttled() {
        let (mut output, mut write) = output();
        let lines = PER_READ / 8;
        write.write_all("7 bytes\n".repeat(lines).as_bytes()).expect("it fits");
        output.read("t");
        assert!(output.dropped > 0 && output.dropped <= (lines as u64 - u64::from(BURST)));
        assert!(output.resumes().is_some() && output.readable().is_none());
        drop(write);
        output.end("t");
        assert_eq!((output.last_line(), output.dropped), (Some("7 bytes"), 0));
    }

    #[test]
    fn a_full_read_is_throttled_for_a_moment() {
        let (mut output, mut write) = output();
        write.write_all(&[b'x'; PER_READ]).expect("it fits");
        output.read("t");
        let resumes = output.resumes().expect("throttled");
        assert!(resumes <= Instant::now() + THROTTLE && output.dropped == 0);
        while output.resumes().is_some() {
            std::thread::yield_now();
        }
        assert!(Instant::now() >= resumes && output.readable().is_some());
        write.write_all(b"y").expect("space");
        output.read("t");
        assert!(output.resumes().is_none());
    }

    #[test]
    fn closed_output_is_not_waited_for() {
        let (mut output, write) = output();
        drop(write);
        output.read("t");
        assert!(output.readable().is_none());
    }

    #[test]
    fn rate_allows_a_burst_and_then_some_per_second() {
        let start = Instant::now();
        let mut rate = Rate { tokens: BURST, refilled: start };
        let mut allowed = |millis: u64| {
            let now = start + Duration::from_millis(millis);
            (0..2 * BURST).take_while(|_| rate.take(now)).count()
        };
        assert_eq!(allowed(0), BURST as usize);
        assert_eq!(allowed(9), 0);
        assert_eq!(allowed(10), 1);
        assert_eq!(allowed(510), 50);
        assert_eq!(allowed(100_000), BURST as usize);
        assert_eq!(allowed(1), 0, "a clock that runs backwards");
    }
}
