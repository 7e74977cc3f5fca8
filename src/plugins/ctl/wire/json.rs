//! End and contents of a JSON packet.

use ciborium::Value;

use super::frame::{FrameError, Framer, MAX_DEPTH};

/// Maximum size up to which an incomplete packet is checked. A longer one was not typed by hand.
const MAX_CHECKED: usize = 64 << 10;

/// Place of the last byte.
#[derive(Debug, Default, Clone, Copy)]
enum Place {
    #[default]
    Structure,
    String,
    Escape,
}

/// Scans one packet from its opening brace to its closing one, each byte once. [`Framer::decode`] finds out whether it is
/// JSON in between.
#[derive(Debug, Default)]
pub(super) struct JsonFramer {
    scanned: usize,
    depth: usize,
    place: Place,
    checked: usize,
}

impl Framer for JsonFramer {
    fn scan(&mut self, pending: &[u8], limit: usize) -> Result<Option<usize>, FrameError> {
        while let Some(&byte) = pending.get(self.scanned) {
            if self.scanned == 0 && byte != b'{' {
                return Err(FrameError::malformed("a packet begins with {"));
            }
            if self.scanned == limit {
                return Err(FrameError::TooLong);
            }
            self.scanned += 1;
            self.place = match (self.place, byte) {
                (Place::String, b'\\') => Place::Escape,
                (Place::String, b'"') => Place::Structure,
                (Place::String | Place::Escape, _) | (Place::Structure, b'"') => Place::String,
                (Place::Structure, _) => Place::Structure,
            };
            if matches!(self.place, Place::Structure) {
                match byte {
                    b'{' | b'[' => self.depth += 1,
                    b'}' | b']' => self.depth -= 1,
                    _ => {}
                }
            }
            if self.depth > MAX_DEPTH {
                return Err(FrameError::malformed("nested too deeply"));
            }
            if self.depth == 0 {
                return Ok(Some(self.scanned));
            }
        }
        self.check(pending)?;
        Ok(None)
    }

    fn decode(&self, packet: &[u8]) -> Result<Value, String> {
        serde_json::from_slice(packet).map_err(|error| error.to_string())
    }

    fn leading_id(&self, bytes: &[u8]) -> Option<u32> {
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
}

impl JsonFramer {
    /// Tells garbage from an incomplete packet, so that its sender does not wait for a response that never comes. Runs
    /// each time the size has doubled, so all checks together are linear.
    fn check(&mut self, pending: &[u8]) -> Result<(), FrameError> {
        if pending.len() < 2 * self.checked || pending.len() > MAX_CHECKED {
            return Ok(());
        }
        self.checked = pending.len();
        match serde_json::from_slice::<Value>(pending) {
            Err(error) if !error.is_eof() => Err(FrameError::Malformed(error.to_string())),
            _ => Ok(()),
        }
    }
}
