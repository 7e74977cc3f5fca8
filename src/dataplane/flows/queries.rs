//! The queries of the `conntrack` thread, and the deletions.

use std::collections::BTreeMap;
use std::io;
use std::time::Instant;

use super::Scope;
use super::kernel::{Kernel, is_busy};
use super::polled::Count;
use super::seen::{Seen, closed_between};
use super::thread::Flows;
use crate::config::Protocol;
use crate::ids::{FrontendId, TargetId};
use crate::netlink::conntrack::{Entry, Key};

/// Result of a dump.
pub(super) struct Dump {
    /// The kernel has answered between the two.
    pub asked: (Instant, Instant),
    pub entries: Vec<(FrontendId, Entry)>,
}

impl<K: Kernel> Flows<K> {
    pub(super) fn dump(&mut self) -> io::Result<Dump> {
        let at = self.kernel.now();
        let mut entries = Vec::new();
        let index = &self.index;
        self.kernel.dump_dnat(&mut |entry| {
            if let Some(frontend) = index.frontend(entry) {
                entries.push((frontend, *entry));
            }
        })?;
        for (frontend, entry) in &mut entries {
            self.restrain(*frontend, entry)?;
        }
        let answered = self.kernel.now();
        self.dumped = Some(answered);
        log::debug!("dumped {} flows in {:.1?}", entries.len(), answered - at);
        Ok(Dump { asked: (at, answered), entries })
    }

    pub(super) fn look_up(&mut self, frontend: FrontendId, key: &Key, id: u32) -> io::Result<Option<Entry>> {
        let mut entry = self.kernel.look_up(key, id)?;
        if let Some(entry) = &mut entry {
            self.restrain(frontend, entry)?;
        }
        Ok(entry)
    }

    /// Looks a flow up that may have ended, and brings the account up to date.
    pub(super) fn recheck(&mut self, target: TargetId, (key, id, frontend): (Key, u32, FrontendId)) -> io::Result<()> {
        let at = self.kernel.now();
        let entry = self.look_up(frontend, &key, id)?;
        let answered = self.kernel.now();
        match entry {
            Some(entry) => {
                let timeouts = self.index.rules(frontend).timeouts;
                let closed = closed_between(&entry, timeouts, (at, answered)).1;
                self.usage.answered(at, closed, target, &entry);
            }
            None => self.usage.end(answered, target, &key, Some(id)),
        }
        Ok(())
    }

    /// Limits an entry's lifetime to its `flow_timeout`. Timeout policies go with their table, and with a flowtable that hands
    /// the flow back; then the kernel's own timeouts of up to five days hold. The time of the flow's last packet is not known,
    /// so the limit counts from now. While a flow is in a flowtable its lifetime is not for us to set.
    fn restrain(&mut self, frontend: FrontendId, entry: &mut Entry) -> io::Result<()> {
        let silent = self.index.rules(frontend).timeouts.silent;
        if Seen::new(entry) == Some(Seen::Open) && entry.timeout > Some(silent) {
            if !entry.status.held() {
                self.kernel.set_timeout(entry, silent)?;
            }
            entry.timeout = Some(silent);
        }
        Ok(())
    }

    pub(super) fn count(&self, dump: &Dump) -> BTreeMap<TargetId, Count> {
        let mut counts: BTreeMap<TargetId, Count> = BTreeMap::new();
        for (frontend, entry) in &dump.entries {
            let timeouts = self.index.rules(*frontend).timeouts;
            counts.entry(self.target_of[*frontend]).or_default().add(entry, timeouts, dump.asked);
        }
        counts
    }

    /// Deletes the entries of some targets' flows.
    pub(super) fn flush(&mut self, targets: &BTreeMap<TargetId, Scope>) -> io::Result<()> {
        let dump = self.dump()?;
        let target_of = &self.target_of;
        let goes = |frontend: FrontendId, entry: &Entry| {
            targets.get(&target_of[frontend]).is_some_and(|scope| *scope == Scope::All || !entry.status.answered())
        };
        let entries = dump.entries.iter().filter(|(frontend, entry)| goes(*frontend, entry));
        let entries: Vec<_> = entries.map(|(_, entry)| *entry).collect();
        self.delete(&entries)
    }

    /// Deletes the entries of UDP flows to these frontends that are not translated as the frontend's rules say.
    pub(super) fn delete_stale(&mut self, frontends: &[FrontendId]) -> io::Result<()> {
        let port = match frontends {
            [one] => self.index.rules(*one).only_port(),
            _ => None,
        };
        let mut concerned = vec![false; self.target_of.len()];
        frontends.iter().for_each(|id| concerned[*id] = true);
        let mut entries = Vec::new();
        let index = &self.index;
        self.kernel.dump_to(Protocol::Udp, port, &mut |entry| {
            let sent_to = index.translation(entry).filter(|(id, _)| concerned[*id]);
            if sent_to.is_some_and(|(_, to)| to != entry.reply.source) {
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
