//! One line of the log: bounded, and without control characters.

use std::fmt::{self, Write as _};

/// A longer line is cut. Transactions are logged at `DEBUG-4`.
const MAX_BYTES: usize = 64 * 1024;

/// Ends a line that was cut.
const CUT: &str = "…";

/// A line, its line break included.
pub(super) struct Line {
    text: String,
    cut: bool,
}

impl Line {
    /// Formats a line. Control characters are escaped as in Rust's string literals, so that a message of another program (nft's,
    /// a path, a panic's) can neither begin a line of its own nor move a terminal's cursor.
    pub(super) fn new(text: fmt::Arguments<'_>) -> Line {
        let mut line = Line { text: String::with_capacity(128), cut: false };
        if line.write_fmt(text).is_err() && !line.cut {
            line.text.push_str("(cannot be formatted)");
        }
        if line.cut {
            line.text.push_str(CUT);
        }
        line.text.push('\n');
        line
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        self.text.as_bytes()
    }
}

impl fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            // The longest escape, `\u{10ffff}`, has ten bytes.
            if self.text.len() + 10 > MAX_BYTES {
                self.cut = true;
                return Err(fmt::Error);
            }
            if is_harmless(character) {
                self.text.push(character);
            } else {
                self.text.extend(character.escape_default());
            }
        }
        Ok(())
    }
}

/// True if a character only shows: no control character but the tab, no line or paragraph separator, no invisible character
/// and none that changes the direction of the text (Unicode Technical Report 36).
fn is_harmless(character: char) -> bool {
    match character {
        '\t' => true,
        '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{feff}'
        | '\u{fff9}'..='\u{fffb}'
        | '\u{e0000}'..='\u{e007f}' => false,
        character => !character.is_control(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> String {
        Line::new(format_args!("{text}")).text
    }

    #[test]
    fn a_message_cannot_break_its_line_or_control_a_terminal() {
        assert_eq!(line("plain, Grüße, 你好\t\\n"), "plain, Grüße, 你好\t\\n\n");
        assert_eq!(line("Error\n2026 ERROR forged\r"), "Error\\n2026 ERROR forged\\r\n");
        assert_eq!(line("\x1b]0;x\x07\0\u{7f}\u{9b}"), "\\u{1b}]0;x\\u{7}\\u{0}\\u{7f}\\u{9b}\n");
        assert_eq!(line("\u{2028}\u{202e}\u{2066}\u{85}"), "\\u{2028}\\u{202e}\\u{2066}\\u{85}\n");
    }

    #[test]
    fn a_long_line_is_cut() {
        for filler in ["x", "ü", "\u{1b}", "\u{10ffff}"] {
            let long = line(&filler.repeat(MAX_BYTES));
            assert!(long.len() <= MAX_BYTES + CUT.len() + 1 && long.len() > MAX_BYTES - 20);
            assert!(long.ends_with("…\n"));
        }
    }
}
