//! The log: one line per event, with the time in UTC and the level.
//!
//! A thread that logs never waits for the output. It appends the line to a bounded queue ([`queue`]); the thread `log` writes
//! ([`writer`]). While the output is blocked, lines beyond the queue are dropped and counted, and their number is logged
//! when it works again. At the end of the process, lines that are not written within [`FLUSH`] are lost.

mod line;
mod output;
mod queue;
mod writer;

use std::fmt;
use std::io::{self, Write as _};
use std::panic::PanicHookInfo;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use env_logger::{Builder, Target};

use crate::config::{Log, LogOutput};
use line::Line;
use output::Output;
use queue::Queue;
use writer::Writer;

/// Time that the end of the process waits for the output.
const FLUSH: Duration = Duration::from_millis(500);

/// The log of this process.
static LOGGER: OnceLock<Logger> = OnceLock::new();

struct Logger {
    queue: Queue,
    /// Lines go to standard error.
    to_stderr: bool,
}

/// Opens the output and starts the thread that writes. From then on panics are logged, not printed.
///
/// A FIFO without a reader is no error: lines wait in the queue for one.
///
/// # Errors
/// The log file could not be opened, or the operating system has no thread or file descriptor left.
pub fn start(log: &Log) -> io::Result<()> {
    if LOGGER.get().is_some() {
        // Tests start a second daemon in one process.
        return Ok(());
    }
    let output = match &log.output {
        LogOutput::Stdout => Output::stdout()?,
        LogOutput::Stderr => Output::stderr()?,
        LogOutput::File(path) => Output::file(path)?,
    };
    if !output.is_open() {
        print_now(format_args!("log output: no reader yet, lines wait for one"));
    }
    let queue = Queue::new()?;
    let logger = LOGGER.get_or_init(|| Logger { queue, to_stderr: log.output == LogOutput::Stderr });
    std::thread::Builder::new().name("log".to_owned()).spawn(|| Writer::new(&logger.queue, output).run())?;
    let started = Builder::new()
        .filter_level(log.level)
        .target(Target::Pipe(Box::new(Lines(&logger.queue))))
        .format(|out, record| out.write_all(line(format_args!("{:<5} {}", record.level(), record.args())).as_bytes()))
        .try_init();
    if started.is_ok() {
        std::panic::set_hook(Box::new(log_panic));
    }
    Ok(())
}

/// Lets the thread that writes open the log file again, after it was moved away.
pub fn reopen() {
    if let Some(logger) = LOGGER.get() {
        logger.queue.request_reopen();
    }
}

/// Waits until everything is written, for at most half a second. For the end of the process.
pub fn flush() {
    if let Some(logger) = LOGGER.get() {
        logger.queue.flush(FLUSH);
    }
}

/// Ends the process with a status, after [`flush`].
pub fn exit(status: i32) -> ! {
    flush();
    std::process::exit(status)
}

/// Reports why the process ends: in the log, once it is started, and on standard error. Never waits for either.
pub fn report_failure(failure: &dyn fmt::Display) {
    match LOGGER.get() {
        None => eprintln!("proxygw: {failure}"),
        Some(logger) => {
            log::error!("{failure}");
            if !logger.to_stderr {
                print_now(format_args!("{failure}"));
            }
        }
    }
}

/// Prints a line to standard error, unless that would block.
fn print_now(text: fmt::Arguments<'_>) {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    const PIPE_BUF: usize = 4096;
    let stderr = io::stderr();
    let mut fds = [PollFd::new(&stderr, PollFlags::OUT)];
    if poll(&mut fds, Some(&Timespec::default())) == Ok(1) {
        let line = Line::new(format_args!("proxygw: {text}"));
        let line = line.as_bytes();
        let _ = stderr.lock().write_all(&line[..line.len().min(PIPE_BUF)]);
    }
}

/// Writer of env_logger, which writes whole lines.
struct Lines(&'static Queue);

impl io::Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A line with the time.
fn line(text: fmt::Arguments<'_>) -> Line {
    Line::new(format_args!("{} {text}", humantime::format_rfc3339_millis(SystemTime::now())))
}

/// Logs a panic with its thread and place. The standard library's own hook would print it, and wait for standard error.
fn log_panic(panic: &PanicHookInfo<'_>) {
    use std::backtrace::{Backtrace, BacktraceStatus};
    let thread = std::thread::current();
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let payload = panic.payload();
    let text = payload.downcast_ref::<String>().map(String::as_str).or(payload.downcast_ref::<&str>().copied());
    let text = text.unwrap_or("no message");
    log::error!("thread {:?} panicked at {place}: {text}", thread.name().unwrap_or("unnamed"));
    // Only with RUST_BACKTRACE=1.
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        backtrace.to_string().lines().for_each(|line| log::error!("{line}"));
    }
}
