//! Limits that are checked before a file is parsed. The check knows no quotes and no comments, so the limits are far from
//! any configuration.

use super::{Invalid, MAX_VALUES, Position};

/// Maximum number of open brackets, and of dashes at the start of a line. `serde_yaml` stops at 128 levels, but only after
/// `libyaml` has read all of them.
const MAX_OPEN: usize = 512;

/// Rejects what `libyaml` would need much time or memory for, or would reject without a position.
///
/// # Errors
/// The first violation.
pub(super) fn check(text: &str) -> Result<(), Invalid> {
    let bytes = super::without_mark(text).as_bytes();
    let (mut line, mut line_start) = (1, 0);
    let (mut values, mut open) = (1_usize, 0_usize);
    // The end of the dashes and question marks, each followed by space, that the line begins with; and their number.
    let (mut lead, mut dashes) = (0, 0);
    for (index, byte) in bytes.iter().enumerate() {
        let wrong = match byte {
            b'\n' => {
                (line, line_start) = (line + 1, index + 1);
                (lead, dashes) = (line_start, 0);
                continue;
            }
            b'[' | b'{' => {
                (values, open) = (values + 1, open + 1);
                (open > MAX_OPEN).then(|| "nested too deeply".to_owned())
            }
            b']' | b'}' => {
                open = open.saturating_sub(1);
                continue;
            }
            b'-' | b'?' if bytes.get(index + 1).is_none_or(u8::is_ascii_whitespace) => {
                values += 1;
                dashes += usize::from(lead == index);
                lead += usize::from(lead == index);
                (dashes > MAX_OPEN).then(|| "nested too deeply".to_owned())
            }
            b',' | b':' | b'?' | b'*' | b'&' => {
                values += 1;
                None
            }
            b' ' => {
                lead += usize::from(lead == index);
                continue;
            }
            // A prefix that a directive gives a short name to is copied for every use of that name.
            b'%' if index == line_start && bytes[index..].starts_with(b"%TAG") => {
                Some("tags are not supported: remove this directive".to_owned())
            }
            b'\t' | b'\r' | 0x20..=0x7e | 0x80.. => continue,
            control => Some(format!("control character 0x{control:02x}: remove it")),
        };
        let wrong = wrong.or_else(|| (values > MAX_VALUES).then(too_many));
        if let Some(what) = wrong {
            let before = String::from_utf8_lossy(&bytes[line_start..index]);
            let at = Position { line, column: before.chars().count() + 1 };
            return Err(Invalid { at: Some(at), what });
        }
    }
    Ok(())
}

/// The message for a file with too many values, here or in the tree.
pub(super) fn too_many() -> String {
    format!("more than {MAX_VALUES} values: too many for a configuration")
}
