//! What has been done with first packets, for the status.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use crate::engine::core::FrontendId;

/// Counts of one frontend. The reactor writes, the engine reads.
#[derive(Debug, Default)]
pub struct Counters {
    /// Packets that wait now.
    pub waiting: AtomicU64,
    /// First packets that came, of which:
    pub captured: AtomicU64,
    /// were a flow's again;
    pub repeated: AtomicU64,
    /// have been sent on;
    pub sent: AtomicU64,
    /// have made room for newer ones;
    pub made_room: AtomicU64,
    /// have waited for too long, or until the target failed;
    pub given_up: AtomicU64,
    /// could not be sent on.
    pub unsent: AtomicU64,
}

/// [`Counters`] at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the fields are those of Counters")]
pub struct HoldStatus {
    pub waiting: u64,
    pub captured: u64,
    pub repeated: u64,
    pub sent: u64,
    pub made_room: u64,
    pub given_up: u64,
    pub unsent: u64,
}

/// Counts of all frontends together.
#[derive(Debug, Default)]
pub struct Totals {
    /// First packets that could not be held: fragments, malformed ones, neither TCP nor UDP, or with headers too long to
    /// be sent again.
    pub unfit: AtomicU64,
    /// First packets from outside whose source no other host can have. The rules drop them before; these have come another
    /// way.
    pub forged: AtomicU64,
    /// How often packets came faster than they could be read, and some were lost.
    pub overruns: AtomicU64,
}

/// [`Totals`] at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the fields are those of Totals")]
pub struct TotalsStatus {
    pub unfit: u64,
    pub forged: u64,
    pub overruns: u64,
}

impl Totals {
    /// The counts now.
    pub fn read(&self) -> TotalsStatus {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        TotalsStatus { unfit: read(&self.unfit), forged: read(&self.forged), overruns: read(&self.overruns) }
    }
}

/// What is counted of held packets.
#[derive(Debug, Clone, Default)]
pub struct AllCounters {
    /// By frontend, of those that hold packets.
    pub frontends: BTreeMap<FrontendId, Arc<Counters>>,
    /// Of all together; missing where none does.
    pub totals: Option<Arc<Totals>>,
}

impl Counters {
    /// One more.
    pub(super) fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// The counts now.
    pub fn read(&self) -> HoldStatus {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        HoldStatus {
            waiting: read(&self.waiting),
            captured: read(&self.captured),
            repeated: read(&self.repeated),
            sent: read(&self.sent),
            made_room: read(&self.made_room),
            given_up: read(&self.given_up),
            unsent: read(&self.unsent),
        }
    }
}
