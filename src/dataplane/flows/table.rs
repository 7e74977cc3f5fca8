//! The kernel's conntrack table, as far as it is ours: queries, and deletions.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::Instant;

use super::Scope;
use super::index::Index;
use super::kernel::{Kernel, is_busy};
use super::seen::{Seen, Window};
use crate::config::Protocol;
use crate::ids::{FrontendId, TargetId};
use crate::netlink::conntrack::{Entry, Key};

/// The table.
pub(super) struct Table {
    pub kernel: Box<dyn Kernel>,
    pub index: Index,
}

/// An entry of one of our flows, as the kernel showed it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    pub target: TargetId,
    pub frontend: FrontendId,
    pub entry: Entry,
    pub seen: Seen,
}

/// All entries of our flows.
#[derive(Debug)]
pub(super) struct Dump {
    pub window: Window,
    pub found: Vec<Found>,
}

impl Table {
    /// Finds the flow of an event, if it is ours.
    pub(super) fn find(&self, now: Instant, mut entry: Entry) -> Option<Found> {
        let frontend = self.index.find(&entry)?;
        // The kernel has longer ones for a flow whose policy is gone.
        entry.timeout = entry.timeout.min(Some(self.index.rules[&frontend].timeouts.silent));
        Some(self.found(frontend, entry, Window::at(now)))
    }

    fn found(&self, frontend: FrontendId, entry: Entry, window: Window) -> Found {
        let rules = &self.index.rules[&frontend];
        Found { target: rules.target, frontend, entry, seen: Seen::new(&entry, rules.timeouts, window) }
    }

    /// Queries all entries.
    pub(super) fn dump(&mut self) -> io::Result<Dump> {
        let asked = self.kernel.now();
        let mut entries = Vec::new();
        let index = &self.index;
        self.kernel.dump_dnat(&mut |entry| {
            if let Some(frontend) = index.find(entry) {
                entries.push((frontend, *entry));
            }
        })?;
        for (frontend, entry) in &mut entries {
            self.limit(*frontend, entry)?;
        }
        let answered = self.kernel.now();
        log::debug!("dumped {} flows in {:.1?}", entries.len(), answered - asked);
        let window = Window { asked, answered };
        let found = entries.into_iter().map(|(frontend, entry)| self.found(frontend, entry, window)).collect();
        Ok(Dump { window, found })
    }

    /// Queries one entry.
    pub(super) fn look_up(&mut self, frontend: FrontendId, key: &Key, id: u32) -> io::Result<(Window, Option<Found>)> {
        let asked = self.kernel.now();
        let mut entry = self.kernel.look_up(key, id)?;
        if let Some(entry) = &mut entry {
            self.limit(frontend, entry)?;
        }
        let window = Window { asked, answered: self.kernel.now() };
        Ok((window, entry.map(|entry| self.found(frontend, entry, window))))
    }

    /// Limits an entry's lifetime to its `flow_timeout`. Timeout policies go with their table, and with a flowtable that hands
    /// the flow back; then the kernel's own timeouts of up to five days apply. The time of the flow's last packet is not known,
    /// so the limit counts from now. The flowtable sets the lifetime of a flow that passes it.
    fn limit(&mut self, frontend: FrontendId, entry: &mut Entry) -> io::Result<()> {
        let timeouts = self.index.rules[&frontend].timeouts;
        let seen = Seen::new(entry, timeouts, Window::at(self.kernel.now()));
        if matches!(seen, Seen::Counted { .. }) && entry.timeout > Some(timeouts.silent) {
            if !entry.status.held() {
                self.kernel.set_timeout(entry, timeouts.silent)?;
            }
            entry.timeout = Some(timeouts.silent);
        }
        Ok(())
    }

    /// Deletes the entries of some targets' flows, with one dump for all.
    pub(super) fn flush(&mut self, targets: &BTreeMap<TargetId, Scope>) -> io::Result<()> {
        if targets.is_empty() {
            return Ok(());
        }
        let dump = self.dump()?;
        let goes = |found: &&Found| match targets.get(&found.target) {
            Some(Scope::All) => true,
            Some(Scope::Unanswered) => !found.entry.status.answered(),
            None => false,
        };
        let entries: Vec<_> = dump.found.iter().filter(goes).map(|found| found.entry).collect();
        self.delete(&entries)
    }

    /// Deletes the entries of UDP flows to these frontends that are not translated as the frontend's rules say.
    pub(super) fn delete_stale(&mut self, frontends: &BTreeSet<FrontendId>) -> io::Result<()> {
        let Some(first) = frontends.first() else { return Ok(()) };
        let port = self.index.rules[first].only_port().filter(|_| frontends.len() == 1);
        let mut entries = Vec::new();
        let index = &self.index;
        self.kernel.dump_to(Protocol::Udp, port, &mut |entry| {
            let translation = index.translation(entry).filter(|(id, _)| frontends.contains(id));
            if translation.is_some_and(|(_, to)| to != entry.reply.source) {
                entries.push(*entry);
            }
        })?;
        self.delete(&entries)
    }

    fn delete(&mut self, entries: &[Entry]) -> io::Result<()> {
        let mut busy = 0;
        for entry in entries {
            match self.kernel.delete(entry) {
                Ok(_) => {}
                Err(error) if is_busy(&error) => busy += 1,
                Err(error) => return Err(error),
            }
        }
        if busy > 0 {
            log::warn!(
                "{busy} of {} conntrack entries pass a flowtable and cannot be deleted by this kernel (6.4 can); they lead \
                 to the endpoint until it hands them back",
                entries.len()
            );
        } else if !entries.is_empty() {
            log::debug!("deleted {} conntrack entries", entries.len());
        }
        Ok(())
    }
}
