//! `plugins.ctl`: the settings that the daemon and the client share. Reading them has no side effects.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::group::Group;
use super::wire::Codec;
use crate::config::Section;

/// Default path of the control socket.
pub const DEFAULT_SOCKET: &str = "/run/proxygw.sock";

/// Default mode of the control socket: only the daemon's own user may use it.
const DEFAULT_MODE: u32 = 0o600;

/// Size of `sun_path` with its terminating null byte: unix(7).
const PATH_SIZE: usize = 108;

/// The `plugins.ctl` section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Absolute path of the control socket.
    pub socket: PathBuf,
    /// Encoding of packets.
    pub codec: Codec,
    /// Permission bits of the socket.
    pub mode: u32,
    /// Group of the socket.
    pub group: Option<Group>,
}

impl Settings {
    /// Reads the section. `None` means that a problem was reported on it.
    pub fn read(section: &mut Section<'_>) -> Option<Settings> {
        let socket = section.optional::<PathBuf>("socket");
        let codec = section.optional::<String>("codec");
        let mode = section.optional::<String>("mode");
        let group = section.optional::<Group>("group");
        let socket = socket.unwrap_or_else(|| DEFAULT_SOCKET.into());
        if !socket.is_absolute() {
            section.problem("socket", format_args!("{socket:?} must be absolute, such as {DEFAULT_SOCKET}"));
        } else if let Err(message) = check_path(&socket) {
            section.problem("socket", message);
        }
        let codec = codec.map_or(Some(Codec::Json), |name| {
            let codec = Codec::named(&name);
            if codec.is_none() {
                section.problem("codec", format_args!("unknown codec {name:?}: write json or cbor"));
            }
            codec
        });
        let mode = mode.map_or(Some(DEFAULT_MODE), |text| {
            let mode = octal(&text);
            if mode.is_none() {
                section.problem(
                    "mode",
                    format_args!("{text:?} is not an octal mode from \"0000\" to \"0777\", such as \"0660\""),
                );
            }
            mode
        });
        if section.failed() { None } else { Some(Settings { socket, codec: codec?, mode: mode?, group }) }
    }
}

/// Checks that a path can be the path of a socket.
///
/// # Errors
/// The reason why it cannot.
pub fn check_path(path: &Path) -> Result<(), String> {
    let bytes = path.as_os_str().as_bytes();
    if bytes.is_empty() {
        return Err("the path of the socket is empty".to_owned());
    }
    if bytes.contains(&0) {
        return Err(format!("{path:?} contains a null byte"));
    }
    if bytes.len() >= PATH_SIZE {
        return Err(format!("{path:?} is longer than {} bytes, the maximum for a socket", PATH_SIZE - 1));
    }
    Ok(())
}

/// Permission bits in the notation of chmod(1).
fn octal(text: &str) -> Option<u32> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    u32::from_str_radix(digits, 8).ok().filter(|&mode| plain && mode <= 0o777)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_octal() {
        assert_eq!(octal("0660"), Some(0o660));
        assert_eq!(octal("600"), Some(0o600));
        assert_eq!(octal("0o666"), Some(0o666));
        for wrong in ["", "0o", "0680", "1777", "+660", "-660", "rw", " 660", "0x1ff", "77777777777777"] {
            assert_eq!(octal(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn paths_fit_into_a_socket_address() {
        let path = |length: usize| PathBuf::from(format!("/{}", "x".repeat(length - 1)));
        assert_eq!(check_path(&path(107)), Ok(()));
        assert!(check_path(&path(108)).is_err());
        assert!(check_path(Path::new("")).is_err());
        assert!(check_path(Path::new("/a\0b")).is_err());
    }
}
