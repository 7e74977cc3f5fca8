//! `plugins.ctl`, for the daemon and for its clients alike.

use std::path::{Path, PathBuf};

use super::wire::Codec;
use crate::config::Section;

/// Where the control socket is, if nothing else is said.
pub const DEFAULT_SOCKET: &str = "/run/proxygw.sock";

/// Who may use the control socket, if nothing else is said: its owner.
const DEFAULT_MODE: u32 = 0o600;

/// The longest path of a Unix socket (`sun_path` of unix(7), less its terminating NUL).
const LONGEST_PATH: usize = 107;

/// The control socket's settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The socket's path.
    pub socket: PathBuf,
    /// What is spoken on it.
    pub codec: Codec,
    /// Its permissions.
    pub mode: u32,
    /// The name or number of its group, if it is not the daemon's own.
    pub group: Option<String>,
}

impl Settings {
    /// Reads the section. `None` means that a problem was reported on it.
    pub fn read(section: &mut Section<'_>) -> Option<Settings> {
        let socket = section.optional("socket").unwrap_or_else(|| PathBuf::from(DEFAULT_SOCKET));
        if let Some(problem) = problem_of_path(&socket) {
            section.problem("socket", problem);
        }
        let codec = section.optional::<String>("codec").unwrap_or_else(|| "json".to_owned());
        let codec = Codec::from_name(&codec);
        if codec.is_none() {
            section.problem("codec", "this is not a codec: write json or cbor");
        }
        let mode = section.optional::<String>("mode").map(|text| parse_mode(&text));
        if mode == Some(None) {
            section.problem("mode", "this is not a mode: write octal digits in quotes, such as \"0660\"");
        }
        let group = section.optional::<String>("group");
        if group.as_deref() == Some("") {
            section.problem("group", "it is empty: write a group's name or number");
        }
        let mode = mode.flatten().unwrap_or(DEFAULT_MODE);
        (!section.failed()).then_some(Settings { socket, codec: codec?, mode, group })
    }
}

/// What is wrong with the path of a control socket, if anything is.
pub fn problem_of_path(path: &Path) -> Option<String> {
    let length = path.as_os_str().len();
    if !path.is_absolute() {
        return Some(format!("{:?} is not an absolute path", path.display().to_string()));
    }
    (length > LONGEST_PATH)
        .then(|| format!("the path has {length} bytes, and a Unix socket's may have {LONGEST_PATH} at most"))
}

fn parse_mode(text: &str) -> Option<u32> {
    let octal = !text.is_empty() && text.len() <= 4 && text.bytes().all(|byte| byte.is_ascii_digit());
    u32::from_str_radix(text, 8).ok().filter(|mode| octal && *mode <= 0o777)
}
