//! The surroundings of a target's step: its frontends, the rules, and where the effects go.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::event::{Effect, Effects};
use super::frontend::Frontend;
use super::rules::Rules;
use super::state::Phase;
use crate::ids::{Change, FrontendId, TargetId};

/// Surroundings of a step, and where its results go.
pub(super) struct Around<'a> {
    pub id: TargetId,
    pub now: Instant,
    pub phase: Phase,
    pub frontends: &'a BTreeMap<FrontendId, Frontend>,
    /// The target's own frontends.
    pub members: &'a [FrontendId],
    /// Those that pin the target.
    pub pins: &'a BTreeSet<FrontendId>,
    pub rules: &'a mut Rules,
    pub effects: &'a mut Effects,
}

impl Around<'_> {
    fn members(&self) -> impl Iterator<Item = (FrontendId, &Frontend)> {
        self.members.iter().filter_map(|id| Some((*id, self.frontends.get(id)?)))
    }

    /// A frontend that pins the target.
    pub(super) fn pinned_by(&self) -> Option<FrontendId> {
        self.pins.first().copied()
    }

    /// Whether all of its frontends refuse their clients while it backs off.
    pub(super) fn all_refuse(&self) -> bool {
        !self.members.is_empty() && self.members().all(|(_, frontend)| frontend.plan.refuses)
    }

    /// Notifies the frontends that their waiting clients wait in vain.
    pub(super) fn notify_failed(&mut self, which: impl Fn(&Frontend) -> bool) {
        let notified: Vec<_> = self.members().filter(|(_, frontend)| which(frontend)).map(|(id, _)| id).collect();
        self.effects.extend(notified.into_iter().map(|id| Effect::Notify(id, Change::Failed)));
    }
}
