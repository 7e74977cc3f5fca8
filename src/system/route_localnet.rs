//! `net.ipv4.conf.all.route_localnet`: without it, the kernel drops packets from outside that a DNAT sends to 127.0.0.0/8.
//!
//! Any number but 0 means yes to the kernel. The daemon writes one that no other program writes, so that the setting itself
//! records that it was 0 before and is the daemon's to reset, even after a crash. It belongs to the network namespace, and
//! `all` covers interfaces that are added later.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use crate::ids::OUR_NUMBER;

const PATH: &str = "/proc/sys/net/ipv4/conf/all/route_localnet";

/// The setting of the network namespace in which it was opened.
#[derive(Debug)]
pub struct RouteLocalnet {
    /// Kept open, so that the setting can be reset without a free descriptor. `None` if another program has set it, and this
    /// process cannot.
    file: Option<File>,
}

impl RouteLocalnet {
    /// Opens the setting, and does not change it.
    ///
    /// # Errors
    /// `/proc/sys` cannot be written, as in many containers, and the setting is off.
    pub fn open() -> io::Result<RouteLocalnet> {
        match File::options().read(true).write(true).open(PATH) {
            Ok(file) => Ok(RouteLocalnet { file: Some(file) }),
            Err(error) => match std::fs::read_to_string(PATH) {
                Ok(value) if !["0", &OUR_NUMBER.to_string()].contains(&value.trim()) => {
                    Ok(RouteLocalnet { file: None })
                }
                _ => Err(error),
            },
        }
    }

    /// Switches the setting on, unless another program has.
    ///
    /// # Errors
    /// The operating system's error.
    pub fn switch_on(&self) -> io::Result<()> {
        self.change(0, OUR_NUMBER)
    }

    /// Switches the setting off, unless another program has switched it on.
    ///
    /// # Errors
    /// The operating system's error.
    pub fn switch_off(&self) -> io::Result<()> {
        self.change(OUR_NUMBER, 0)
    }

    fn change(&self, from: u16, to: u16) -> io::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        let mut value = [0; 16];
        let length = file.read_at(&mut value, 0)?;
        if value[..length].trim_ascii() == from.to_string().as_bytes() {
            file.write_all_at(to.to_string().as_bytes(), 0)?;
        }
        Ok(())
    }
}
