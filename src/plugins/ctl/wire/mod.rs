//! Packets and their bytes, in both codecs, for the server and for the client. Pure: no sockets, no clock.
//!
//! A packet is `{"id": u32, "method": u16, "body": …}`. [`encode`] makes one, [`Reader`] finds them in a stream of bytes that
//! may be cut anywhere. Invariants: what has been scanned is not scanned again, so a peer that trickles bytes costs no more
//! than one that sends them at once; and no claim of a peer (a length, a nesting) makes memory be taken before its bytes
//! have come.

mod cbor;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod json;
mod reader;
#[cfg(test)]
mod tests;

use serde::Serialize;

pub use ciborium::Value;
pub use reader::{ReadError, Reader};

/// How packets are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// One JSON object each, with a newline after it that readers do not rely on.
    Json,
    /// One CBOR map each.
    Cbor,
}

impl Codec {
    /// All of them.
    pub const ALL: [Codec; 2] = [Codec::Json, Codec::Cbor];

    /// The name that the configuration and the command line use.
    pub fn name(self) -> &'static str {
        match self {
            Codec::Json => "json",
            Codec::Cbor => "cbor",
        }
    }

    /// The codec of that name.
    pub fn named(name: &str) -> Option<Codec> {
        Codec::ALL.into_iter().find(|codec| codec.name() == name)
    }
}

/// A packet that has been read.
#[derive(Debug, Clone, PartialEq)]
pub struct Packet {
    /// 0 for a notification; otherwise a response carries its request's.
    pub id: u32,
    /// What is asked or answered, see [`super::methods`].
    pub method: u16,
    /// The rest, with the keys in the sender's order. Null if there is none.
    pub body: Value,
}

/// A body could not be written, with the serializer's reason.
#[derive(Debug)]
pub struct EncodeError(String);

impl std::fmt::Display for EncodeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for EncodeError {}

#[derive(Serialize)]
struct Envelope<'a, B> {
    id: u32,
    method: u16,
    body: &'a B,
}

/// Appends a packet to `out`.
///
/// # Errors
/// The body's own serialization failed; `out` is as it was.
pub fn encode(codec: Codec, id: u32, method: u16, body: &impl Serialize, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let before = out.len();
    let envelope = Envelope { id, method, body };
    let result = match codec {
        Codec::Json => serde_json::to_writer(&mut *out, &envelope).map_err(|error| error.to_string()),
        Codec::Cbor => ciborium::into_writer(&envelope, &mut *out).map_err(|error| error.to_string()),
    };
    match result {
        Ok(()) if codec == Codec::Json => out.push(b'\n'),
        Ok(()) => {}
        Err(error) => {
            out.truncate(before);
            return Err(EncodeError(error));
        }
    }
    Ok(())
}

/// The value under a key of a map; the last one if there are several, as most decoders have it.
pub fn get<'a>(map: &'a Value, key: &str) -> Option<&'a Value> {
    map.as_map()?.iter().rev().find(|(name, _)| name.as_text() == Some(key)).map(|(_, value)| value)
}
