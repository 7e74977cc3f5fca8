//! The output of the log: a standard stream, or a file, which may be a FIFO.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;

/// An output, open or waiting for a reader.
pub(super) struct Output {
    /// `None` for a standard stream, which cannot be opened again.
    path: Option<PathBuf>,
    file: Option<File>,
}

impl Output {
    pub(super) fn stdout() -> io::Result<Output> {
        Output::stream(io::stdout().as_fd())
    }

    pub(super) fn stderr() -> io::Result<Output> {
        Output::stream(io::stderr().as_fd())
    }

    fn stream(stream: BorrowedFd<'_>) -> io::Result<Output> {
        Ok(Output { path: None, file: Some(stream.try_clone_to_owned()?.into()) })
    }

    /// Opens a file, or waits for the reader of a FIFO.
    pub(super) fn file(path: &Path) -> io::Result<Output> {
        Ok(Output { path: Some(path.to_owned()), file: open(path)? })
    }

    /// True if the output is open, which a FIFO without a reader is not.
    pub(super) fn is_open(&self) -> bool {
        self.file.is_some()
    }

    /// Opens a file again. If that fails, the old one stays.
    pub(super) fn reopen(&mut self) {
        let Some(path) = &self.path else { return };
        match open(path) {
            Ok(file) => self.file = file,
            Err(error) => log::error!("cannot open {} again: {error}", path.display()),
        }
    }

    /// Closes a FIFO whose reader is gone; false for a standard stream.
    pub(super) fn close_fifo(&mut self) -> bool {
        let is_file = self.path.is_some();
        if is_file {
            self.file = None;
        }
        is_file
    }

    /// The descriptor to write to.
    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.file.as_ref().map(AsFd::as_fd)
    }
}

/// Opens a log file without blocking. `None` for a FIFO without a reader (`ENXIO`, fifo(7)).
fn open(path: &Path) -> io::Result<Option<File>> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    match OpenOptions::new().create(true).append(true).custom_flags(flags.bits() as i32).open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if Errno::from_io_error(&error) == Some(Errno::NXIO) => Ok(None),
        Err(error) => Err(error),
    }
}
