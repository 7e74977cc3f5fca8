//! Notices the removal of the control socket's file, without waking up for anything else.
//!
//! The file itself is watched, not its directory: directories such as /run are busy. Removing or replacing the file changes
//! its link count, which is an `IN_ATTRIB` event (inotify(7)). Moving its directory is an event of that directory.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::Path;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

/// Maximum number of reads for one event. The kernel's queue has 16,384 events of 16 bytes by default.
const MAX_READS: usize = 128;

/// A watch over one file.
#[derive(Debug)]
pub(super) struct FileWatch(OwnedFd);

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

    /// Discards all events.
    pub(super) fn drain(&self) {
        let mut buffer = [0; 4096];
        for _ in 0..MAX_READS {
            if !rustix::io::read(self.0.as_fd(), &mut buffer).is_ok_and(|length| length > 0) {
                return;
            }
        }
    }

    pub(super) fn number(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
