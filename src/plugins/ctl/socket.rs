//! The control socket's file.
//!
//! Invariants: the file is never more open than its mode; a file that is not a dead socket is left alone; only our own
//! file is removed.

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

/// How many clients may wait to be accepted.
const BACKLOG: i32 = 128;

/// The file of a socket that listens.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl SocketFile {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the file is still there, and no other in its place.
    pub(super) fn is_ours(&self) -> bool {
        fs::symlink_metadata(&self.path).is_ok_and(|file| identity(&file) == self.identity)
    }

    /// Removes the file, unless another one is in its place.
    pub(super) fn remove(self) {
        if !self.is_ours() {
            return;
        }
        if let Err(error) = fs::remove_file(&self.path) {
            log::warn!("ctl: cannot remove {}: {error}", self.path.display());
        }
    }
}

/// Makes the socket, in the place of one that a crashed daemon has left.
pub(super) fn open(settings: &Settings) -> Result<(UnixListener, SocketFile), Error> {
    let path = &settings.socket;
    let group = settings.group.as_ref().map(|group| group.resolve()).transpose()?;
    clear(path)?;
    let failed =
        |what: &str, error: io::Error| -> Error { format!("{}: cannot {what}: {error}", path.display()).into() };

    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
        .map_err(|error| failed("create a socket", error.into()))?;
    // The file gets the mode of the socket's own inode, less the umask: so it is never open to more than its owner before
    // it has its group.
    fchmod(&socket, Mode::from_raw_mode(settings.mode & 0o700))
        .map_err(|error| failed("set the mode", error.into()))?;
    let address = SocketAddrUnix::new(path.as_path()).map_err(|error| failed("listen", error.into()))?;
    bind(&socket, &address).map_err(|error| match (error, path.parent()) {
        (rustix::io::Errno::NOENT, Some(parent)) => {
            format!("{}: the directory {} does not exist", path.display(), parent.display()).into()
        }
        _ => failed("listen", error.into()),
    })?;
    let file = fs::symlink_metadata(path).map_err(|error| failed("find the socket again", error))?;
    let file = SocketFile { path: path.clone(), identity: identity(&file) };
    let finish = || -> Result<(), Error> {
        if let Some(group) = group {
            lchown(path, None, Some(group)).map_err(|error| failed("give it to its group", error))?;
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

/// Removes a socket that nobody listens on.
fn clear(path: &Path) -> Result<(), Error> {
    let shown = path.display();
    let file = match fs::symlink_metadata(path) {
        Ok(file) => file,
        // A missing directory is noticed when the socket is bound.
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
            return Err(format!("{shown}: cannot find out whether anybody listens there: {error}").into());
        }
        // A full queue is that of somebody who listens.
        _ => return Err(format!("{shown}: another program listens there; is proxygw running already?").into()),
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(format!("{shown}: cannot remove the socket that a crash has left: {error}").into())
        }
        _ => {
            log::info!("ctl: removed {shown}, which a crash had left");
            Ok(())
        }
    }
}

fn identity(file: &fs::Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}
