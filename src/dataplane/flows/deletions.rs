//! Deletions of conntrack entries. Those that are ordered together share a dump. A failed one is tried again, a few times: an
//! entry that stays leads its client to a backend that has ended.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::Scope;
use super::table::Table;
use crate::ids::{FrontendId, TargetId};

/// A drain waits for so many tries.
const MAX_TRIES: u32 = 3;

/// Pause after a failed try.
pub(super) const PAUSE: Duration = Duration::from_millis(500);

/// The deletions to make.
#[derive(Debug, Default)]
pub(super) struct Deletions {
    flushes: BTreeMap<TargetId, Scope>,
    /// The frontends whose stale flows must go.
    stale: BTreeSet<FrontendId>,
    /// Number of failed tries.
    tries: u32,
    /// Time of the next try, if there is anything to delete.
    next: Option<Instant>,
}

impl Deletions {
    pub(super) fn flush(&mut self, now: Instant, target: TargetId, scope: Scope) {
        self.flushes.insert(target, scope);
        self.next = Some(now);
    }

    pub(super) fn delete_stale(&mut self, now: Instant, frontends: Vec<FrontendId>) {
        self.stale.extend(frontends);
        self.next = Some(now);
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.next
    }

    /// Tries to make all deletions. Returns the flushes that are done or given up.
    pub(super) fn run(&mut self, now: Instant, table: &mut Table) -> BTreeMap<TargetId, Scope> {
        let mut flushed = BTreeMap::new();
        let result = table.flush(&self.flushes).and_then(|()| {
            flushed = std::mem::take(&mut self.flushes);
            table.delete_stale(&self.stale)
        });
        self.tries += 1;
        if let Err(error) = &result {
            let next = if self.tries < MAX_TRIES { "trying again" } else { "giving up" };
            log::warn!("cannot delete conntrack entries: {error}; {next}");
        }
        if result.is_err() && self.tries < MAX_TRIES {
            self.next = Some(now + PAUSE);
        } else {
            flushed.extend(std::mem::take(self).flushes);
        }
        flushed
    }
}
