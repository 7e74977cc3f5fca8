//! First packets that wait in the gateway until their target is active.
//!
//! The rules of a cold frontend log a flow's first packet to an NFLOG group, whole, and drop it. The [`Holder`], on the
//! reactor thread, stores it and wakes the target. When the target is active and its DNAT is in, the packet is sent again
//! from a raw socket, with the client's source address, in order of arrival.
//!
//! No packet is lost in between: those that the kernel captures before the DNAT is in are read after the engine has reported
//! the target active, and then sent on at once.

mod counters;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
pub mod packet;
mod sockets;
mod store;

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::time::Instant;

use super::listens::Listens;
use super::monitor::{Monitor, MonitorEvent, Progress};
use super::plan::{ColdPath, HoldOptions, OnFailure, Plan};
use crate::Error;
use crate::ids::{Change, FrontendId};
use crate::netlink::nflog::Received;
pub use counters::{AllCounters, Counters, HoldStatus, TotalsStatus};
use packet::Packet;
use sockets::{PacketIo, Sockets};
use store::{Arrival, Store};

/// Maximum number of reads in one poll, so that other sockets get their turn.
const MAX_READS: usize = 1024;

/// Holds the first packets of all frontends that want it.
pub struct Holder {
    group: u16,
    frontends: BTreeMap<FrontendId, Held>,
    listens: Listens,
    io: Option<Box<dyn PacketIo>>,
    totals: Counters<TotalsStatus>,
}

/// One frontend's waiting packets.
struct Held {
    options: HoldOptions,
    store: Store,
    target: Activity,
    counters: Counters<HoldStatus>,
}

/// State of a frontend's target.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Activity {
    Active,
    /// Packets wait.
    Inactive,
}

impl Holder {
    /// A holder for the frontends of the plan that hold packets; `None` if there are none.
    pub fn new(plan: &Plan) -> Option<Holder> {
        let held = |cold| match cold {
            ColdPath::Hold(options) => Some(Held {
                options,
                store: Store::default(),
                target: Activity::Inactive,
                counters: Counters::default(),
            }),
            ColdPath::Local | ColdPath::Drop => None,
        };
        let frontends: BTreeMap<_, _> =
            plan.frontends.iter().filter_map(|(id, rules)| Some((*id, held(rules.cold)?))).collect();
        let listens = Listens::new(plan.frontends.iter().filter(|(id, _)| frontends.contains_key(id)));
        Some(Holder { group: plan.group()?, frontends, listens, io: None, totals: Counters::default() })
    }

    /// The counts of all frontends.
    pub fn counters(&self) -> AllCounters {
        let frontends = self.frontends.iter().map(|(id, held)| (*id, held.counters.clone())).collect();
        AllCounters { frontends, totals: Some(self.totals.clone()) }
    }

    /// Reads captured packets: one poll's share.
    fn capture(&mut self, now: Instant, emit: &mut dyn FnMut(MonitorEvent)) -> Progress {
        for _ in 0..MAX_READS {
            let Some(io) = &mut self.io else { return Progress::Drained };
            let mut captured = Vec::new();
            let received = io.receive(&mut |logged| captured.push((Packet::parse(logged.payload), logged.from_here)));
            for (packet, from_here) in captured {
                match packet {
                    Ok(packet) => self.hold(now, packet, from_here, emit),
                    Err(unfit) => {
                        self.totals.update(|totals| totals.unfit += 1);
                        log::debug!("first packet dropped: {unfit:?}");
                    }
                }
            }
            match received {
                Ok(Received::Some) => {}
                Ok(Received::Overrun) => {
                    self.totals.update(|totals| totals.overruns += 1);
                    log::debug!("first packets came too fast, some were lost");
                }
                Ok(Received::Nothing) => return Progress::Drained,
                Err(error) => {
                    log::warn!("cannot read first packets: {error}");
                    return Progress::Drained;
                }
            }
        }
        Progress::More
    }

