//! Finds the frontend that a conntrack entry belongs to.

use std::collections::HashMap;
use std::net::SocketAddr;

use crate::config::Protocol;
use crate::dataplane::plan::{Plan, Rules};
use crate::engine::core::FrontendId;
use crate::netlink::conntrack::Entry;

/// The frontends by endpoint.
#[derive(Debug)]
pub(super) struct Index {
    rules: Vec<Rules>,
    by_endpoint: HashMap<(Protocol, SocketAddr), Vec<FrontendId>>,
}

impl Index {
    pub(super) fn new(plan: &Plan) -> Index {
        let mut by_endpoint: HashMap<_, Vec<_>> = HashMap::new();
        for (id, rules) in plan.frontends.iter().enumerate() {
            by_endpoint.entry((rules.protocol, rules.endpoint)).or_default().push(id);
        }
        Index { rules: plan.frontends.clone(), by_endpoint }
    }

    /// The frontend whose rules have translated this flow, if any.
    pub(super) fn frontend(&self, entry: &Entry) -> Option<FrontendId> {
        let candidates = self.by_endpoint.get(&(entry.protocol, entry.reply.source))?;
        let came_to = entry.original.destination;
        candidates.iter().copied().find(|id| self.rules[*id].matches(entry.protocol, came_to))
    }

    /// The rules of a frontend.
    pub(super) fn rules(&self, id: FrontendId) -> &Rules {
        &self.rules[id]
    }
}
