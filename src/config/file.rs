//! Reads the configuration file: a regular file of bounded size.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rustix::fs::{Mode, OFlags, open};

/// Maximum size of a configuration file, in bytes.
pub(crate) const MAX_SIZE: usize = 8 * 1024 * 1024;

/// Reads a file.
///
/// # Errors
/// Why it cannot be read, in lower case.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, String> {
    // Without NONBLOCK, opening a FIFO waits for a writer.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let file = File::from(open(path, flags, Mode::empty()).map_err(|error| cannot("open", &error.into()))?);
    let metadata = file.metadata().map_err(|error| cannot("inspect", &error))?;
    if metadata.is_dir() {
        return Err("is a directory: give the configuration file itself".to_owned());
    }
    if !metadata.is_file() {
        return Err("is not a regular file: pipes and devices are not read".to_owned());
    }
    let mut bytes = Vec::new();
    let limit = MAX_SIZE as u64 + 1;
    file.take(limit).read_to_end(&mut bytes).map_err(|error| cannot("read", &error))?;
    if bytes.len() > MAX_SIZE {
        return Err(too_large());
    }
    Ok(bytes)
}

/// The message for a configuration of more than [`MAX_SIZE`].
pub(crate) fn too_large() -> String {
    format!("is larger than {} MiB", MAX_SIZE / 1024 / 1024)
}

fn cannot(what: &str, error: &io::Error) -> String {
    let hint = match error.kind() {
        io::ErrorKind::NotFound => "there is no such file (--config names another)",
        io::ErrorKind::PermissionDenied => "permission denied: run as root or change its mode",
        _ => return format!("cannot {what} it: {error}"),
    };
    hint.to_owned()
}
