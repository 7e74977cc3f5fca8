//! The control socket's file.
//!
//! Invariants: the file never has more permissions than its mode; a file that is not an unused socket is left alone; only
//! the daemon's own file is removed.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, lchown};
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};

use mio::net::{UnixListener, UnixStream};
use rustix::fs::{Mode, fchmod};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};

use super::settings::Settings;
use crate::plugin::Error;

/// Maximum number of clients that wait to be accepted.
const BACKLOG: i32 = 128;

/// File of a listening socket.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl SocketFile {
    /// Returns true if the file is still there, and not replaced by another one.
    pub(super) fn is_ours(&self) -> bool {
        fs::symlink_metadata(&self.path).is_ok_and(|file| identity(&file) == self.identity)
    }

    /// Removes the file, unless another one has replaced it.
    pub(super) fn remove(self) {
        if !self.is_ours() {
            return;
        }
        if let Err(error) = fs::remove_file(&self.path) {
            log::warn!("ctl: cannot remove {}: {error}", self.path.display());
        }
    }
}

/// Creates the socket. Replaces one that a crash left behind.
pub(super) fn open(settings: &Settings) -> Result<(UnixListener, SocketFile), Error> {
    let path = &settings.socket;
    let group = settings.group.as_ref().map(|group| group.resolve()).transpose()?;
    clear(path)?;
    let failed =
        |what: &str, error: io::Error| -> Error { format!("{}: cannot {what}: {error}", path.display()).into() };

    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
        .map_err(|error| failed("create a socket", error.into()))?;
    // The file gets the mode of the socket's own inode, less the umask. So only its owner may use it until it has its group.
    fchmod(&socket, Mode::from_raw_mode(settings.mode & 0o700))
        .map_err(|error| failed("set the mode", error.into()))?;
    let address = SocketAddrUnix::new(path.as_path()).map_err(|error| failed("listen", error.into()))?;
    bind(&socket, &address).map_err(|error| match (error, path.parent()) {
        (rustix::io::Errno::NOENT, Some(parent)) => {
            format!("{}: the directory {} does not exist", path.display(), parent.display()).into()
        }
        _ => failed("listen", error.into()),
    })?;
    let file = fs::symlink_metadata(path).map_err(|error| failed("find the new socket", error))?;
    let file = SocketFile { path: path.clone(), identity: identity(&file) };
    let finish = || -> Result<(), Error> {
        if let Some(group) = group {
            lchown(path, None, Some(group)).map_err(|error| failed("set the group", error))?;
        }
        let mode = fs::Permissions::from_mode(settings.mode);
        fs::set_permissions(path, mode).map_err(|error| failed("set the mode", error))?;
        listen(&socket, BACKLOG).map_err(|error| failed("listen", error.into()))
    };
    match finish() {
        Ok(()) => Ok((UnixListener::from_std(StdListener::from(socket)), file)),
        Err(error) => {
            file.remove();
            Err(error)
        }
    }
}

/// Removes a socket on which no process listens.
fn clear(path: &Path) -> Result<(), Error> {
    let shown = path.display();
    let file = match fs::symlink_metadata(path) {
        Ok(file) => file,
        // A missing directory is reported when the socket is bound.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(format!("{shown}: {error}").into()),
    };
    if !file.file_type().is_socket() {
        return Err(format!("{shown} exists and is not a socket: remove it, or set plugins.ctl.socket").into());
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
            return Err(format!("{shown}: cannot determine whether another program listens there: {error}").into());
        }
        // WouldBlock: the queue of a listening process is full.
        _ => return Err(format!("{shown}: another program listens there; is proxygw running already?").into()),
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(format!("{shown}: cannot remove the socket that a crash left behind: {error}").into())
        }
        _ => {
            log::info!("ctl: removed {shown}, left behind by a crash");
            Ok(())
        }
    }
}

fn identity(file: &fs::Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}
