//! The flows that our rules have translated, as conntrack sees them: which targets are in use, and since when they are not.
//!
//! Runs on the `conntrack` thread ([`thread`]), which owns the netlink sockets ([`kernel`]). Where the kernel reports changes
//! ([`events`]), [`usage`] keeps account of the flows; where it does not, [`polled`] computes when to query it. [`seen`] defines
//! what counts as use. [`queries`] has the queries, which the kernel filters, so that a busy table of unrelated flows costs
//! little. [`survey`] counts and lists flows for operators; [`reach`] notices clients that get no answer, and [`endpoints`]
//! probes their endpoints.

mod due;
mod endpoints;
mod events;
mod index;
mod kernel;
mod polled;
mod queries;
mod reach;
mod seen;
mod survey;
mod thread;
mod usage;

use std::io;
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam_channel::Sender;

use super::plan::Plan;
use crate::config::Config;
use crate::engine::Inbox;
use crate::ids::{FrontendId, TargetId};
use crate::system::{Waker, vital};

pub use survey::{FlowDetail, Survey, TargetUse};

/// What the engine wants of the flows' thread. Orders are carried out one after another, but that those to forget come last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FlowOrder {
    /// Say when the target is not in use, at once if it is not; answered with one `Unused`. From now on account is kept of it.
    Watch {
        /// The target.
        target: TargetId,
        /// Time of the order, for the result.
        asked: Instant,
    },
    /// The use of the target does not matter any more.
    Release(TargetId),
    /// No new flows reach the target: are there any? Answered with `Checked`.
    Check {
        /// The target.
        target: TargetId,
        /// Time of the order, for the result.
        asked: Instant,
    },
    /// Delete the entries of a target's flows; answered with `FlowsForgotten`.
    Forget {
        /// Which target.
        target: TargetId,
        /// Also those of flows that were answered.
        answered: bool,
    },
    /// Delete the entries of UDP flows to these frontends that are not translated as they should be by now.
    ForgetStale(Vec<FrontendId>),
    /// Count the flows of all targets, and list those of one; answered with `Surveyed`.
    Survey(Option<TargetId>),
    /// Everything has ended.
    End,
}

/// The engine's way to the flows' thread.
#[derive(Debug, Clone)]
pub struct FlowOrders {
    orders: Sender<FlowOrder>,
    waker: Waker,
}

impl FlowOrders {
    /// Passes an order on. There is room for all that the engine can have under way, so this does not wait.
    pub fn send(&self, order: FlowOrder) {
        // It is gone only at the end, when nobody needs it any more.
        let _ = self.orders.send(order);
        self.waker.wake();
    }
}

/// Starts the flows' thread, whose panic ends the process.
///
/// # Errors
/// No thread or no file descriptor could be had.
pub fn spawn(config: &Config, plan: &Plan, inbox: Inbox) -> io::Result<(FlowOrders, JoinHandle<()>)> {
    // Per target a few orders follow each other before it waits for an answer.
    let (sender, receiver) = crossbeam_channel::bounded(8 * config.targets.len() + 64);
    let orders = FlowOrders { orders: sender, waker: Waker::new()? };
    let (targets, frontends, waker) = (&config.targets, &config.frontends, orders.waker.clone());
    let flows = thread::Flows::new(targets, frontends, plan, inbox, receiver, waker, kernel::Netlink::default());
    let thread = vital::spawn("conntrack", move || flows.run())?;
    Ok((orders, thread))
}

#[cfg(test)]
mod tests;
