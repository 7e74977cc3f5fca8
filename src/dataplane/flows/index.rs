//! Finds the frontend that a conntrack entry belongs to.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::dataplane::listens::Listens;
use crate::dataplane::plan::{Plan, Rules};
use crate::ids::FrontendId;
use crate::netlink::conntrack::Entry;

/// The frontends by what they listen on.
#[derive(Debug)]
pub(super) struct Index {
    rules: BTreeMap<FrontendId, Rules>,
    listens: Listens,
}

impl Index {
    pub(super) fn new(plan: &Plan) -> Index {
        Index { rules: plan.frontends.clone(), listens: Listens::new(&plan.frontends) }
    }

    /// The frontend whose rules have translated this flow, if any.
    pub(super) fn frontend(&self, entry: &Entry) -> Option<FrontendId> {
        self.translation(entry).filter(|(_, to)| *to == entry.reply.source).map(|(id, _)| id)
    }

    /// The frontend that the flow came to, and where its rules send such a flow, whether they have translated this one or not.
    pub(super) fn translation(&self, entry: &Entry) -> Option<(FrontendId, SocketAddr)> {
        let came_to = entry.original.destination;
        let id = self.listens.find(entry.protocol, came_to)?;
        Some((id, self.rules[&id].translate(entry.protocol, came_to)?))
    }

    /// The rules of a frontend.
    pub(super) fn rules(&self, id: FrontendId) -> &Rules {
        &self.rules[&id]
    }
}
