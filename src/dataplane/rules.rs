//! The table in the kernel, and what we know of it. Belongs to the engine thread.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use super::apply::{Language, Nft, NftError};
use super::localnet::Localnet;
use super::pace::Pace;
use super::plan::{Plan, State};
use super::render::{self, TABLE};
use super::repair::{self, Extent, Parts, Repair};
use super::watch::{Notices, Report, name_of};
use crate::netlink::nftables::{Changes, Listing, Tables, delete_table};

/// Our table. It exists from [`Table::load`] to [`Table::remove`], and beyond a crash until the next load.
#[derive(Debug)]
pub struct Table {
    nft: Nft,
    plan: Plan,
    /// On only while the table is in the kernel.
    localnet: Localnet,
    /// What is in the kernel; `None` after a failure, until the table has been replaced as a whole.
    state: Option<State>,
    /// Changes by other programs, and the ids of our own.
    notices: Arc<Notices>,
    /// For queries to nftables, once there was one.
    queries: Option<Tables>,
    pace: Pace,
    /// Changes up to this generation were overwritten by all of our own rules.
    restored_after: Option<u32>,
}

/// Result of [`Table::repair`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repaired {
    /// The table is as it should be, or the repair is tried again later.
    Done,
    /// The table must be replaced as a whole: the next [`Table::apply`] does that.
    Lost,
}

impl Table {
    /// A table that is not loaded yet.
    pub fn new(nft: Nft, plan: Plan, localnet: Localnet, notices: Arc<Notices>) -> Table {
        Table { nft, plan, localnet, state: None, notices, queries: None, pace: Pace::default(), restored_after: None }
    }

    /// All rules that there can be.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Puts the whole table into the kernel, with nothing in force. What was there under its name is replaced in the same
    /// transaction.
    ///
    /// # Errors
    /// nft could not be run, or refused.
    pub fn load(&mut self) -> Result<(), NftError> {
        self.replace(&State::default())
    }

    /// Brings the table to a state in one transaction. After a failure all rules are restored first; where that fails as
    /// well, the whole table is replaced.
    ///
    /// # Errors
    /// nft could not be run, or refused each time.
    pub fn apply(&mut self, state: &State) -> Result<(), NftError> {
        let Some(before) = self.state.take() else { return self.replace(state) };
        if before == *state {
            self.state = Some(before);
            return Ok(());
        }
        let Some(changes) = render::changes(&self.plan, &before, state) else {
            self.state = Some(state.clone());
            return Ok(());
        };
        if let Err(error) = self.run(Language::Json, &changes) {
            // What hangs would hang again, and the engine waits meanwhile. The next attempt replaces the table.
            if error.is_timeout() {
                return Err(error);
            }
            // Another program may have changed what our change depends on.
            log::warn!("table inet {TABLE} could not be changed, restoring all of it: {error}");
            if !self.restore_all(state) {
                return self.replace(state);
            }
        }
        self.state = Some(state.clone());
        Ok(())
    }

    /// Records that another program has changed the table: a repair is due, at once or a little later.
    pub fn noticed(&mut self, now: Instant) {
        if let Some(delay) = self.pace.noticed(now) {
            log::error!(
                "table inet {TABLE}: {} keeps changing it; repairing it less often, next repair in {} s",
                self.notices.process(),
                delay.as_secs()
            );
        }
    }

    /// Time of the next [`Table::repair`], if one is needed.
    pub fn repair_due(&self) -> Option<Instant> {
        self.pace.due()
    }

