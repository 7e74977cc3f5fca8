//! What a frontend kind makes of one element of `frontends`.

use std::time::Duration;

use super::Handler;

/// A frontend as its plugin describes it. Creating one has no effect on the system: `proxygw --check` does it too.
pub struct Frontend {
    /// What the kernel does with a new flow while the target is not active.
    pub cold: ColdPath,
    /// Whether the target is kept warm for as long as the frontend runs.
    pub keeps_warm: bool,
    /// The frontend's own sockets, if it has any.
    pub handler: Option<Box<dyn Handler>>,
}

/// What happens to a new flow to a frontend whose target is not active.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColdPath {
    /// The packets go to this host's own sockets: the frontend's handler listens there and answers.
    Local,
    /// First packets are dropped, so that the client tries again and finds the backend; it is never refused.
    Drop,
    /// First packets wake the target and wait in the gateway until it is active; then they go on, as if the backend had
    /// always been there.
    Hold(HoldOptions),
}

/// How first packets are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HoldOptions {
    /// The NFLOG group that carries them; the same for all frontends.
    pub group: u16,
    /// How many packets wait at most; the oldest make room.
    pub packets: u32,
    /// How many of them may be of one source (an IPv4 address, or an IPv6 network of 64 bits).
    pub per_source: u32,
    /// How many bytes wait at most.
    pub bytes: u32,
    /// How long a packet waits at most.
    pub timeout: Duration,
    /// What clients are told when the target fails, or the time is over.
    pub on_failure: OnFailure,
    /// Whether the packets are sent on by the gateway. Otherwise the client's own retransmission is what arrives: then a
    /// firewall's forward policy judges every packet.
    pub replay: bool,
}

/// What clients are told when their packets cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFailure {
    /// Nothing: they try again by themselves.
    Drop,
    /// That nobody is there: a reset for TCP, the ICMP error for UDP; at once for as long as the target backs off.
    Reject,
}
