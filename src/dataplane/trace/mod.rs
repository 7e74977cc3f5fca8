//! Traces a packet through a table of nftables without a kernel: "where does this packet go?".
//!
//! The rules come as JSON (libnftables-json(5)): transactions as `render` makes them, or listings of nft. The doctor traces
//! packets of which it does not know everything through the tables of other programs; the tests trace known ones through
//! ours. An expression or statement that is not known, or that depends on an unknown field, is never guessed: the trace
//! then contains every verdict that is possible. Pure, for any thread.

#[cfg(test)]
mod journey;
#[cfg(test)]
mod journey_tests;
mod packet;
mod ruleset;
#[cfg(test)]
mod tests;
mod value;
mod walk;

#[cfg(test)]
use crate::config::{Prefix, Protocol};
pub use packet::{Interface, Packet, Segment};
pub use ruleset::{BaseChain, Elements, Ruleset};
pub use walk::{Refusal, Trace, Verdict};