    /// Restores what other programs have changed: elements, rules, chains, sets or the table's flags.
    pub fn repair(&mut self, now: Instant) -> Repaired {
        if !self.pace.take(now) {
            return Repaired::Done;
        }
        let losses = self.localnet.losses();
        let Some(report) = self.notices.take() else { return Repaired::Done };
        let Some(state) = self.state.take() else { return Repaired::Lost };
        let lost = report.lost.filter(|lost| !self.notices.own.account_for(*lost));
        let is_old = self.restored_after.is_some_and(|after| after.wrapping_sub(report.generation).cast_signed() >= 0);
        if lost.is_none() && (report.changes.is_empty() || is_old) {
            self.localnet.resume(&self.plan, losses);
            self.state = Some(state);
            return Repaired::Done;
        }
        let extent = if lost.is_some() { Extent::Everything } else { Extent::Changed };
        let listed = match self.list() {
            Ok(listed) => listed,
            Err(error) => {
                log::error!("table inet {TABLE} could not be listed, trying again: {error}");
                self.pace.failed(now);
                self.notices.post(report);
                self.state = Some(state);
                return Repaired::Done;
            }
        };
        let wanted = render::outline(&self.plan);
        let repaired = match repair::repair(&wanted, listed.as_ref(), &report.changes, extent) {
            Repair::Nothing => true,
            Repair::Whole => {
                announce(&report, listed.is_none(), "reloading it");
                false
            }
            Repair::Parts(parts) => {
                announce(&report, false, "restoring it");
                match self.restore(&state, &parts) {
                    Ok(()) => true,
                    Err(error) if error.is_timeout() => false,
                    Err(_) => self.restore_all(&state),
                }
            }
        };
        log::debug!("rules: repaired in {:.1?}", now.elapsed());
        if !repaired {
            return Repaired::Lost;
        }
        self.localnet.resume(&self.plan, losses);
        self.state = Some(state);
        Repaired::Done
    }

    /// Restores all chains, sets and maps, and leaves the table and its timeout policies; returns whether that was possible.
    fn restore_all(&mut self, state: &State) -> bool {
        let losses = self.localnet.losses();
        let Ok(listed) = self.list() else { return false };
        let wanted = render::outline(&self.plan);
        let after = self.generation();
        match repair::repair(&wanted, listed.as_ref(), &Changes::default(), Extent::Everything) {
            Repair::Parts(parts) if self.restore(state, &parts).is_ok() => {
                self.restored_after = after;
                self.localnet.resume(&self.plan, losses);
                true
            }
            _ => false,
        }
    }

    fn restore(&mut self, state: &State, parts: &Parts) -> Result<(), NftError> {
        for (language, transaction) in render::restoration(&self.plan, state, parts) {
            self.run(language, &transaction)
                .inspect_err(|error| log::warn!("table inet {TABLE} could not be restored: {error}"))?;
        }
        Ok(())
    }

    fn replace(&mut self, state: &State) -> Result<(), NftError> {
        let losses = self.localnet.losses();
        let after = self.generation();
        self.run(Language::Json, &render::table(&self.plan, state))?;
        self.restored_after = after;
        self.localnet.resume(&self.plan, losses);
        if let Some(timeouts) = render::timeouts(&self.plan) {
            self.run(Language::Native, &timeouts)?;
        }
        self.state = Some(state.clone());
        Ok(())
    }

    /// Takes the table out of the kernel, by netlink: an nft that fails or hangs does not leave it behind.
    ///
    /// # Errors
    /// The kernel's.
    pub fn remove(&mut self) -> io::Result<()> {
        self.state = None;
        self.localnet.close();
        delete_table(TABLE)
    }

    /// Runs nft, and remembers the transaction as our own.
    fn run(&mut self, language: Language, transaction: &str) -> Result<(), NftError> {
        let after = self.generation();
        let mut started = None;
        let own = &self.notices.own;
        let result = self.nft.apply(language, transaction, &mut |pid| {
            own.begin(pid, after);
            started = Some(pid);
        });
        let until = self.generation();
        if let Some(pid) = started {
            self.notices.own.end(pid, until, result.is_ok());
        }
        result
    }

    fn generation(&mut self) -> Option<u32> {
        self.query(Tables::generation).ok()
    }

    fn list(&mut self) -> io::Result<Option<Listing>> {
        self.query(|tables| tables.list(TABLE))
    }

    fn query<T>(&mut self, query: impl FnOnce(&mut Tables) -> io::Result<T>) -> io::Result<T> {
        let tables = match &mut self.queries {
            Some(tables) => tables,
            none => none.insert(Tables::open()?),
        };
        query(tables)
    }
}

/// Logs what was changed, and what follows.
fn announce(report: &Report, is_gone: bool, follows: &str) {
    let Report { changes, process, .. } = report;
    if is_gone || changes.deleted_table() {
        log::warn!("table inet {TABLE} was deleted by {}; {follows}", name_of(process.as_ref()));
    } else if changes.is_empty() {
        log::warn!("table inet {TABLE}: notifications of changes were lost; {follows}");
    } else {
        log::warn!("table inet {TABLE}: {changes} by {}; {follows}", name_of(process.as_ref()));
    }
}
