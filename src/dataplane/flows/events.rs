//! What the kernel tells by itself: the events of conntrack, and what becomes of them.

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

use super::seen::Seen;
use super::thread::{FEW, Flows};
use super::usage::Known;
use crate::engine::Message;
use crate::engine::core::{Event, FrontendId, TargetId};
use crate::netlink::conntrack::{self, Entry, Subscription};
use crate::netlink::route;

/// How long events are left to gather after some have been read: a busy gateway wakes us fifty times a second at the most.
const GATHER: Duration = Duration::from_millis(20);

/// How many events are read before anything else has its turn: more than the kernel keeps for us.
const BATCH: usize = 32768;

/// Why there are no events.
pub(super) const SILENT: &str = "net.netfilter.nf_conntrack_events is 0, or not there";

/// Says whether the kernel tells of changes (0: never, 1: always, 2: if somebody listens).
const EVENTS: &str = "/proc/sys/net/netfilter/nf_conntrack_events";

impl Flows {
    pub(super) fn subscribe(&mut self) {
        let cannot = match Subscription::open() {
            Ok(_) if !kernel_tells() => SILENT.to_owned(),
            Ok(subscription) => {
                self.subscription = Some(subscription);
                self.stale = Some(Known::Nothing);
                return;
            }
            Err(error) => error.to_string(),
        };
        log::warn!("conntrack's events are not to be had ({cannot}), so the flows are polled");
    }

    /// The kernel does not tell any more: it is polled from now on.
    pub(super) fn give_up_events(&mut self, why: &str) {
        self.subscription = None;
        self.stale = None;
        log::warn!("conntrack's events have ended ({why}), so the flows are polled");
        let now = Instant::now();
        for target in self.usage.watched() {
            self.poll_from_now(target, now);
        }
        self.usage.forget_all();
    }

    pub(super) fn read_events(&mut self) {
        let mut stateless = BTreeMap::new();
        self.take_events(&mut stateless);
        if stateless.len() > FEW {
            self.stale.get_or_insert(Known::Everything);
            return;
        }
        for ((target, _), (frontend, entry)) in stateless {
            let now = Instant::now();
            match self.look_up(frontend, &entry.key(), entry.id) {
                Ok(Some(entry)) => self.usage.told(now, target, frontend, &entry),
                Ok(None) => {}
                Err(_) => _ = self.stale.get_or_insert(Known::Everything),
            }
        }
    }

    /// `stateless` are those that were answered and not known before, and of which nothing more was told: a connection that
    /// conntrack has picked up in its middle has no other event.
    fn take_events(&mut self, stateless: &mut BTreeMap<(TargetId, u32), (FrontendId, Entry)>) {
        let Some(subscription) = &mut self.subscription else { return };
        self.gathering = None;
        let mut left = BATCH;
        while left > 0 {
            left -= 1;
            let event = match subscription.recv() {
                Ok(Some(event)) => event,
                Ok(None) => return,
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    log::debug!("a conntrack event: {error}");
                    continue;
                }
                Err(error) => return self.give_up_events(&error.to_string()),
            };
            let now = Instant::now();
            self.gathering = Some(now + GATHER);
            match event {
                conntrack::Event::New(mut entry) | conntrack::Event::Update(mut entry) => {
                    if let Some(frontend) = self.index.frontend(&entry) {
                        // The kernel has longer ones for a flow whose policy is gone.
                        entry.timeout = entry.timeout.min(Some(self.index.rules(frontend).timeouts.silent));
                        let target = self.target_of[frontend];
                        self.usage.told(now, target, frontend, &entry);
                        let is_local = |ip| route::is_local(ip).unwrap_or(false);
                        if self.reach.told(now, frontend, &entry, is_local) {
                            self.inbox.send(Message::Event(Event::ClientsAnswered(frontend)));
                        }
                        let known = || self.usage.flows(target).contains_key(&entry.key());
                        if Seen::new(&entry).is_none() && entry.status.answered() && stateless.len() <= FEW && !known()
                        {
                            stateless.insert((target, entry.id), (frontend, entry));
                        }
                    }
                }
                conntrack::Event::Destroy(entry) => {
                    if let Some(frontend) = self.index.frontend(&entry) {
                        self.usage.end(now, self.target_of[frontend], &entry.key(), Some(entry.id));
                        self.reach.ended(now, frontend, &entry);
                    }
                }
                conntrack::Event::Overrun => {
                    log::debug!("conntrack's events came too fast");
                    if self.stale.replace(Known::SomeLost) != Some(Known::SomeLost) {
                        // More are lost, without a word, until all that is kept has been read: only then a dump is the truth.
                        left = BATCH;
                    }
                }
            }
        }
        self.gathering = None;
    }
}

/// Whether the kernel tells of changes: not if it is set to be silent, nor if it was built so and has no such setting.
pub(super) fn kernel_tells() -> bool {
    match std::fs::read_to_string(EVENTS) {
        Ok(value) => value.trim() != "0",
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}
