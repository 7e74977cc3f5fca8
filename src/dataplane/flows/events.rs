//! What the kernel tells by itself: the events of conntrack, and what becomes of them.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use super::Report;
use super::kernel::Kernel;
use super::seen::Seen;
use super::thread::{FEW, Flows};
use super::usage::Known;
use crate::ids::{FrontendId, TargetId};
use crate::netlink::conntrack::{self, Entry};

/// How long events are left to gather after some have been read: a busy gateway wakes us fifty times a second at most.
const GATHER: Duration = Duration::from_millis(20);

/// How many events are read before anything else has its turn: more than the kernel keeps for us.
const BATCH: usize = 32768;

/// Why there are no events.
pub(super) const SILENT: &str = "net.netfilter.nf_conntrack_events is 0, or not there";

impl<K: Kernel> Flows<K> {
    pub(super) fn subscribe(&mut self) {
        let cannot = match self.kernel.subscribe(true) {
            Ok(()) if !self.kernel.reports_changes() => {
                self.unsubscribe();
                SILENT.to_owned()
            }
            Ok(()) => {
                self.subscribed = true;
                self.stale = Some(Known::Nothing);
                return;
            }
            Err(error) => error.to_string(),
        };
        log::warn!("conntrack events unavailable ({cannot}); polling instead");
    }

    fn unsubscribe(&mut self) {
        // To close a socket cannot fail.
        let _ = self.kernel.subscribe(false);
        self.subscribed = false;
    }

    /// Polls the kernel from now on, because it reports no events any more.
    pub(super) fn give_up_events(&mut self, why: &str) {
        self.unsubscribe();
        self.gathering = None;
        self.stale = None;
        log::warn!("conntrack events have ended ({why}); polling instead");
        let now = self.kernel.now();
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
            let now = self.kernel.now();
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
        if !self.subscribed {
            return;
        }
        self.gathering = None;
        let mut left = BATCH;
        while left > 0 {
            left -= 1;
            let event = match self.kernel.receive() {
                Ok(Some(event)) => event,
                Ok(None) => return,
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    log::debug!("a conntrack event: {error}");
                    continue;
                }
                Err(error) => return self.give_up_events(&error.to_string()),
            };
            let now = self.kernel.now();
            self.gathering = Some(now + GATHER);
            match event {
                conntrack::Event::New(mut entry) | conntrack::Event::Update(mut entry) => {
                    if let Some(frontend) = self.index.frontend(&entry) {
                        // The kernel has longer ones for a flow whose policy is gone.
                        entry.timeout = entry.timeout.min(Some(self.index.rules(frontend).timeouts.silent));
                        let target = self.target_of[frontend];
                        self.usage.told(now, target, frontend, &entry);
                        let kernel = &mut self.kernel;
                        if self.reach.told(now, frontend, &entry, |ip| kernel.is_local(ip)) {
                            self.reports.report(Report::ClientsAnswered(frontend));
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
