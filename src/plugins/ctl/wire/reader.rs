//! Packets out of a stream of bytes.

use std::fmt;

use ciborium::Value;

use super::{Codec, Packet, cbor, get, json};

/// How deeply the values of a packet may be nested. The decoders behind have higher limits of their own.
pub(super) const MAX_DEPTH: usize = 64;

/// What makes a buffer that has been emptied worth giving back.
const KEEP: usize = 4096;

/// Why the end of a packet will never be found.
#[derive(Debug, PartialEq)]
pub(super) enum FrameError {
    TooLong,
    Malformed(String),
}

impl FrameError {
    pub(super) fn malformed(message: &str) -> FrameError {
        FrameError::Malformed(message.to_owned())
    }
}

/// Why the stream can be read no further.
#[derive(Debug, Clone, PartialEq)]
pub struct ReadError {
    /// The id of the packet that is wrong, if that much of it could be read and it is not a notification.
    pub id: Option<u32>,
    message: String,
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ReadError {}

#[derive(Debug)]
enum Framer {
    Json(json::Framer),
    Cbor(cbor::Framer),
}

impl Framer {
    fn new(codec: Codec) -> Framer {
        match codec {
            Codec::Json => Framer::Json(json::Framer::default()),
            Codec::Cbor => Framer::Cbor(cbor::Framer::default()),
        }
    }

    fn scan(&mut self, pending: &[u8], limit: usize) -> Result<Option<usize>, FrameError> {
        match self {
            Framer::Json(framer) => framer.scan(pending, limit),
            Framer::Cbor(framer) => framer.scan(pending, limit),
        }
    }
}

/// Takes bytes as they come and gives packets. After an error it is of no more use.
#[derive(Debug)]
pub struct Reader {
    codec: Codec,
    limit: usize,
    buffer: Vec<u8>,
    /// Where in the buffer the current packet begins.
    start: usize,
    framer: Framer,
}

impl Reader {
    /// A reader for packets of at most `limit` bytes.
    pub fn new(codec: Codec, limit: usize) -> Reader {
        Reader { codec, limit, buffer: Vec::new(), start: 0, framer: Framer::new(codec) }
    }

    /// Takes more bytes. Call [`Reader::packet`] until it has none before giving it more: what has not been read is kept.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.start);
        self.start = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// Whether nothing of a next packet has come.
    pub fn is_empty(&self) -> bool {
        self.start == self.buffer.len()
    }

    /// The next packet, if all of it has come.
    ///
    /// # Errors
    /// It is too long, or not a packet. Where the next one begins is then unknown.
    pub fn packet(&mut self) -> Result<Option<Packet>, ReadError> {
        if self.codec == Codec::Json {
            let rest = &self.buffer[self.start..];
            // Not once a packet has begun: it begins with a brace.
            self.start += rest.len() - rest.trim_ascii_start().len();
        }
        if self.is_empty() {
            self.start = 0;
            self.buffer.clear();
            if self.buffer.capacity() > KEEP {
                self.buffer = Vec::new();
            }
            return Ok(None);
        }
        let pending = &self.buffer[self.start..];
        let length = match self.framer.scan(pending, self.limit) {
            Ok(None) => return Ok(None),
            Ok(Some(length)) => length,
            Err(error) => return Err(self.wrong(pending, error)),
        };
        let bytes = &pending[..length];
        let packet = self.decode(bytes).map_err(|message| self.wrong(bytes, FrameError::Malformed(message)))?;
        self.start += length;
        self.framer = Framer::new(self.codec);
        Ok(Some(packet))
    }

    fn decode(&self, bytes: &[u8]) -> Result<Packet, String> {
        let mut value = match self.codec {
            Codec::Json => json::decode(bytes),
            Codec::Cbor => cbor::decode(bytes),
        }?;
        let (id, method) = (number(&value, "id", u32::MAX)?, number(&value, "method", u16::MAX)?);
        let mut entries = value.as_map_mut().into_iter().flatten();
        let body = entries.rfind(|(key, _)| key.as_text() == Some("body")).map(|(_, body)| body);
        Ok(Packet { id, method, body: body.map_or(Value::Null, |body| std::mem::replace(body, Value::Null)) })
    }

    fn wrong(&self, bytes: &[u8], error: FrameError) -> ReadError {
        let id = match self.codec {
            Codec::Json => json::leading_id(bytes),
            Codec::Cbor => cbor::leading_id(bytes),
        };
        let message = match error {
            FrameError::TooLong => format!("the packet is longer than {} bytes", self.limit),
            FrameError::Malformed(message) => format!("this is not a {} packet: {message}", self.codec.name()),
        };
        ReadError { id: id.filter(|&id| id != 0), message }
    }
}

/// A number of the packet's own, within its range.
fn number<T: TryFrom<u64>>(packet: &Value, key: &str, max: impl fmt::Display) -> Result<T, String> {
    let value = get(packet, key).ok_or_else(|| format!("it has no {key}"))?;
    let number = value.as_integer().and_then(|integer| u64::try_from(integer).ok());
    number
        .and_then(|number| T::try_from(number).ok())
        .ok_or_else(|| format!("its {key} is not a whole number from 0 to {max}"))
}
