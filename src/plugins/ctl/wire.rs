//! The control socket's format: packets of an id, a method and a body, back to back, as JSON or as CBOR (RFC 8949).
//!
//! Existing clients speak it, so it stays. Requests have even methods and any id but 0, and are answered with exactly one
//! packet of the same id and the next, odd method, or with [`method::ERROR`]. Packets with the id 0 are notifications.

use std::fmt;

use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};

/// The numbers of the methods.
pub mod method {
    /// The answer that says that something went wrong: `{"msg": …}`.
    pub const ERROR: u16 = 1;
    /// Asks for the state of everything.
    pub const STATUS: u16 = 2;
    /// Orders a target to be warmed: `{"name": …}`, as with all that follow.
    pub const WARM_TARGET: u16 = 8;
    /// Orders a target to be drained.
    pub const DRAIN_TARGET: u16 = 10;
    /// Orders a frontend to be started.
    pub const START_FRONTEND: u16 = 16;
    /// Orders a frontend to be stopped.
    pub const STOP_FRONTEND: u16 = 18;
    /// Notifies that a frontend should warm its target.
    pub const FRONTEND_SHOULD_WARM: u16 = 32768;
}

/// How packets are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// One JSON object each. Ours end with a newline; those that we read need not.
    Json,
    /// One CBOR map each, with nothing in between.
    Cbor,
}

impl Codec {
    /// The codec that the configuration calls so.
    pub fn from_name(name: &str) -> Option<Codec> {
        match name {
            "json" => Some(Codec::Json),
            "cbor" => Some(Codec::Cbor),
            _ => None,
        }
    }
}

/// One packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packet<B> {
    /// Which answer belongs to which request; 0 for a notification.
    pub id: u32,
    /// What it is about, see [`method`].
    pub method: u16,
    /// The rest.
    #[serde(default = "Option::default")]
    pub body: Option<B>,
}

/// The body of a request, as far as it matters: anything else in it is ignored.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum RequestBody {
    /// The body names something.
    Named {
        /// The target or frontend that is meant.
        name: String,
    },
    /// It does not.
    Other(Ignored),
}

/// Any value, which is not looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ignored;

impl<'de> Deserialize<'de> for Ignored {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Ignored, D::Error> {
        deserializer.deserialize_ignored_any(IgnoredAny).map(|_| Ignored)
    }
}

/// The body of [`method::ERROR`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What went wrong.
    pub msg: String,
}

/// An empty body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Empty {}

/// What the beginning of some bytes is.
#[derive(Debug, PartialEq, Eq)]
pub enum Decoded<B> {
    /// A packet, and how many bytes it takes.
    Packet(Packet<B>, usize),
    /// Nothing, or the beginning of a packet.
    Incomplete,
    /// Nothing that can become a packet, and why.
    Malformed(String),
}

/// Writes a packet.
pub fn encode<B: Serialize>(codec: Codec, packet: &Packet<B>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let result = match codec {
        Codec::Json => serde_json::to_writer(&mut bytes, packet).map_err(|error| error.to_string()),
        Codec::Cbor => ciborium::into_writer(packet, &mut bytes).map_err(|error| error.to_string()),
    };
    // Writing to memory does not fail, and our bodies have nothing that a codec cannot express.
    debug_assert_eq!(result, Ok(()));
    if codec == Codec::Json {
        bytes.push(b'\n');
    }
    bytes
}

