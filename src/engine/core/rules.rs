//! Changes of the rules that are in the kernel, by number.

use std::time::{Duration, Instant};

/// Pause before nft is run again after a failure.
pub(super) const RETRY: Duration = Duration::from_secs(2);

/// Number of a change to what is wanted of the rules. A greater one includes all smaller ones.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Revision(u64);

/// The wanted revision, the one in the kernel, and the last failure in between.
#[derive(Debug, Default)]
pub(super) struct Rules {
    wanted: Revision,
    applied: Revision,
    failure: Option<Failure>,
}

/// A failed attempt to load the rules.
#[derive(Debug)]
struct Failure {
    error: String,
    retry_at: Instant,
}

impl Rules {
    /// Numbers one more change.
    pub(super) fn touch(&mut self) -> Revision {
        self.wanted = Revision(self.wanted.0 + 1);
        self.wanted
    }

    /// Whether a change is in the kernel.
    pub(super) fn has(&self, revision: Revision) -> bool {
        revision <= self.applied
    }

    /// The revision to load now: none if the kernel has everything, or nft has failed a moment ago.
    pub(super) fn due(&self, now: Instant) -> Option<Revision> {
        let pauses = self.failure.as_ref().is_some_and(|failure| failure.retry_at > now);
        (self.wanted > self.applied && !pauses).then_some(self.wanted)
    }

    /// Time of the next attempt after a failure.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.failure.as_ref().map(|failure| failure.retry_at)
    }

    /// Reason of the last failure, until an attempt succeeds.
    pub(super) fn error(&self) -> Option<&str> {
        self.failure.as_ref().map(|failure| failure.error.as_str())
    }

    /// Records that the kernel has a revision.
    pub(super) fn applied(&mut self, revision: Revision) {
        self.applied = self.applied.max(revision);
        self.failure = None;
    }

    /// Takes everything that is wanted as applied: the daemon ends, and the table goes as a whole.
    pub(super) fn give_up(&mut self) {
        self.applied(self.wanted);
    }

    /// Records a failed attempt.
    pub(super) fn failed(&mut self, now: Instant, error: String) {
        self.failure = Some(Failure { error, retry_at: now + RETRY });
    }
}
