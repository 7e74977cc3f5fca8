//! Packets and how they are written.

use ciborium::Value;
use serde::Serialize;

use crate::plugin::Error;

/// Encoding of packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// One JSON object each, followed by a newline that readers do not rely on.
    Json,
    /// One CBOR map each.
    Cbor,
}

impl Codec {
    /// All codecs.
    pub const ALL: [Codec; 2] = [Codec::Json, Codec::Cbor];

    /// Name in the configuration and on the command line.
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

/// A packet that was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Packet {
    /// 0 for a notification; a response has the id of its request.
    pub id: u32,
    /// A method of [`crate::plugins::ctl::methods`].
    pub method: u16,
    /// The body, with its keys in the sender's order. Null if there is none.
    pub body: Value,
}

#[derive(Serialize)]
struct Envelope<'a, B> {
    id: u32,
    method: u16,
    body: &'a B,
}

/// Appends a packet to `out`.
///
/// # Errors
/// The body's own serialization failed; `out` is unchanged.
pub fn encode(codec: Codec, id: u32, method: u16, body: &impl Serialize, out: &mut Vec<u8>) -> Result<(), Error> {
    let before = out.len();
    let envelope = Envelope { id, method, body };
    let result = match codec {
        Codec::Json => serde_json::to_writer(&mut *out, &envelope).map(|()| out.push(b'\n')).map_err(Error::from),
        Codec::Cbor => ciborium::into_writer(&envelope, &mut *out).map_err(Error::from),
    };
    result.inspect_err(|_| out.truncate(before))
}

/// The value of a key in a map; the last one if there are several, as in most decoders.
pub fn get<'a>(map: &'a Value, key: &str) -> Option<&'a Value> {
    map.as_map()?.iter().rev().find(|(name, _)| name.as_text() == Some(key)).map(|(_, value)| value)
}
