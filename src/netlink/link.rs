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
/// The operating system's error: there is no `/proc`, or no file descriptor is left.
pub fn all() -> io::Result<Vec<Link>> {
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    let table = std::fs::read_to_string("/proc/thread-self/net/dev")?;
    // An interface that was removed meanwhile has no index.
    let link = |name: &str| Some(Link { index: netdevice::name_to_index(&socket, name).ok()?, name: name.to_owned() });
    Ok(names_in(&table).filter_map(link).collect())
}

/// The names in `/proc/net/dev`: one per line, before a colon.
fn names_in(table: &str) -> impl Iterator<Item = &str> {
    table.lines().filter_map(|line| Some(line.split_once(':')?.0.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_before_the_colon() {
        let table = "Inter-|   Receive                |  Transmit\n face |bytes    packets errs\n    lo:  100 2 0\n\
                     eth0.7: 123 4\nwlan0:1 2\n";
        assert_eq!(names_in(table).collect::<Vec<_>>(), ["lo", "eth0.7", "wlan0"]);
    }

    #[test]
    fn the_first_interface_is_lo() {
        let links = all().expect("read");
        assert!(links.contains(&Link { index: 1, name: "lo".to_owned() }), "{links:?}");
    }
}
