//! Finds the frontend that a conntrack entry belongs to.

use crate::dataplane::listens::Listens;
use crate::dataplane::plan::{Plan, Rules};
use crate::engine::core::FrontendId;
use crate::netlink::conntrack::Entry;

/// The frontends by what they listen on.
#[derive(Debug)]
pub(super) struct Index {
    rules: Vec<Rules>,
    listens: Listens,
}

impl Index {
    pub(super) fn new(plan: &Plan) -> Index {
        Index { rules: plan.frontends.clone(), listens: Listens::new(plan.frontends.iter().enumerate()) }
    }

    /// The frontend whose rules have translated this flow, if any.
    pub(super) fn frontend(&self, entry: &Entry) -> Option<FrontendId> {
        let came_to = entry.original.destination;
        let id = self.listens.find(entry.protocol, came_to)?;
        (self.rules[id].translate(entry.protocol, came_to) == Some(entry.reply.source)).then_some(id)
    }

    /// The rules of a frontend.
    pub(super) fn rules(&self, id: FrontendId) -> &Rules {
        &self.rules[id]
    }
}