    fn hold(&mut self, now: Instant, packet: Packet, from_here: bool, emit: &mut dyn FnMut(MonitorEvent)) {
        let flow = packet.flow;
        if !from_here && flow.has_forged_source() {
            // The chain `forged` drops these; another program's rule can log to our group too.
            return self.totals.update(|totals| totals.forged += 1);
        }
        let Some(frontend) = self.listens.find(flow.protocol, flow.destination) else { return };
        let (Some(held), Some(io)) = (self.frontends.get_mut(&frontend), &mut self.io) else { return };
        held.count(|counts| counts.captured += 1);
        // A packet of this host left an entry without NAT behind, which would keep the flow from the backend.
        if from_here && let Err(error) = io.delete_entry(&flow) {
            log::debug!("cannot delete the conntrack entry of {} to {}: {error}", flow.source, flow.destination);
        }
        if held.target == Activity::Active {
            return held.pass(io.as_mut(), packet);
        }
        let (arrival, evicted) = held.store.insert(packet, now, &held.options);
        held.count(|counts| {
            counts.repeated += u64::from(arrival == Arrival::Repeated);
            counts.made_room += evicted;
        });
        emit(MonitorEvent::FirstPacket { frontend, source: flow.source });
    }
}

impl Held {
    /// Sends a packet on to the backend.
    fn pass(&self, io: &mut dyn PacketIo, packet: Packet) {
        let to = packet.flow.destination;
        let packets = if self.options.replay { packet.into_sendable() } else { return self.count(|_| ()) };
        match packets.iter().try_for_each(|packet| io.send(packet, to.ip())) {
            Ok(()) => self.count(|counts| counts.sent += 1),
            Err(error) => {
                log::debug!("a held packet to {to} could not be sent on: {error}");
                self.count(|counts| counts.unsent += 1);
            }
        }
    }

    /// Gives a packet up, and refuses its client if the options want that.
    fn give_up(&self, io: &mut dyn PacketIo, packet: &Packet) {
        self.count(|counts| counts.given_up += 1);
        let client = packet.flow.source;
        if self.options.on_failure == OnFailure::Reject
            && let Err(error) = io.send(&packet.refusal(), client.ip())
        {
            log::debug!("client {client} could not be refused: {error}");
        }
    }

    /// Updates the counters after a change of the store.
    fn count(&self, change: impl FnOnce(&mut HoldStatus)) {
        self.counters.update(|counts| {
            change(counts);
            counts.waiting = self.store.len() as u64;
        });
    }
}

impl Monitor for Holder {
    fn open(&mut self, _now: Instant) -> Result<(), Error> {
        self.io = Some(Box::new(Sockets::open(self.group)?));
        Ok(())
    }

    fn close(&mut self) {
        self.io = None;
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.io.as_deref().map(PacketIo::fd)
    }

    fn poll(&mut self, now: Instant, emit: &mut dyn FnMut(MonitorEvent)) -> Progress {
        let progress = self.capture(now, emit);
        let Some(io) = &mut self.io else { return progress };
        for held in self.frontends.values_mut() {
            while let Some(packet) = held.store.pop_expired(now, held.options.timeout) {
                held.give_up(io.as_mut(), &packet);
            }
        }
        progress
    }

    fn deadline(&self) -> Option<Instant> {
        self.frontends.values().filter_map(|held| held.store.expires(held.options.timeout)).min()
    }

    fn target_changed(&mut self, frontend: FrontendId, change: Change) {
        let (Some(held), Some(io)) = (self.frontends.get_mut(&frontend), &mut self.io) else { return };
        held.target = if change == Change::Active { Activity::Active } else { Activity::Inactive };
        if change == Change::Inactive {
            return;
        }
        while let Some(packet) = held.store.pop() {
            match change {
                Change::Failed => held.give_up(io.as_mut(), &packet),
                _ => held.pass(io.as_mut(), packet),
            }
        }
    }
}

#[cfg(test)]
mod tests;
