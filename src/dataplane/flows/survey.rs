//! The flows as people want to see them.

use std::time::{Duration, Instant};

use crate::engine::core::FrontendId;
use crate::netlink::conntrack::Entry;

/// How many flows of a target are listed.
pub(super) const LISTED: usize = 100;

/// All flows at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Survey {
    /// The use of each target, by id.
    pub targets: Vec<TargetUse>,
    /// How many flows of each frontend are in use, by id.
    pub frontends: Vec<u32>,
    /// The flows of the target that was asked for: those in use first, the youngest last; at most a hundred.
    pub details: Vec<FlowDetail>,
}

/// The use of one target.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TargetUse {
    /// How many flows are in use.
    pub flows: u32,
    /// When the last one ended, if any has.
    pub ended: Option<Instant>,
    /// Until when the last one lives at the least.
    pub until: Option<Instant>,
}

/// One flow.
#[derive(Debug, Clone, PartialEq)]
pub struct FlowDetail {
    /// Where it came to.
    pub frontend: FrontendId,
    /// Its conntrack entry.
    pub entry: Entry,
    /// Whether it counts as use.
    pub counts: bool,
    /// For how long it has been known, at the least.
    pub age: Option<Duration>,
}
