//! Tracking of the use of targets, in one of two ways: [`ByEvents`] where the kernel reports changes, [`ByPolls`] where it
//! does not. The thread replaces one by the other.

mod account;
mod events;
mod polled;
mod polls;

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

use super::kernel::Kernel;
use super::table::{Dump, Found, Table};
use crate::ids::{FrontendId, TargetId};

pub(super) use events::ByEvents;
#[cfg(test)]
pub(super) use events::FEW;
pub(super) use polls::ByPolls;

/// A way to know which targets are in use.
pub(super) trait Tracking: Send {
    /// Tracks a target until [`Tracking::unwatch`].
    fn watch(&mut self, now: Instant, target: TargetId);

    fn unwatch(&mut self, target: TargetId);

    fn watched(&self) -> Vec<TargetId>;

    /// All flows of a target were deleted.
    fn flushed(&mut self, _target: TargetId) {}

    /// Handles an event: an entry is new or has changed.
    fn changed(&mut self, _now: Instant, _found: &Found) {}

    /// Handles an event: an entry is gone.
    fn removed(&mut self, _now: Instant, _found: &Found) {}

    /// Handles a loss of events.
    fn overrun(&mut self) {}

    /// Makes the queries that are due, unless a dump serves better.
    fn refresh(&mut self, table: &mut Table) -> io::Result<Refresh>;

    fn observe(&mut self, dump: &Dump);

    fn state(&self, target: TargetId) -> State;

    /// Time at which the last flow of a target ended, at the latest; `None` if none is known.
    fn ended(&self, target: TargetId) -> Option<Instant>;

    /// Time of the next [`Tracking::refresh`].
    fn deadline(&mut self, now: Instant) -> Option<Instant>;

    /// The flows that count, with their target, if they are known without a query.
    fn flows(&self, _now: Instant) -> Option<Vec<(TargetId, FrontendId)>> {
        None
    }

    /// Time since which a flow is known to count.
    fn began(&self, _found: &Found) -> Option<Instant> {
        None
    }

    /// Whether the kernel still provides what this way needs.
    fn is_available(&self, _kernel: &dyn Kernel) -> bool {
        true
    }
}

/// Result of a refresh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refresh {
    Done,
    DumpNeeded,
}

/// State of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    InUse,
    /// No flow counts, since then.
    Unused {
        since: Option<Instant>,
    },
    /// A query is needed, or the idle time of a polled target is not over.
    Unknown,
}

/// Times of a target.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    /// Its idle timeout.
    pub idle: Duration,
    /// Closed retention: the time for which the kernel keeps the entry of a closed flow.
    pub closed: Duration,
}

impl Times {
    /// Maximum time between two queries of which the second finds the entries of all flows that were closed in between.
    pub(super) fn recheck(&self) -> Duration {
        self.closed / 4 * 3
    }
}

/// The times of all targets.
pub(super) type AllTimes = BTreeMap<TargetId, Times>;
