//! The flows that our rules have translated, as conntrack sees them.
//!
//! Runs on the `conntrack` thread, which owns the netlink socket and blocks on its orders: it asks the kernel only when the
//! engine wants to know. The kernel filters, so that a busy table of other people's flows costs little.

use std::collections::HashMap;
use std::io;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};

use super::listens::Listens;
use super::plan::{Plan, Rules};
use crate::config::Protocol;
use crate::engine::core::{Event, FlowReport, FrontendId, TargetFlows, TargetId};
use crate::engine::{Inbox, Message};
use crate::netlink::conntrack::{Conntrack, Entry};

/// What the engine wants of the flows' thread. Orders are carried out one after another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FlowOrder {
    /// Report all flows; answered with `Flows` or `FlowsFailed`.
    Ask,
    /// Delete the entries of a target's flows; answered with `FlowsForgotten`.
    Forget(TargetId),
    /// Delete the entries of UDP flows to these frontends that are not translated as they should be by now.
    ForgetStale(Vec<FrontendId>),
    /// Everything has ended.
    End,
}

/// The engine's way to the flows' thread.
#[derive(Debug, Clone)]
pub struct FlowOrders(Sender<FlowOrder>);

impl FlowOrders {
    /// Passes an order on. There is room for all that the engine can have under way, so this does not wait.
    pub fn send(&self, order: FlowOrder) {
        // It is gone only at the end, when nobody needs it any more.
        let _ = self.0.send(order);
    }
}

/// Starts the flows' thread. `target_of` names each frontend's target.
///
/// # Errors
/// No thread could be had.
pub fn spawn(plan: &Plan, target_of: Vec<TargetId>, inbox: Inbox) -> io::Result<(FlowOrders, JoinHandle<()>)> {
    let targets = target_of.iter().max().map_or(0, |last| last + 1);
    // Per target one deletion and one question, and what is asked for all.
    let (sender, receiver) = crossbeam_channel::bounded(2 * targets + 64);
    let flows = Flows { index: Index::new(plan), target_of, inbox, conntrack: None };
    let thread = std::thread::Builder::new().name("conntrack".to_owned()).spawn(move || flows.run(&receiver))?;
    Ok((FlowOrders(sender), thread))
}

/// Finds the frontend of a flow.
struct Index {
    rules: Vec<Rules>,
    listens: Listens,
}

impl Index {
    fn new(plan: &Plan) -> Index {
        let listens = Listens::new(plan.frontends.iter().enumerate());
        Index { rules: plan.frontends.clone(), listens }
    }

    /// The frontend whose rules have translated this flow, if any.
    fn frontend(&self, entry: &Entry) -> Option<FrontendId> {
        let came_to = entry.original.destination;
        let id = self.listens.find(entry.protocol, came_to)?;
        (self.rules[id].translate(entry.protocol, came_to) == Some(entry.reply.source)).then_some(id)
    }
}

struct Flows {
    index: Index,
    target_of: Vec<TargetId>,
    inbox: Inbox,
    conntrack: Option<Conntrack>,
}

impl Flows {
    fn run(mut self, orders: &Receiver<FlowOrder>) {
        while let Ok(order) = orders.recv() {
            match order {
                FlowOrder::Ask => {
                    let event = match self.report() {
                        Ok(report) => Event::Flows(report),
                        Err(error) => Event::FlowsFailed(error.to_string()),
                    };
                    self.inbox.send(Message::Event(event));
                }
                FlowOrder::Forget(target) => {
                    if let Err(error) = self.forget(target) {
                        log::warn!("cannot delete the conntrack entries of a drained target: {error}");
                    }
                    self.inbox.send(Message::Event(Event::FlowsForgotten(target)));
                }
                FlowOrder::ForgetStale(frontends) => {
                    if let Err(error) = self.forget_stale(&frontends) {
                        log::warn!("cannot delete stale conntrack entries: {error}");
                    }
                }
                FlowOrder::End => return,
            }
        }
    }