/// Reads the packet at the beginning of some bytes.
pub fn decode<B: DeserializeOwned>(codec: Codec, bytes: &[u8]) -> Decoded<B> {
    match codec {
        Codec::Json => {
            let mut packets = serde_json::Deserializer::from_slice(bytes).into_iter();
            match packets.next() {
                None => Decoded::Incomplete,
                Some(Ok(packet)) => Decoded::Packet(packet, packets.byte_offset()),
                Some(Err(error)) if error.is_eof() => Decoded::Incomplete,
                Some(Err(error)) => Decoded::Malformed(error.to_string()),
            }
        }
        Codec::Cbor => {
            let mut rest = bytes;
            match ciborium::from_reader_with_buffer(&mut rest, &mut [0; 4096]) {
                Ok(packet) => Decoded::Packet(packet, bytes.len() - rest.len()),
                Err(ciborium::de::Error::Io(_)) => Decoded::Incomplete,
                Err(error) => Decoded::Malformed(error.to_string()),
            }
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Codec::Json => "json",
            Codec::Cbor => "cbor",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CBOR_STATUS: &[u8] = b"\xa3\x62\x69\x64\x01\x66\x6d\x65\x74\x68\x6f\x64\x02\x64\x62\x6f\x64\x79\xa0";

    fn request(codec: Codec, bytes: &[u8]) -> Decoded<RequestBody> {
        decode(codec, bytes)
    }

    #[test]
    fn a_status_request_has_the_bytes_that_existing_clients_send() {
        let packet = Packet { id: 1, method: method::STATUS, body: Some(Empty {}) };
        assert_eq!(encode(Codec::Json, &packet), b"{\"id\":1,\"method\":2,\"body\":{}}\n");
        assert_eq!(encode(Codec::Cbor, &packet), CBOR_STATUS);
        let read = Packet { id: 1, method: method::STATUS, body: Some(RequestBody::Other(Ignored)) };
        assert_eq!(request(Codec::Cbor, CBOR_STATUS), Decoded::Packet(read.clone(), CBOR_STATUS.len()));
        let json = b"{\"id\":1,\"method\":2,\"body\":{}}";
        assert_eq!(request(Codec::Json, json), Decoded::Packet(read, json.len()));
    }

    #[test]
    fn each_prefix_is_incomplete() {
        let json = b"{\"id\":4294967295,\"method\":8,\"body\":{\"name\":\"b\",\"x\":[1,{\"y\":null}]}}";
        for end in 0..json.len() {
            assert_eq!(request(Codec::Json, &json[..end]), Decoded::Incomplete, "{end}");
        }
        for end in 0..CBOR_STATUS.len() {
            assert_eq!(request(Codec::Cbor, &CBOR_STATUS[..end]), Decoded::Incomplete, "{end}");
        }
        let named = Packet { id: u32::MAX, method: 8, body: Some(RequestBody::Named { name: "b".to_owned() }) };
        assert_eq!(request(Codec::Json, json), Decoded::Packet(named, json.len()));
    }

    #[test]
    fn packets_stand_back_to_back_and_bodies_may_be_missing() {
        let json = b" {\"id\":1,\"method\":2}{\"method\":2,\"id\":2,\"body\":null,\"new\":[]}";
        let Decoded::Packet(first, used) = request(Codec::Json, json) else { panic!("a packet") };
        assert_eq!((first.id, first.body), (1, None));
        let Decoded::Packet(second, _) = request(Codec::Json, &json[used..]) else { panic!("a packet") };
        assert_eq!((second.id, second.body), (2, None));
    }

    #[test]
    fn what_cannot_become_a_packet_is_malformed() {
        let deep = format!("{{\"id\":1,\"method\":2,\"body\":{}", "[".repeat(10_000));
        for bad in [
            "GET / HTTP/1.1\r\n\r\n",
            "[]",
            "{\"id\":-1,",
            "{\"id\":1,\"method\":65536}",
            "{\"id\":1}",
            "}",
            "nul!",
            &deep,
        ] {
            assert!(matches!(request(Codec::Json, bad.as_bytes()), Decoded::Malformed(_)), "{bad:.40}");
        }
        let deep = [&b"\xa3\x62id\x01\x66method\x02\x64body"[..], &[0x81; 10_000]].concat();
        for bad in [&b"GET / HTTP/1.1"[..], b"\xff", b"\x01", b"\xa1\x62id\x01", &deep] {
            assert!(matches!(request(Codec::Cbor, bad), Decoded::Malformed(_)), "{bad:.20x?}");
        }
        // A length of 2^60 is only a claim: nothing is reserved for it.
        assert_eq!(
            request(Codec::Cbor, b"\xa3\x62id\x01\x66method\x02\x64body\x7b\x10\0\0\0\0\0\0\0x"),
            Decoded::Incomplete
        );
    }
}
