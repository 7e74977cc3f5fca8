//! Finding the end of a packet: the interface of both codecs.

use std::fmt::Debug;

use ciborium::Value;

/// Maximum nesting of the values in a packet. The decoders have higher limits of their own.
pub(super) const MAX_DEPTH: usize = 64;

/// Finds the end of one packet in bytes that arrive in parts, and decodes the packet.
pub(super) trait Framer: Debug + Send {
    /// Returns the packet's length once `pending` has all of it. `pending` starts with the packet and only grows.
    fn scan(&mut self, pending: &[u8], limit: usize) -> Result<Option<usize>, FrameError>;

    /// Decodes a whole packet.
    fn decode(&self, packet: &[u8]) -> Result<Value, String>;

    /// Returns the packet's id if it is the first key, as every client writes it. Ignores all that follows.
    fn leading_id(&self, bytes: &[u8]) -> Option<u32>;
}

/// Reason why the end of a packet cannot be found.
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
