//! First packets that wait in the gateway until their target is active.
//!
//! The rules of a cold frontend log a flow's first packet to an NFLOG group, whole, and drop it. The [`Holder`], on the
//! reactor thread, keeps it and wakes the target. When the target is active and its DNAT is in, the packet is sent again
//! from a raw socket, source address still the client's, in order of arrival.
//!
//! There is no moment in which a packet is lost: what the kernel captures before the DNAT is in is read after the engine
//! has said that it is, and then sent on at once.

mod counters;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
pub mod packet;
mod sender;
mod store;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::sync::Arc;
use std::time::Instant;

use mio::Interest;
use mio::unix::SourceFd;

use super::listens::Listens;
use super::plan::Plan;
use crate::Error;
use crate::dataplane::plan::{ColdPath, HoldOptions, OnFailure};
use crate::ids::{Change, FrontendId};
use crate::netlink::conntrack::Conntrack;
use crate::netlink::nflog::{Logged, Nflog, Received};
use crate::plugin::{Handler, Io, Readiness};
pub use counters::{AllCounters, Counters, HoldStatus, Totals, TotalsStatus};
use packet::{Packet, Unfit};
use sender::Sender;
use store::{Kept, Store};

/// The NFLOG socket's key.
const SOCKET: usize = 0;

/// How many packets are read before other sockets have their turn.
const PER_TURN: usize = 1024;

/// Holds the first packets of all frontends that want it.
pub struct Holder {
    group: u16,
    fronts: BTreeMap<FrontendId, Front>,
    listens: Listens,
    open: Option<Open>,
    /// There is more to read than one turn allowed for.
    more: bool,
    totals: Arc<Totals>,
}

/// What is open while the holder runs.
struct Open {
    log: Nflog,
    sender: Sender,
    conntrack: Conntrack,
}

/// One frontend's waiting packets.
struct Front {
    options: HoldOptions,
    store: Store,
    /// The target is active: nothing waits any more.
    active: bool,
    counters: Arc<Counters>,
}

impl Holder {
    /// A holder for the frontends of the plan that hold packets, and what it counts; `None` if there is none.
    pub fn new(plan: &Plan) -> Option<(Holder, AllCounters)> {
        let mut fronts = BTreeMap::new();
        let mut group = None;
        for (&id, rules) in &plan.frontends {
            if let ColdPath::Hold(options) = rules.cold {
                let front = Front { options, store: Store::default(), active: false, counters: Arc::default() };
                fronts.insert(id, front);
                group = Some(options.group);
            }
        }
        let totals = Arc::<Totals>::default();
        let frontends = fronts.iter().map(|(id, front)| (*id, front.counters.clone())).collect();
        let counters = AllCounters { frontends, totals: Some(totals.clone()) };
        let held = plan.frontends.iter().filter(|(id, _)| fronts.contains_key(id));
        let listens = Listens::new(held);
        let holder = Holder { group: group?, fronts, listens, open: None, more: false, totals };
        Some((holder, counters))
    }

    /// The frontend that a packet came to.
    fn front_of(&self, packet: &Packet) -> Option<FrontendId> {
        self.listens.find(packet.flow.protocol, packet.flow.destination)
    }

    /// Reads what the kernel has captured, for one turn.
    fn capture(&mut self, io: &mut Io<'_>) {
        self.more = false;
        for _ in 0..PER_TURN {
            let Some(open) = &mut self.open else { return };
            let mut captured = Vec::new();
            let received = open.log.receive(&mut |logged| captured.push(parse(logged)));
            for (packet, from_here) in captured {
                match packet {
                    Ok(packet) => self.hold(io, packet, from_here),
                    Err(unfit) => {
                        Counters::count(&self.totals.unfit);
                        log::debug!("a first packet is dropped: {unfit:?}");
                    }
                }
            }
            match received {
                Ok(Received::Some) => {}
                Ok(Received::Overrun) => {
                    Counters::count(&self.totals.overruns);
                    log::debug!("first packets come too fast: some were lost");
                }
                Ok(Received::Nothing) => return,
                Err(error) => return log::warn!("cannot read first packets: {error}"),
            }
        }
        self.more = true;
    }

