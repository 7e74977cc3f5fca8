//! Counts of first packets, for the status.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;

use crate::ids::FrontendId;

/// Counts of one frontend.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct HoldStatus {
    /// Packets that wait now.
    pub waiting: u64,
    /// First packets that came, of which:
    pub captured: u64,
    /// replaced a waiting packet of the same flow;
    pub repeated: u64,
    /// were sent on;
    pub sent: u64,
    /// made space for newer ones;
    pub made_room: u64,
    /// waited too long, or until the target failed;
    pub given_up: u64,
    /// could not be sent on.
    pub unsent: u64,
}

/// Counts of all frontends together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct TotalsStatus {
    /// First packets that could not be held: fragments, malformed ones, neither TCP nor UDP, or with headers too long to
    /// be sent again.
    pub unfit: u64,
    /// First packets from outside whose source no other host can have. The rules drop them before; these came another way.
    pub forged: u64,
    /// Overruns: packets came faster than they could be read, and some were lost.
    pub overruns: u64,
}

/// Counts that the reactor writes and the engine reads. A clone is the same ones. The lock is held for an addition or a copy.
#[derive(Debug, Default)]
pub struct Counters<T>(Arc<Mutex<T>>);

impl<T: Copy> Counters<T> {
    /// The counts now.
    pub fn read(&self) -> T {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the counts.
    pub(super) fn update(&self, change: impl FnOnce(&mut T)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl<T> Clone for Counters<T> {
    fn clone(&self) -> Self {
        Counters(Arc::clone(&self.0))
    }
}

/// All counts of held packets.
#[derive(Debug, Clone, Default)]
pub struct AllCounters {
    /// By frontend, of those that hold packets.
    pub frontends: BTreeMap<FrontendId, Counters<HoldStatus>>,
    /// Of all together; `None` where no frontend holds packets.
    pub totals: Option<Counters<TotalsStatus>>,
}
