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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn only_regular_files_of_bounded_size_are_read() {
        let folder = std::env::temp_dir().join(format!("proxygw-config-file-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a directory");
        let fifo = folder.join("fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, Mode::RUSR).expect("a fifo");
        let socket = folder.join("socket");
        let _listener = UnixListener::bind(&socket).expect("a socket");
        let (full, large) = (folder.join("full"), folder.join("large"));
        fs::write(&full, vec![b'#'; MAX_SIZE]).expect("a file");
        fs::write(&large, vec![b'#'; MAX_SIZE + 1]).expect("a file");
        let irregular = "is not a regular file: pipes and devices are not read";
        let results = [
            (folder.join("none"), "there is no such file (--config names another)"),
            (folder.clone(), "is a directory: give the configuration file itself"),
            (fifo, irregular),
            (socket, "cannot open it: No such device or address (os error 6)"),
            ("/dev/zero".into(), irregular),
            (large, "is larger than 8 MiB"),
        ]
        .map(|(path, expected)| (read(&path), expected));
        let full = read(&full).map(|bytes| bytes.len());
        fs::remove_dir_all(&folder).expect("it is there");
        for (result, expected) in results {
            assert_eq!(result, Err(expected.to_owned()));
        }
        assert_eq!(full, Ok(MAX_SIZE));
        let denied = cannot("open", &io::Error::from(io::ErrorKind::PermissionDenied));
        assert_eq!(denied, "permission denied: run as root or change its mode");
    }
}
