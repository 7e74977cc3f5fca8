//! The log: one line per event, with the time in UTC and the level.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::SystemTime;

use env_logger::{Builder, Target};

use crate::config::{Log, LogOutput};

/// The log file that is written to, where it is one.
static FILE: OnceLock<(PathBuf, Mutex<File>)> = OnceLock::new();

/// Starts to log.
///
/// # Errors
/// The log file could not be opened.
pub fn start(log: &Log) -> io::Result<()> {
    let target = match &log.output {
        LogOutput::Stdout => Target::Stdout,
        LogOutput::Stderr => Target::Stderr,
        LogOutput::File(path) => {
            let file = open(path)?;
            FILE.get_or_init(|| (path.clone(), Mutex::new(file)));
            Target::Pipe(Box::new(LogFile))
        }
    };
    let result = Builder::new()
        .filter_level(log.level)
        .target(target)
        .format(|out, record| {
            let time = humantime::format_rfc3339_millis(SystemTime::now());
            writeln!(out, "{time} {:<5} {}", record.level(), record.args())
        })
        .try_init();
    // Only a second daemon in one process, as tests start it, finds a logger there already.
    result.or(Ok(()))
}

/// Opens the log file anew, after it has been moved away.
pub fn reopen() {
    if let Some((path, file)) = FILE.get() {
        match open(path) {
            Ok(new) => *file.lock().unwrap_or_else(PoisonError::into_inner) = new,
            Err(error) => log::error!("cannot open {} anew: {error}", path.display()),
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// Writes to the log file of the moment.
struct LogFile;

impl Write for LogFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match FILE.get() {
            Some((_, file)) => file.lock().unwrap_or_else(PoisonError::into_inner).write(line),
            None => Ok(line.len()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
