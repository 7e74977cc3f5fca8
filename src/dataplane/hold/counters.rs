//! What has been done with first packets, for the status.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use crate::ids::FrontendId;
use crate::system::Count;

/// Counts of one frontend. The reactor writes, the engine reads.
#[derive(Debug, Default)]
pub struct Counters {
    /// Packets that wait now.
    pub waiting: Count,
    /// First packets that came, of which:
    pub captured: Count,
    /// were a flow's again;
    pub repeated: Count,
    /// have been sent on;
    pub sent: Count,
    /// have made room for newer ones;
    pub made_room: Count,
    /// have waited for too long, or until the target failed;
    pub given_up: Count,
    /// could not be sent on.
    pub unsent: Count,
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
    pub unfit: Count,
    /// First packets from outside whose source no other host can have. The rules drop them before; these have come another
    /// way.
    pub forged: Count,
    /// How often packets came faster than they could be read, and some were lost.
    pub overruns: Count,
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
        TotalsStatus { unfit: self.unfit.get(), forged: self.forged.get(), overruns: self.overruns.get() }
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
    pub(super) fn count(counter: &Count) {
        counter.add(1);
    }

    /// The counts now.
    pub fn read(&self) -> HoldStatus {
        HoldStatus {
            waiting: self.waiting.get(),
            captured: self.captured.get(),
            repeated: self.repeated.get(),
            sent: self.sent.get(),
            made_room: self.made_room.get(),
            given_up: self.given_up.get(),
            unsent: self.unsent.get(),
        }
    }
}
