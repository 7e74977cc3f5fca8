//! The packets that wait for one frontend's target. Pure: no clock, no socket.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::packet::{Flow, Packet};
use crate::dataplane::plan::HoldOptions;

/// The waiting packets, one per flow, in order of arrival. Invariants: `by_flow`, `by_source` and `bytes` are exactly those
/// of what `queue` has, and no limit is exceeded. No operation takes time in proportion to the number of packets.
#[derive(Debug, Default)]
pub struct Store {
    queue: BTreeMap<u64, Waiting>,
    by_flow: HashMap<Flow, u64>,
    /// Positions in the queue, oldest first. Only a source's oldest packet is ever removed.
    by_source: HashMap<IpAddr, VecDeque<u64>>,
    bytes: usize,
    next: u64,
}

#[derive(Debug)]
struct Waiting {
    packet: Packet,
    since: Instant,
}

/// Place of a packet in its flow.
#[derive(Debug, PartialEq, Eq)]
pub enum Arrival {
    /// The flow's first packet.
    First,
    /// It has replaced a waiting packet of the flow.
    Repeated,
}

impl Store {
    /// Stores a packet; returns the number of older ones that were evicted for it.
    pub fn insert(&mut self, packet: Packet, now: Instant, limits: &HoldOptions) -> (Arrival, u64) {
        if let Some(position) = self.by_flow.get(&packet.flow)
            && let Some(waiting) = self.queue.get_mut(position)
        {
            self.bytes = self.bytes - waiting.packet.len() + packet.len();
            waiting.packet = packet;
            return (Arrival::Repeated, self.evict(limits));
        }
        let mut evicted = 0;
        let source = source_of(&packet.flow);
        if let Some(own) = self.by_source.get(&source)
            && own.len() >= limits.per_source as usize
            && let Some(oldest) = own.front().copied()
        {
            self.take(oldest);
            evicted += 1;
        }
        let position = self.next;
        self.next += 1;
        self.bytes += packet.len();
        self.by_flow.insert(packet.flow, position);
        self.by_source.entry(source).or_default().push_back(position);
        self.queue.insert(position, Waiting { packet, since: now });
        (Arrival::First, evicted + self.evict(limits))
    }

    /// Removes the oldest packets until the limits hold; returns their number.
    fn evict(&mut self, limits: &HoldOptions) -> u64 {
        let mut evicted = 0;
        while self.queue.len() > limits.packets as usize || self.bytes > limits.bytes as usize {
            let Some(oldest) = self.queue.keys().next().copied() else { break };
            self.take(oldest);
            evicted += 1;
        }
        evicted
    }

    /// Takes the oldest packet out.
    pub fn pop(&mut self) -> Option<Packet> {
        let oldest = *self.queue.keys().next()?;
        self.take(oldest)
    }

    /// Takes the oldest packet out, if its time is over.
    pub fn pop_expired(&mut self, now: Instant, timeout: Duration) -> Option<Packet> {
        let (oldest, waiting) = self.queue.first_key_value()?;
        let oldest = *oldest;
        (waiting.since + timeout <= now).then(|| self.take(oldest))?
    }

    /// Time when the oldest packet's time is over.
    pub fn expires(&self, timeout: Duration) -> Option<Instant> {
        Some(self.queue.first_key_value()?.1.since + timeout)
    }

    /// Number of waiting packets.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Takes a packet out that is the oldest of its source.
    fn take(&mut self, position: u64) -> Option<Packet> {
        let packet = self.queue.remove(&position)?.packet;
        self.bytes -= packet.len();
        self.by_flow.remove(&packet.flow);
        let source = source_of(&packet.flow);
        if let Some(own) = self.by_source.get_mut(&source) {
            // The oldest of all is its source's oldest too.
            own.pop_front();
            if own.is_empty() {
                self.by_source.remove(&source);
            }
        }
        Some(packet)
    }
}

/// Source that a packet counts for: an IPv4 address, or an IPv6 network of 64 bits, since one host can have all of it.
fn source_of(flow: &Flow) -> IpAddr {
    match flow.source.ip() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) >> 64 << 64).into()),
    }
}

#[cfg(test)]
pub(super) mod tests;
