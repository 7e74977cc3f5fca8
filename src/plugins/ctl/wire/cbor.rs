//! End and contents of a CBOR packet.
//!
//! The scanner follows only the structure of RFC 8949, without recursion: heads, lengths, and the items still open.

use ciborium::Value;
use ciborium_ll::{Decoder, Error, Header};

use super::frame::{FrameError, Framer, MAX_DEPTH};

/// What an item that has begun still needs.
#[derive(Debug)]
enum Open {
    /// This number of further items.
    Items(usize),
    /// Items until a break.
    Array,
    /// A key or a break.
    Key,
    /// The value of a key.
    Value,
    /// Byte strings until a break.
    Bytes,
    /// Text strings until a break.
    Text,
}

/// Scans one packet, each byte once.
#[derive(Debug, Default)]
pub(super) struct CborFramer {
    /// Bytes of all heads and strings so far; the last string may not have arrived yet.
    scanned: usize,
    open: Vec<Open>,
}

impl Framer for CborFramer {
    fn scan(&mut self, pending: &[u8], limit: usize) -> Result<Option<usize>, FrameError> {
        while self.scanned == 0 || !self.open.is_empty() {
            let Some(rest) = pending.get(self.scanned..) else { return Ok(None) };
            let Some((header, length)) = head(rest)? else {
                return if self.scanned >= limit { Err(FrameError::TooLong) } else { Ok(None) };
            };
            if self.scanned == 0 && !matches!(header, Header::Map(_)) {
                return Err(FrameError::malformed("a packet is a map"));
            }
            self.scanned += length;
            // Each announced item takes at least one byte.
            let size = match header {
                Header::Bytes(Some(size)) | Header::Text(Some(size)) | Header::Array(Some(size)) => size,
                Header::Map(Some(pairs)) => pairs.saturating_mul(2),
                _ => 0,
            };
            if limit.checked_sub(self.scanned).is_none_or(|space| size > space) {
                return Err(FrameError::TooLong);
            }
            self.enter(&header, size)?;
        }
        Ok((self.scanned <= pending.len()).then_some(self.scanned))
    }

    fn decode(&self, mut packet: &[u8]) -> Result<Value, String> {
        use ciborium::de::Error;
        let value = ciborium::from_reader(&mut packet).map_err(|error| match error {
            Error::Io(_) => "an item ends too early".to_owned(),
            Error::Syntax(offset) => format!("syntax error at byte {offset}"),
            Error::Semantic(_, message) => message,
            Error::RecursionLimitExceeded => "nested too deeply".to_owned(),
        })?;
        if packet.is_empty() { Ok(value) } else { Err("bytes after the last item".to_owned()) }
    }

    fn leading_id(&self, bytes: &[u8]) -> Option<u32> {
        let Ok(Some((Header::Map(_), length))) = head(bytes) else { return None };
        let Ok(Some((Header::Positive(id), _))) = head(bytes[length..].strip_prefix(b"\x62id")?) else { return None };
        id.try_into().ok()
    }
}

impl CborFramer {
    /// Handles a head. `size` is the length of its string or its number of items.
    fn enter(&mut self, header: &Header, size: usize) -> Result<(), FrameError> {
        match (self.open.last(), header) {
            (Some(Open::Bytes), Header::Bytes(Some(_)) | Header::Break)
            | (Some(Open::Text), Header::Text(Some(_)) | Header::Break) => {}
            (Some(Open::Bytes | Open::Text), _) => {
                return Err(FrameError::malformed("a part of a string has another type"));
            }
            _ => {}
        }
        let opened = match header {
            Header::Array(Some(1..)) | Header::Map(Some(1..)) => Open::Items(size),
            Header::Array(None) => Open::Array,
            Header::Map(None) => Open::Key,
            Header::Bytes(None) => Open::Bytes,
            Header::Text(None) => Open::Text,
            Header::Tag(_) => return Ok(()),
            Header::Break => match self.open.pop() {
                None | Some(Open::Items(_) | Open::Value) => return Err(FrameError::malformed("unexpected break")),
                Some(_) => {
                    self.finish_item();
                    return Ok(());
                }
            },
            _ => {
                self.scanned += size;
                self.finish_item();
                return Ok(());
            }
        };
        if self.open.len() == MAX_DEPTH {
            return Err(FrameError::malformed("nested too deeply"));
        }
        self.open.push(opened);
        Ok(())
    }

    /// Counts an item, and those that it completes.
    fn finish_item(&mut self) {
        while let Some(open) = self.open.last_mut() {
            match open {
                Open::Items(1) => _ = self.open.pop(),
                Open::Items(left) => return *left -= 1,
                Open::Key => return *open = Open::Value,
                Open::Value => return *open = Open::Key,
                Open::Array | Open::Bytes | Open::Text => return,
            }
        }
    }
}

/// The first head and its length. `None` if it has not arrived entirely.
fn head(bytes: &[u8]) -> Result<Option<(Header, usize)>, FrameError> {
    let mut decoder = Decoder::from(bytes);
    match decoder.pull() {
        Ok(header) => Ok(Some((header, decoder.offset()))),
        Err(Error::Io(_)) => Ok(None),
        Err(Error::Syntax(_)) => Err(FrameError::malformed("a head that does not exist")),
    }
}
