//! The frontend that a conntrack entry belongs to.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::dataplane::listens::Listens;
use crate::dataplane::plan::{Plan, Rules};
use crate::ids::FrontendId;
use crate::netlink::conntrack::Entry;

/// The frontends, found by what they listen on.
#[derive(Debug)]
pub(super) struct Index {
    pub rules: BTreeMap<FrontendId, Rules>,
    listens: Listens,
}

impl Index {
    pub(super) fn new(plan: &Plan) -> Index {
        Index { rules: plan.frontends.clone(), listens: Listens::new(&plan.frontends) }
    }

    /// Finds the frontend whose rules have translated this flow.
    pub(super) fn find(&self, entry: &Entry) -> Option<FrontendId> {
        self.translation(entry).filter(|(_, to)| *to == entry.reply.source).map(|(id, _)| id)
    }

    /// Finds the frontend that the flow came to, and the address its rules translate to, whether they have translated this
    /// flow or not.
    pub(super) fn translation(&self, entry: &Entry) -> Option<(FrontendId, SocketAddr)> {
        let came_to = entry.original.destination;
        let id = self.listens.find(entry.protocol, came_to)?;
        Some((id, self.rules[&id].translate(entry.protocol, came_to)?))
    }
}