    /// The socket, opened when it is first needed. After a failure a new one is opened.
    fn with_conntrack<R>(&mut self, ask: impl FnOnce(&mut Conntrack, &Index) -> io::Result<R>) -> io::Result<R> {
        let mut conntrack = match self.conntrack.take() {
            Some(conntrack) => conntrack,
            None => Conntrack::open()?,
        };
        let answer = ask(&mut conntrack, &self.index)?;
        self.conntrack = Some(conntrack);
        Ok(answer)
    }

    fn report(&mut self) -> io::Result<FlowReport> {
        let at = Instant::now();
        let mut found: Vec<(FrontendId, Seen)> = Vec::new();
        self.with_conntrack(|conntrack, index| {
            conntrack.dump_dnat(&mut |entry| {
                if let Some(frontend) = index.frontend(entry) {
                    found.push((frontend, Seen::new(entry)));
                }
            })
        })?;
        let answered = Instant::now();
        let mut targets: HashMap<TargetId, TargetFlows> = HashMap::new();
        for (frontend, seen) in found {
            let closed = self.index.rules[frontend].timeouts.closed();
            seen.count(targets.entry(self.target_of[frontend]).or_default(), closed, at, answered);
        }
        log::debug!("asked for the flows of {} targets in {:.1?}", targets.len(), answered - at);
        Ok(FlowReport { at, targets })
    }

    fn forget(&mut self, target: TargetId) -> io::Result<()> {
        let target_of = self.target_of.clone();
        self.with_conntrack(|conntrack, index| {
            let mut entries = Vec::new();
            conntrack.dump_dnat(&mut |entry| {
                if index.frontend(entry).is_some_and(|id| target_of[id] == target) {
                    entries.push(*entry);
                }
            })?;
            delete(conntrack, &entries)
        })
    }

    fn forget_stale(&mut self, frontends: &[FrontendId]) -> io::Result<()> {
        self.with_conntrack(|conntrack, index| {
            let mut entries = Vec::new();
            let mut keep = |entry: &Entry| {
                let came_to = entry.original.destination;
                let stale = |id: &FrontendId| {
                    let sent_to = index.rules[*id].translate(entry.protocol, came_to);
                    sent_to.is_some_and(|to| to != entry.reply.source)
                };
                if frontends.iter().any(stale) {
                    entries.push(*entry);
                }
            };
            let port = match frontends {
                [one] => index.rules[*one].only_port(),
                _ => None,
            };
            conntrack.dump_to(Protocol::Udp, port, &mut keep)?;
            delete(conntrack, &entries)
        })
    }
}

fn delete(conntrack: &mut Conntrack, entries: &[Entry]) -> io::Result<()> {
    for entry in entries {
        conntrack.delete(entry)?;
    }
    if !entries.is_empty() {
        log::debug!("deleted {} conntrack entries", entries.len());
    }
    Ok(())
}

/// What matters of an entry for the idle clock.
struct Seen {
    protocol: Protocol,
    over: bool,
    left: u32,
}

impl Seen {
    fn new(entry: &Entry) -> Seen {
        let over = entry.tcp_state.is_some_and(|state| state.is_over());
        Seen { protocol: entry.protocol, over, left: entry.timeout.unwrap_or(0) }
    }

    /// Adds it to its target's flows. The kernel has answered between `at` and `answered`, in whole seconds cut off.
    fn count(&self, flows: &mut TargetFlows, closed_for: u32, at: Instant, answered: Instant) {
        let left = Duration::from_secs(self.left.into());
        if self.over {
            let passed = Duration::from_secs(closed_for.saturating_sub(self.left).into());
            // In the machine's first minutes there may be no such moment: then at its beginning, which is as good.
            let back = |from: Instant, by: Duration| from.checked_sub(by).unwrap_or(from);
            let earliest = back(at, passed);
            let latest = (back(answered, passed) + Duration::from_secs(1)).min(answered);
            let last = flows.closed.get_or_insert((earliest, latest));
            *last = (last.0.max(earliest), last.1.max(latest));
        } else if self.protocol == Protocol::Udp {
            flows.udp += 1;
            flows.udp_until = flows.udp_until.max(Some(at + left));
        } else {
            flows.tcp += 1;
        }
    }
}
