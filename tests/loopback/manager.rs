//! A service manager's store of open files (systemd's `FileDescriptorStoreMax=`), as far as the daemon needs one.

use std::ffi::OsString;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};

use crate::support::{DaemonOptions, Temporary, binary};

/// Starts the daemon as a service manager does: with the stored descriptor as file 3.
const LAUNCHER: &str = r#"#!/usr/bin/python3
import os, socket, sys
store = socket.socket(socket.AF_UNIX)
store.connect(os.environ.pop("STORE"))
name, fds, _, _ = socket.recv_fds(store, 200, 1)
if fds:
    os.dup2(fds[0], 3)
    if fds[0] != 3:
        os.close(fds[0])
    os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES=name.decode())
program = os.environ.pop("PROGRAM")
os.execv(program, [program] + sys.argv[1:])
"#;

/// The store, and its two sockets, each served by a thread for as long as the test runs.
pub struct Manager {
    kept: Arc<Mutex<Option<(String, OwnedFd)>>>,
    folder: Temporary,
}

impl Manager {
    /// A manager with an empty store.
    pub fn start() -> Manager {
        let folder = Temporary::new();
        let kept: Arc<Mutex<Option<(String, OwnedFd)>>> = Arc::default();
        let notify = UnixDatagram::bind(folder.path().join("notify")).expect("a socket");
        let store = Arc::clone(&kept);
        std::thread::spawn(move || {
            loop {
                let (text, fd) = receive(&notify);
                let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
                if let (Some("1"), Some(name), Some(fd)) = (field("FDSTORE=").as_deref(), field("FDNAME="), fd) {
                    *store.lock().expect("not poisoned") = Some((name, fd));
                } else if field("FDSTOREREMOVE=").is_some() {
                    let mut store = store.lock().expect("not poisoned");
                    store.take_if(|(name, _)| Some(&*name) == field("FDNAME=").as_ref());
                }
            }
        });
        let listener = UnixListener::bind(folder.path().join("store")).expect("a socket");
        let store = Arc::clone(&kept);
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let store = store.lock().expect("not poisoned");
                let fd = store.as_ref().map(|(_, fd)| [fd.as_fd()]);
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                let mut control = SendAncillaryBuffer::new(&mut space);
                if let Some(fd) = &fd {
                    control.push(SendAncillaryMessage::ScmRights(fd));
                }
                let name = store.as_ref().map_or("-", |(name, _)| name.as_str());
                sendmsg(&stream, &[IoSlice::new(name.as_bytes())], &mut control, SendFlags::empty()).expect("sent");
            }
        });
        Manager { kept, folder }
    }

    /// Options that start the daemon under this manager.
    pub fn options(&self) -> DaemonOptions {
        let path = |name: &str| OsString::from(self.folder.path().join(name));
        let launcher: PathBuf = self.folder.write("launcher.py", LAUNCHER);
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&launcher, mode).expect("a file");
        DaemonOptions {
            program: Some(launcher),
            environment: vec![
                ("NOTIFY_SOCKET", path("notify")),
                ("STORE", path("store")),
                ("PROGRAM", binary("proxygw").into()),
            ],
            ..DaemonOptions::default()
        }
    }

    /// Name of the stored descriptor.
    pub fn stored(&self) -> Option<String> {
        self.kept.lock().expect("not poisoned").as_ref().map(|(name, _)| name.clone())
    }
}

/// One datagram, with the first descriptor that came with it.
fn receive(socket: &UnixDatagram) -> (String, Option<OwnedFd>) {
    let mut bytes = [0; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC);
    let length = received.expect("a datagram").bytes;
    let mut fds = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    let fd = fds.next().and_then(|mut fds| fds.next());
    (String::from_utf8_lossy(&bytes[..length]).into_owned(), fd)
}
