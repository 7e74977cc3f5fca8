//! `net.ipv4.conf.all.route_localnet`: without it, the kernel drops packets from outside that are sent on to 127.0.0.0/8.
//!
//! The kernel takes any number but 0 for yes. We write one that nobody else writes, so that the setting itself says that
//! it was 0 before, and that it is ours to undo, even after a crash, with no record anywhere. It belongs to the network
//! namespace, and `all` covers interfaces that come later. A guard in the rules keeps strangers from 127.0.0.0/8.

use std::io;

const PATH: &str = "/proc/sys/net/ipv4/conf/all/route_localnet";

/// "pg" in ASCII.
const OURS: &str = "28775";

/// The setting, in force for as long as this lives.
#[derive(Debug)]
pub struct RouteLocalnet(());

impl RouteLocalnet {
    /// Switches the setting on, unless somebody else has.
    ///
    /// # Errors
    /// `/proc/sys` cannot be read or written (it is often read-only in containers).
    pub fn enable() -> io::Result<RouteLocalnet> {
        if read()? == "0" {
            std::fs::write(PATH, OURS)?;
        }
        Ok(RouteLocalnet(()))
    }

    /// Undoes what a daemon that has crashed has left.
    ///
    /// # Errors
    /// `/proc/sys` cannot be read or written.
    pub fn undo() -> io::Result<()> {
        if read()? == OURS {
            std::fs::write(PATH, "0")?;
        }
        Ok(())
    }
}

impl Drop for RouteLocalnet {
    fn drop(&mut self) {
        if let Err(error) = RouteLocalnet::undo() {
            log::warn!("cannot set {PATH} back to 0: {error}");
        }
    }
}

fn read() -> io::Result<String> {
    Ok(std::fs::read_to_string(PATH)?.trim().to_owned())
}
