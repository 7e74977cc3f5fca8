//! The flows that our rules have translated, as conntrack shows them: the targets that are in use, and since when they are not.
//!
//! Runs on the `conntrack` thread ([`thread`]), which owns the netlink sockets ([`kernel`]). [`table`] has the queries, which
//! the kernel filters, so that a busy table of unrelated flows costs little; [`seen`] defines use. [`tracking`] keeps the use
//! of the targets known, by events or by polls. [`pending`] has the orders that wait for a result, [`deletions`] those that
//! delete entries. [`clients`] notices clients that get no answer, and probes their endpoints; [`survey`] counts and lists
//! flows for operators.

mod clients;
mod deletions;
mod index;
mod kernel;
mod pending;
mod seen;
mod survey;
mod table;
mod thread;
mod tracking;

use std::collections::BTreeMap;
use std::io;
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam_channel::Sender;

use super::plan::Plan;
use crate::config::TargetSpec;
use crate::ids::{FrontendId, TargetId};
use crate::system::Waker;
use crate::vital;

pub use survey::{FlowDetail, Survey, TargetUse};

/// An order to the flows' thread. Orders are handled in turn, flushes last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FlowOrder {
    /// Track the use of the target, and send one [`Report::Unused`] once it is not in use, at once if it is not.
    Watch {
        /// The target.
        target: TargetId,
        /// Time of the order, for the result.
        asked: Instant,
    },
    /// The use of the target is no longer of interest.
    Release(TargetId),
    /// Check whether flows use the target, which new ones do not reach; answered by [`Report::Checked`].
    Check {
        /// The target.
        target: TargetId,
        /// Time of the order, for the result.
        asked: Instant,
    },
    /// Delete the conntrack entries of a target's flows; answered by [`Report::Flushed`].
    Flush {
        /// The target.
        target: TargetId,
        /// The flows.
        scope: Scope,
    },
    /// Delete the conntrack entries of UDP flows to these frontends that bypass their present rules; not answered.
    DeleteStale(Vec<FrontendId>),
    /// Count the flows of all targets, and list those of one; answered by [`Reports::surveyed`].
    Survey(Option<TargetId>),
    /// End the thread.
    End,
}

/// The flows whose entries a flush deletes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// All.
    All,
    /// Those that were never answered.
    Unanswered,
}

/// A report of the flows' thread.
#[derive(Debug, Clone, PartialEq)]
pub enum Report {
    /// No flow keeps the target in use.
    Unused {
        /// The target.
        target: TargetId,
        /// The order's `asked`.
        asked: Instant,
        /// Time at which the last flow ended, at the latest; `None` if none is known.
        since: Option<Instant>,
    },
    /// Result of a check.
    Checked {
        /// The target.
        target: TargetId,
        /// The order's `asked`.
        asked: Instant,
        /// The result.
        result: Use,
    },
    /// The entries of the target's flows are deleted, as far as the kernel deletes them.
    Flushed(TargetId),
    /// Clients of a frontend get no answer from its endpoint.
    ClientsLost {
        /// The frontend.
        frontend: FrontendId,
        /// The problem, and a remedy.
        problem: String,
        /// The endpoints that do not answer.
        unresponsive: Unresponsive,
    },
    /// After `ClientsLost`: clients get answers again.
    ClientsAnswered(FrontendId),
}

/// Result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// A flow uses the target, or might.
    InUse,
    /// No flow uses it.
    Unused {
        /// Time at which the last flow ended, where it is known exactly.
        since: Option<Instant>,
    },
}

/// The endpoints that do not answer when clients of one get no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unresponsive {
    /// The clients' own, or none if it answers the gateway.
    Endpoint,
    /// All of the target's, neither to clients nor to the gateway.
    Target,
}

/// Receiver of the reports, called on the flows' thread.
pub trait Reports: Send {
    /// Handles a report.
    fn report(&self, report: Report);

    /// Handles the result of a survey.
    fn surveyed(&self, survey: Result<Survey, String>);
}

/// The engine's way to the flows' thread.
#[derive(Debug, Clone)]
pub struct FlowOrders {
    orders: Sender<FlowOrder>,
    waker: Waker,
}

impl FlowOrders {
    /// Orders that a test receives.
    #[cfg(test)]
    pub(crate) fn channel() -> (FlowOrders, crossbeam_channel::Receiver<FlowOrder>) {
        let (orders, receiver) = crossbeam_channel::unbounded();
        (FlowOrders { orders, waker: Waker::new().expect("a descriptor") }, receiver)
    }

    /// Passes an order on. Does not block: the channel has space for all that the engine can have under way.
    pub fn send(&self, order: FlowOrder) {
        // The thread is gone only at the end.
        let _ = self.orders.send(order);
        self.waker.wake();
    }
}

/// Starts the flows' thread, whose panic ends the process.
///
/// # Errors
/// The system has no thread or no file descriptor left.
pub fn spawn(
    targets: &BTreeMap<TargetId, &TargetSpec>,
    plan: &Plan,
    reports: Box<dyn Reports>,
) -> io::Result<(FlowOrders, JoinHandle<()>)> {
    // Per target a few orders follow each other before it waits for an answer.
    let (sender, receiver) = crossbeam_channel::bounded(8 * targets.len() + 64);
    let orders = FlowOrders { orders: sender, waker: Waker::new()? };
    let (waker, kernel) = (orders.waker.clone(), Box::<kernel::Netlink>::default());
    let flows = thread::Flows::new(targets, plan, reports, receiver, waker, kernel);
    let thread = vital::spawn("conntrack", move || flows.run())?;
    Ok((orders, thread))
}

#[cfg(test)]
mod tests;
