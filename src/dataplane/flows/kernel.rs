//! What the `conntrack` thread asks of the kernel, and orders.

use std::collections::BTreeMap;
use std::io;
use std::time::Instant;

use super::index::Index;
use super::polled::Count;
use super::seen::Seen;
use super::thread::Flows;
use crate::config::Protocol;
use crate::engine::core::{FrontendId, TargetId};
use crate::netlink::conntrack::{Conntrack, Entry, Key};

/// What a dump has shown.
pub(super) struct Dump {
    /// The kernel has answered between the two.
    pub asked: (Instant, Instant),
    pub entries: Vec<(FrontendId, Entry)>,
}

impl Flows {
    /// The socket, opened when it is first needed. After a failure a new one is opened.
    pub(super) fn with_conntrack<R>(
        &mut self,
        ask: impl FnOnce(&mut Conntrack, &Index) -> io::Result<R>,
    ) -> io::Result<R> {
        let mut conntrack = match self.conntrack.take() {
            Some(conntrack) => conntrack,
            None => Conntrack::open()?,
        };
        let answer = ask(&mut conntrack, &self.index)?;
        self.conntrack = Some(conntrack);
        Ok(answer)
    }

    pub(super) fn dump(&mut self) -> io::Result<Dump> {
        let at = Instant::now();
        let mut entries = Vec::new();
        self.with_conntrack(|conntrack, index| {
            conntrack.dump_dnat(&mut |entry| {
                if let Some(frontend) = index.frontend(entry) {
                    entries.push((frontend, *entry));
                }
            })
        })?;
        for (frontend, entry) in &mut entries {
            self.restrain(*frontend, entry)?;
        }
        let answered = Instant::now();
        self.dumped = Some(answered);
        log::debug!("dumped {} flows in {:.1?}", entries.len(), answered - at);
        Ok(Dump { asked: (at, answered), entries })
    }

    pub(super) fn look_up(&mut self, frontend: FrontendId, key: &Key, id: u32) -> io::Result<Option<Entry>> {
        let mut entry = self.with_conntrack(|conntrack, _| conntrack.look_up(key, id))?;
        if let Some(entry) = &mut entry {
            self.restrain(frontend, entry)?;
        }
        Ok(entry)
    }

    /// Timeout policies go with their table, and the kernel gives the flows that they were for its own five days with their
    /// next packet. Such a flow is held to what it was promised, from now on: nobody knows when that packet was. One that passes
    /// a flowtable is not seen by conntrack, and lives until it is out of there.
    fn restrain(&mut self, frontend: FrontendId, entry: &mut Entry) -> io::Result<()> {
        let silent = self.index.rules(frontend).timeouts.silent;
        if Seen::new(entry) == Some(Seen::Open) && entry.timeout > Some(silent) {
            if !entry.status.held() {
                self.with_conntrack(|conntrack, _| conntrack.set_timeout(entry, silent))?;
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

    /// Deletes the entries of some targets; of each those of flows that were answered only if it says so.
    pub(super) fn forget(&mut self, targets: &BTreeMap<TargetId, bool>) -> io::Result<()> {
        let dump = self.dump()?;
        let target_of = &self.target_of;
        let goes = |frontend: FrontendId, entry: &Entry| {
            targets.get(&target_of[frontend]).is_some_and(|answered| *answered || !entry.status.answered())
        };
        let entries = dump.entries.iter().filter(|(frontend, entry)| goes(*frontend, entry));
        let entries: Vec<_> = entries.map(|(_, entry)| *entry).collect();
        self.with_conntrack(|conntrack, _| delete(conntrack, &entries))
    }

    pub(super) fn forget_stale(&mut self, frontends: &[FrontendId]) -> io::Result<()> {
        self.with_conntrack(|conntrack, index| {
            let mut entries = Vec::new();
            let mut keep = |entry: &Entry| {
                let came_to = entry.original.destination;
                let stale = |id: &FrontendId| {
                    let sent_to = index.rules(*id).translate(entry.protocol, came_to);
                    sent_to.is_some_and(|to| to != entry.reply.source)
                };
                if frontends.iter().any(stale) {
                    entries.push(*entry);
                }
            };
            let port = match frontends {
                [one] => index.rules(*one).only_port(),
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
