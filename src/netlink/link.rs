//! The interfaces of this process's network namespace, by name and index (netdevice(7)).

use std::io;

use rustix::net::netdevice;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
}

/// All interfaces, in the kernel's order.
///
/// # Errors
/// What the operating system said: there is no `/proc`, or no file descriptor is left.
pub fn all() -> io::Result<Vec<Link>> {
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    let table = std::fs::read_to_string("/proc/thread-self/net/dev")?;
    let names = table.lines().filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned()));
    // One that has gone meanwhile has no index.
    let link = |name: String| Some(Link { index: netdevice::name_to_index(&socket, &name).ok()?, name });
    Ok(names.filter_map(link).collect())
}
