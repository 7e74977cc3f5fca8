//! Packets and their bytes in both codecs, for the server and for the client. Pure: no sockets, no clock.
//!
//! A packet is `{"id": u32, "method": u16, "body": …}`. [`encode`] writes one, [`Reader`] finds them in a stream of bytes that
//! may be cut anywhere. Invariants: a scanned byte is not scanned again, so a client that sends single bytes costs no more
//! than one that sends them at once; and no length or nesting that a client announces takes memory before its bytes arrive.
//!
//! The decoders alone cannot find the end of a packet: serde_json's `StreamDeserializer` and ciborium read a slice from its
//! start each time. Measured with a request of 64 KiB that arrives in single bytes: 20 s of the reactor thread, instead of
//! 0.5 ms. So small scanners find the end, and a decoder reads each complete packet once.

mod cbor;
mod frame;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod json;
mod packet;
mod reader;
#[cfg(test)]
mod tests;

pub use ciborium::Value;
pub use packet::{Codec, Packet, encode, get};
pub use reader::{ReadError, Reader};
