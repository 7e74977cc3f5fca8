//! Notices the removal of the control socket's file, without waking up for anything else.
//!
//! The file itself is watched, not its directory: directories such as /run are busy. Removing or replacing the file changes
//! its link count, which is an `IN_ATTRIB` event (inotify(7)). Moving its directory is an event of that directory.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

/// A watch over one file.
#[derive(Debug)]
pub(super) struct FileWatch(pub(super) OwnedFd);

impl FileWatch {
    /// Watches the file, and its directory for being moved or removed.
    ///
    /// # Errors
    /// The error of the operating system, such as no inotify instance left or no permission to read the file.
    pub(super) fn open(path: &Path) -> io::Result<FileWatch> {
        let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let moved = WatchFlags::MOVE_SELF | WatchFlags::DELETE_SELF;
        inotify::add_watch(&watch, path, moved | WatchFlags::ATTRIB | WatchFlags::DONT_FOLLOW)?;
        let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty()).unwrap_or(Path::new("."));
        inotify::add_watch(&watch, directory, moved | WatchFlags::ONLYDIR)?;
        Ok(FileWatch(watch))
    }

    /// Discards events, so that the queue does not fill. Any event that is left makes no difference: the next one still
    /// wakes the reactor, which checks the file and not the event.
    pub(super) fn drain(&self) {
        let _ = rustix::io::read(&self.0, &mut [0; 4096]);
    }
}
