//! Where a JSON packet ends, and what it says.

use ciborium::Value;

use super::reader::{FrameError, MAX_DEPTH};

/// Up to which size an incomplete packet is checked. What is longer has a sender that is no beginner with a typing error.
const CHECKED_TO: usize = 64 << 10;

/// Follows one packet from its opening brace to its closing one, each byte once. Whether it is JSON in between is for
/// [`decode`] to say.
#[derive(Debug, Default)]
pub(super) struct Framer {
    scanned: usize,
    depth: usize,
    in_string: bool,
    escaped: bool,
    checked: usize,
}

impl Framer {
    /// The packet's length, once all of it is in `pending`; `pending` begins with the packet and only ever grows.
    pub(super) fn scan(&mut self, pending: &[u8], limit: usize) -> Result<Option<usize>, FrameError> {
        while let Some(&byte) = pending.get(self.scanned) {
            if self.scanned == 0 && byte != b'{' {
                return Err(FrameError::malformed("a packet begins with {"));
            }
            if self.scanned == limit {
                return Err(FrameError::TooLong);
            }
            self.scanned += 1;
            self.see(byte);
            if self.depth > MAX_DEPTH {
                return Err(FrameError::malformed("it is nested too deeply"));
            }
            if self.depth == 0 {
                return Ok(Some(self.scanned));
            }
        }
        self.check(pending)?;
        Ok(None)
    }

    fn see(&mut self, byte: u8) {
        match byte {
            _ if self.escaped => self.escaped = false,
            b'\\' if self.in_string => self.escaped = true,
            b'"' => self.in_string = !self.in_string,
            _ if self.in_string => {}
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => self.depth -= 1,
            _ => {}
        }
    }

    /// Tells garbage from a packet that is not complete yet, so that its sender need not wait for an answer that would
    /// never come. Done when the bytes have doubled, so all of it together is linear.
    fn check(&mut self, pending: &[u8]) -> Result<(), FrameError> {
        if pending.len() < 2 * self.checked || pending.len() > CHECKED_TO {
            return Ok(());
        }
        self.checked = pending.len();
        match serde_json::from_slice::<Value>(pending) {
            Err(error) if !error.is_eof() => Err(FrameError::Malformed(error.to_string())),
            _ => Ok(()),
        }
    }
}

/// Reads one whole packet.
pub(super) fn decode(bytes: &[u8]) -> Result<Value, String> {
    serde_json::from_slice(bytes).map_err(|error| error.to_string())
}

/// The packet's id if that is the first key, as every client writes it, whatever comes after.
pub(super) fn leading_id(bytes: &[u8]) -> Option<u32> {
    let mut rest = bytes;
    for token in [&b"{"[..], b"\"id\"", b":"] {
        rest = rest.trim_ascii_start().strip_prefix(token)?;
    }
    let rest = rest.trim_ascii_start();
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    match rest.get(digits)? {
        b',' | b'}' | b' ' | b'\t' | b'\r' | b'\n' => std::str::from_utf8(&rest[..digits]).ok()?.parse().ok(),
        _ => None,
    }
}
