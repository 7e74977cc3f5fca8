//! The rules that are wanted, and which of their changes are in the kernel.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::config::Address;
use crate::dataplane::plan::{self, OnLink};
use crate::ids::{FrontendId, TargetId};

/// Pause before nft is run again after a failure.
pub(super) const RETRY: Duration = Duration::from_secs(2);

/// Number of a change to what is wanted of the rules. A greater one includes all smaller ones.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Revision(u64);

/// Rules that are wanted for new flows to a frontend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Path {
    /// No rules.
    None,
    /// The cold path.
    Cold,
    /// The cold path, and it refuses clients.
    Refusing,
    /// The translation to the backend, with the cold path behind it.
    Active,
}

/// Everything that is wanted of the rules, the revision in the kernel, and the last failure in between.
#[derive(Debug, Default)]
pub(super) struct Rules {
    wanted: plan::State,
    /// Revision of `wanted`.
    revision: Revision,
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
        self.revision = Revision(self.revision.0 + 1);
        self.revision
    }

    /// Everything that is wanted.
    pub(super) fn wanted(&self) -> &plan::State {
        &self.wanted
    }

    /// Sets the path of a frontend; returns the revision if that is a change.
    pub(super) fn set_path(&mut self, id: FrontendId, path: Path) -> Option<Revision> {
        let plan::State { cold, active, refusing, .. } = &mut self.wanted;
        let changes = [(cold, path != Path::None), (active, path == Path::Active), (refusing, path == Path::Refusing)];
        let mut has_changed = false;
        for (frontends, is_in) in changes {
            has_changed |= if is_in { frontends.insert(id) } else { frontends.remove(&id) };
        }
        has_changed.then(|| self.touch())
    }

    /// Sets the endpoints of a target that answer from any address of this host.
    pub(super) fn set_wildcards(&mut self, id: TargetId, endpoints: BTreeSet<Address>) {
        self.wanted.wildcards.retain(|(target, _)| *target != id);
        self.wanted.wildcards.extend(endpoints.into_iter().map(|endpoint| (id, endpoint)));
        self.touch();
    }

    /// Sets the addresses on the links.
    pub(super) fn set_on_link(&mut self, on_link: BTreeSet<OnLink>) {
        self.wanted.on_link = on_link;
        self.touch();
    }

    /// Whether a change is in the kernel.
    pub(super) fn has(&self, revision: Revision) -> bool {
        revision <= self.applied
    }

    /// The revision to load now: none if the kernel has everything, or nft has failed a moment ago.
    pub(super) fn due(&self, now: Instant) -> Option<Revision> {
        let pauses = self.failure.as_ref().is_some_and(|failure| failure.retry_at > now);
        (self.revision > self.applied && !pauses).then_some(self.revision)
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
        self.applied(self.revision);
    }

    /// Records a failed attempt.
    pub(super) fn failed(&mut self, now: Instant, error: String) {
        self.failure = Some(Failure { error, retry_at: now + RETRY });
    }
}
