//! Packets out of a stream of bytes.

use std::fmt;

use ciborium::Value;

use super::cbor::CborFramer;
use super::frame::{FrameError, Framer};
use super::json::JsonFramer;
use super::packet::{Codec, Packet, get};

/// Maximum capacity of an empty buffer. More is freed.
const MAX_IDLE_CAPACITY: usize = 4096;

/// Error after which the stream cannot be read any further.
#[derive(Debug, Clone, PartialEq)]
pub struct ReadError {
    /// Id of the malformed packet, if it could be read and the packet is not a notification.
    pub id: Option<u32>,
    message: String,
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ReadError {}

/// Receives bytes as they come and returns packets. Useless after an error.
#[derive(Debug)]
pub struct Reader {
    codec: Codec,
    limit: usize,
    buffer: Vec<u8>,
    /// Start of the current packet in the buffer.
    start: usize,
    framer: Box<dyn Framer>,
}

impl Reader {
    /// A reader of packets of at most `limit` bytes.
    pub fn new(codec: Codec, limit: usize) -> Reader {
        Reader { codec, limit, buffer: Vec::new(), start: 0, framer: framer(codec) }
    }

    /// Adds bytes. Call [`Reader::packet`] until it returns none before adding more: bytes that were not read are kept.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.start);
        self.start = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// Returns true if no byte of a next packet is there.
    pub fn is_empty(&self) -> bool {
        self.start == self.buffer.len()
    }

    /// The next packet, if all of it is there.
    ///
    /// # Errors
    /// It is too long, or not a packet. The start of the next one is then unknown.
    pub fn packet(&mut self) -> Result<Option<Packet>, ReadError> {
        if self.codec == Codec::Json {
            let rest = &self.buffer[self.start..];
            // Not within a packet: a packet begins with a brace.
            self.start += rest.len() - rest.trim_ascii_start().len();
        }
        if self.is_empty() {
            self.start = 0;
            self.buffer.clear();
            if self.buffer.capacity() > MAX_IDLE_CAPACITY {
                self.buffer = Vec::new();
            }
            return Ok(None);
        }
        let pending = &self.buffer[self.start..];
        let length = match self.framer.scan(pending, self.limit) {
            Ok(None) => return Ok(None),
            Ok(Some(length)) => length,
            Err(error) => return Err(self.error(pending, error)),
        };
        let bytes = &pending[..length];
        let value = self.framer.decode(bytes).and_then(packet);
        let packet = value.map_err(|message| self.error(bytes, FrameError::Malformed(message)))?;
        self.start += length;
        self.framer = framer(self.codec);
        Ok(Some(packet))
    }

    fn error(&self, bytes: &[u8], error: FrameError) -> ReadError {
        let id = self.framer.leading_id(bytes).filter(|&id| id != 0);
        let message = match error {
            FrameError::TooLong => format!("the packet is longer than {} bytes", self.limit),
            FrameError::Malformed(message) => format!("not a {} packet: {message}", self.codec.name()),
        };
        ReadError { id, message }
    }
}

fn framer(codec: Codec) -> Box<dyn Framer> {
    match codec {
        Codec::Json => Box::new(JsonFramer::default()),
        Codec::Cbor => Box::new(CborFramer::default()),
    }
}

/// The packet in a decoded value.
fn packet(mut value: Value) -> Result<Packet, String> {
    let (id, method) = (number(&value, "id", u32::MAX)?, number(&value, "method", u16::MAX)?);
    let mut entries = value.as_map_mut().into_iter().flatten();
    let body = entries.rfind(|(key, _)| key.as_text() == Some("body")).map(|(_, body)| body);
    Ok(Packet { id, method, body: body.map_or(Value::Null, |body| std::mem::replace(body, Value::Null)) })
}

/// A number of the packet itself, within its range.
fn number<T: TryFrom<u64>>(packet: &Value, key: &str, max: impl fmt::Display) -> Result<T, String> {
    let value = get(packet, key).ok_or_else(|| format!("it has no {key}"))?;
    let number = value.as_integer().and_then(|integer| u64::try_from(integer).ok());
    number
        .and_then(|number| T::try_from(number).ok())
        .ok_or_else(|| format!("its {key} is not a whole number from 0 to {max}"))
}