    fn hold(&mut self, io: &mut Io<'_>, packet: Packet, from_here: bool) {
        if !from_here && packet.flow.has_forged_source() {
            // The chain `forged` drops these; another program's rule can log to our group too.
            return Counters::count(&self.totals.forged);
        }
        let Some(id) = self.front_of(&packet) else { return };
        let (Some(front), Some(open)) = (self.fronts.get_mut(&id), &mut self.open) else { return };
        Counters::count(&front.counters.captured);
        let source = packet.flow.source;
        if from_here {
            // It has left an entry without NAT behind, which would keep the flow from the backend.
            forget(&mut open.conntrack, &packet);
        }
        if front.active {
            return front.pass(&open.sender, packet);
        }
        let (kept, made_room) = front.store.keep(packet, io.now(), &front.options);
        if kept == Kept::Again {
            Counters::count(&front.counters.repeated);
        }
        front.counters.made_room.add(made_room);
        front.count_waiting();
        io.core.inbox.wake(id, Some(source));
    }
}

impl Front {
    /// Sends a packet on to the backend.
    fn pass(&self, sender: &Sender, packet: Packet) {
        if !self.options.replay {
            return;
        }
        let to = packet.flow.destination;
        match packet.into_sendable().iter().try_for_each(|packet| sender.send(packet, to.ip())) {
            Ok(()) => Counters::count(&self.counters.sent),
            Err(error) => {
                log::debug!("a held packet to {to} could not be sent on: {error}");
                Counters::count(&self.counters.unsent);
            }
        }
    }

    /// Tells a packet's client that it waits in vain, if it is to be told.
    fn give_up(&self, sender: &Sender, packet: &Packet) {
        Counters::count(&self.counters.given_up);
        if self.options.on_failure == OnFailure::Reject
            && let Err(error) = sender.send(&packet.refusal(), packet.flow.source.ip())
        {
            log::debug!("{} could not be refused: {error}", packet.flow.source);
        }
    }

    fn count_waiting(&self) {
        self.counters.waiting.set(self.store.len() as u64);
    }
}

impl Handler for Holder {
    fn start(&mut self, io: &mut Io<'_>) -> Result<(), Error> {
        let group = self.group;
        let log = Nflog::open(group).map_err(|error| match error.kind() {
            io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied => format!(
                "the NFLOG group {group} belongs to another program (set plugins.packet.group to a free one), \
                 or CAP_NET_ADMIN is missing"
            ),
            _ => format!("cannot receive first packets from NFLOG group {group}: {error}"),
        })?;
        let sender = Sender::open().map_err(|error| format!("cannot open a raw socket: {error}"))?;
        let conntrack = Conntrack::open()?;
        io.register(&mut SourceFd(&log.as_fd().as_raw_fd()), SOCKET, Interest::READABLE)?;
        self.open = Some(Open { log, sender, conntrack });
        Ok(())
    }

    fn stop(&mut self, io: &mut Io<'_>) {
        if let Some(open) = self.open.take() {
            io.deregister(&mut SourceFd(&open.log.as_fd().as_raw_fd()), SOCKET);
        }
        self.more = false;
    }

    fn ready(&mut self, io: &mut Io<'_>, _key: usize, _readiness: Readiness) {
        self.capture(io);
    }

    fn deadline(&self) -> Option<Instant> {
        if self.more {
            // Now, but after the others.
            return Some(Instant::now());
        }
        self.fronts.values().filter_map(|front| front.store.expires(front.options.timeout)).min()
    }

    fn timeout(&mut self, io: &mut Io<'_>) {
        if self.more {
            self.capture(io);
        }
        let Some(open) = &self.open else { return };
        for front in self.fronts.values_mut() {
            while let Some(packet) = front.store.pop_expired(io.now(), front.options.timeout) {
                front.give_up(&open.sender, &packet);
            }
            front.count_waiting();
        }
    }

    fn target_changed(&mut self, _io: &mut Io<'_>, frontend: FrontendId, change: Change) {
        let (Some(front), Some(open)) = (self.fronts.get_mut(&frontend), &self.open) else { return };
        front.active = change == Change::Active;
        match change {
            Change::Active => {
                while let Some(packet) = front.store.pop() {
                    front.pass(&open.sender, packet);
                }
            }
            Change::Failed => {
                while let Some(packet) = front.store.pop() {
                    front.give_up(&open.sender, &packet);
                }
            }
            Change::Inactive => {}
        }
        front.count_waiting();
    }
}

fn parse(logged: Logged<'_>) -> (Result<Packet, Unfit>, bool) {
    (Packet::parse(logged.payload), logged.from_here)
}

/// Deletes the conntrack entry of a packet's flow, if there is one.
fn forget(conntrack: &mut Conntrack, packet: &Packet) {
    let flow = packet.flow;
    if let Err(error) = conntrack.delete_flow(flow.protocol, flow.source, flow.destination) {
        log::debug!("cannot delete the entry of {} to {}: {error}", flow.source, flow.destination);
    }
}
