//! Where a CBOR packet ends, and what it says.
//!
//! Only the structure of RFC 8949 is followed here, without recursion: heads, lengths, and how many items are still open.

use ciborium::Value;

use super::reader::{FrameError, MAX_DEPTH};

/// What an item that has begun is still waiting for.
#[derive(Debug)]
enum Open {
    /// So many more items.
    Items(u64),
    /// Items until a break.
    Sequence,
    /// Pairs until a break, which may not come between a key and its value.
    Pairs { key_seen: bool },
    /// Strings of this major type until a break.
    Chunks(u8),
}

/// Follows one packet from its first head to its last byte, each head and string once.
#[derive(Debug, Default)]
pub(super) struct Framer {
    scanned: usize,
    /// What is left of the string that has begun.
    string: usize,
    open: Vec<Open>,
}

impl Framer {
    /// The packet's length, once all of it is in `pending`; `pending` begins with the packet and only ever grows.
    pub(super) fn scan(&mut self, pending: &[u8], limit: usize) -> Result<Option<usize>, FrameError> {
        loop {
            if self.string > 0 {
                let come = self.string.min(pending.len() - self.scanned);
                self.scanned += come;
                self.string -= come;
                if self.string > 0 {
                    return Ok(None);
                }
                if self.item_done() {
                    return Ok(Some(self.scanned));
                }
            }
            let Some(head) = Head::read(&pending[self.scanned..])? else {
                return if self.scanned >= limit { Err(FrameError::TooLong) } else { Ok(None) };
            };
            let first = self.scanned == 0;
            if first && head.major != MAP {
                return Err(FrameError::malformed("a packet is a map"));
            }
            self.scanned += head.length;
            // Each of the items that a head announces takes a byte at least.
            let bytes = if head.major == MAP { head.value.saturating_mul(2) } else { head.value };
            let announces = matches!(head.major, BYTES | TEXT | ARRAY | MAP) && !head.indefinite;
            let room = limit.checked_sub(self.scanned).ok_or(FrameError::TooLong)?;
            if announces && bytes > room as u64 {
                return Err(FrameError::TooLong);
            }
            if self.enter(&head, bytes)? {
                return Ok(Some(self.scanned));
            }
        }
    }

    /// Takes a head in; whether the packet is complete with it. `size` is the string's length or the number of items.
    fn enter(&mut self, head: &Head, size: u64) -> Result<bool, FrameError> {
        let is_break = head.major == OTHER && head.indefinite;
        if let Some(&Open::Chunks(major)) = self.open.last()
            && !is_break
            && (head.major != major || head.indefinite)
        {
            return Err(FrameError::malformed("a string's part is something else"));
        }
        let opened = match (head.major, head.indefinite) {
            (BYTES | TEXT, false) if size > 0 => {
                self.string = size as usize;
                return Ok(false);
            }
            (BYTES | TEXT, true) => Open::Chunks(head.major),
            (ARRAY, true) => Open::Sequence,
            (MAP, true) => Open::Pairs { key_seen: false },
            (ARRAY | MAP, false) if size > 0 => Open::Items(size),
            (TAG, false) => return Ok(false),
            (OTHER, true) => {
                return match self.open.pop() {
                    Some(Open::Sequence | Open::Chunks(_) | Open::Pairs { key_seen: false }) => Ok(self.item_done()),
                    _ => Err(FrameError::malformed("a break where none can be")),
                };
            }
            (UNSIGNED | NEGATIVE | TAG, true) => return Err(FrameError::malformed("a head that does not exist")),
            _ => return Ok(self.item_done()),
        };
        if self.open.len() == MAX_DEPTH {
            return Err(FrameError::malformed("it is nested too deeply"));
        }
        self.open.push(opened);
        Ok(false)
    }

    /// Counts an item, and those that it completes; whether the packet is complete.
    fn item_done(&mut self) -> bool {
        loop {
            match self.open.last_mut() {
                None => return true,
                Some(Open::Items(1)) => {
                    self.open.pop();
                }
                Some(Open::Items(left)) => {
                    *left -= 1;
                    return false;
                }
                Some(Open::Pairs { key_seen }) => {
                    *key_seen = !*key_seen;
                    return false;
                }
                Some(Open::Sequence | Open::Chunks(_)) => return false,
            }
        }
    }
}

const UNSIGNED: u8 = 0;
const NEGATIVE: u8 = 1;
const BYTES: u8 = 2;
const TEXT: u8 = 3;
const ARRAY: u8 = 4;
const MAP: u8 = 5;
const TAG: u8 = 6;
const OTHER: u8 = 7;

/// The beginning of an item, RFC 8949 section 3.
struct Head {
    major: u8,
    value: u64,
    indefinite: bool,
    /// How many bytes the head takes.
    length: usize,
}

impl Head {
    /// `None` if not all of it has come.
    fn read(bytes: &[u8]) -> Result<Option<Head>, FrameError> {
        let Some(&initial) = bytes.first() else { return Ok(None) };
        let more = match initial & 0x1f {
            0..24 | 31 => 0,
            code @ 24..28 => 1usize << (code - 24),
            _ => return Err(FrameError::malformed("a head that does not exist")),
        };
        let Some(argument) = bytes.get(1..=more) else { return Ok(None) };
        let value = match more {
            0 => u64::from(initial & 0x1f),
            _ => argument.iter().fold(0, |value, &byte| value << 8 | u64::from(byte)),
        };
        Ok(Some(Head { major: initial >> 5, value, indefinite: initial & 0x1f == 31, length: 1 + more }))
    }
}

/// Reads one whole packet.
pub(super) fn decode(mut bytes: &[u8]) -> Result<Value, String> {
    use ciborium::de::Error;
    let value = ciborium::from_reader(&mut bytes).map_err(|error| match error {
        Error::Io(_) => "an item ends too early".to_owned(),
        Error::Syntax(offset) => format!("syntax error at byte {offset}"),
        Error::Semantic(_, message) => message,
        Error::RecursionLimitExceeded => "it is nested too deeply".to_owned(),
    })?;
    if bytes.is_empty() { Ok(value) } else { Err("its items do not fill it".to_owned()) }
}

/// The packet's id if that is the first key, as every client writes it, whatever comes after.
pub(super) fn leading_id(bytes: &[u8]) -> Option<u32> {
    let map = Head::read(bytes).ok()??;
    let rest = bytes[map.length..].strip_prefix(b"\x62id")?;
    let id = Head::read(rest).ok()??;
    if map.major == MAP && id.major == UNSIGNED && !id.indefinite { id.value.try_into().ok() } else { None }
}
