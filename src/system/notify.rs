//! Messages to the service manager that started this process (sd_notify(3)).

use std::ffi::OsStr;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt as _;

use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

/// Sends a state such as `READY=1`, if a service manager started this process.
pub fn notify(state: &str) {
    send(state, &[]);
}

/// Lets the service manager keep a copy of a descriptor, and pass it to the next start under this name
/// (`FileDescriptorStoreMax=` in the unit).
pub fn store_descriptor(name: &str, fd: BorrowedFd<'_>) {
    // Without FDPOLL=0, systemd drops descriptors that report an error or a hang-up.
    send(&format!("FDSTORE=1\nFDNAME={name}\nFDPOLL=0"), &[fd]);
}

/// Lets the service manager close its copies of the descriptors of this name.
pub fn remove_descriptor(name: &str) {
    send(&format!("FDSTOREREMOVE=1\nFDNAME={name}"), &[]);
}

fn send(state: &str, fds: &[BorrowedFd<'_>]) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else { return };
    if let Err(error) = send_to(&socket, state, fds) {
        log::warn!("cannot notify the service manager: {error}");
    }
}

fn send_to(socket: &OsStr, state: &str, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let address = match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddrUnix::new_abstract_name(name)?,
        None => SocketAddrUnix::new(socket)?,
    };
    let from = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    rustix::net::sendmsg_addr(&from, &address, &[IoSlice::new(state.as_bytes())], &mut control, SendFlags::empty())?;
    Ok(())
}
