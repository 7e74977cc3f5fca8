//! Our table, and its known state. Belongs to the engine thread.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use super::apply::{Language, Nft, NftError};
use super::localnet::Localnet;
use super::own::Outcome;
use super::pace::Pace;
use super::plan::{Plan, State};
use super::render::{self, TABLE};
use super::repair::{self, Extent, Parts, Repair};
use super::watch::{Notices, Report, name_of};
use crate::netlink::nftables::{Changes, Listing, Tables, delete_table};

/// Kernel interface of the table. The listing is `None` if there is no table.
pub(crate) trait Ruleset: Send + fmt::Debug {
    fn run(&mut self, language: Language, transaction: &str, started: &mut dyn FnMut(u32)) -> Result<(), NftError>;
    fn generation(&mut self) -> Option<u32>;
    fn list(&mut self) -> io::Result<Option<Listing>>;
    fn delete(&mut self) -> io::Result<()>;
}

/// nft for changes, netlink for queries.
#[derive(Debug)]
struct KernelRuleset {
    nft: Nft,
    /// Opened by the first query.
    queries: Option<Tables>,
}

impl KernelRuleset {
    fn queries(&mut self) -> io::Result<&mut Tables> {
        Ok(match &mut self.queries {
            Some(queries) => queries,
            none => none.insert(Tables::open()?),
        })
    }
}

impl Ruleset for KernelRuleset {
    fn run(&mut self, language: Language, transaction: &str, started: &mut dyn FnMut(u32)) -> Result<(), NftError> {
        self.nft.apply(language, transaction, started)
    }

    fn generation(&mut self) -> Option<u32> {
        self.queries().and_then(Tables::generation).ok()
    }

    fn list(&mut self) -> io::Result<Option<Listing>> {
        self.queries()?.list(TABLE)
    }

    /// By netlink: an nft that fails or hangs does not leave the table behind.
    fn delete(&mut self) -> io::Result<()> {
        delete_table(TABLE)
    }
}

/// Our table. It exists from [`Table::load`] to [`Table::remove`], and beyond a crash until the next load.
#[derive(Debug)]
pub struct Table {
    ruleset: Box<dyn Ruleset>,
    plan: Plan,
    /// On only while the table is in the kernel.
    localnet: Localnet,
    /// State of the table in the kernel; `None` after a failure, until the table has been replaced as a whole.
    state: Option<State>,
    /// Changes by other programs, and the ids of our own.
    notices: Arc<Notices>,
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
        let ruleset = Box::new(KernelRuleset { nft, queries: None });
        Table { ruleset, plan, localnet, state: None, notices, pace: Pace::default(), restored_after: None }
    }

    /// A table over a kernel of a test's own.
    #[cfg(test)]
    pub(crate) fn over(ruleset: Box<dyn Ruleset>, plan: Plan, localnet: Localnet) -> Table {
        Table {
            ruleset,
            plan,
            localnet,
            state: None,
            notices: Arc::default(),
            pace: Pace::default(),
            restored_after: None,
        }
    }

    /// All rules that there can be.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Puts the whole table into the kernel, with nothing in force. A table of its name is replaced in the same
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
        // Rendering takes milliseconds with thousands of frontends, and this is called for each that starts.
        let changes = if before == *state { None } else { render::changes(&self.plan, &before, state) };
        if let Err(error) = changes.map_or(Ok(()), |changes| self.run(Language::Json, &changes)) {
            // A run that hung would hang again, and the engine waits meanwhile. The next attempt replaces the table.
            if error.is_timeout() {
                return Err(error);
            }
            // Another program may have changed something that our change depends on.
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
        let Some(state) = self.state.clone() else { return Repaired::Lost };
        let repaired = match self.extent(&report) {
            None => true,
            Some(extent) => match self.ruleset.list() {
                Ok(listed) => self.restore_listed(&state, listed.as_ref(), &report, extent),
                Err(error) => {
                    log::error!("table inet {TABLE} could not be listed, trying again: {error}");
                    self.pace.failed(now);
                    self.notices.post(report);
                    return Repaired::Done;
                }
            },
        };
        log::debug!("rules: repaired in {:.1?}", now.elapsed());
        if !repaired {
            self.state = None;
            return Repaired::Lost;
        }
        self.localnet.resume(&self.plan, losses);
        Repaired::Done
    }

    /// Extent of the repair that a report calls for, if any.
    fn extent(&self, report: &Report) -> Option<Extent> {
        if report.lost.is_some_and(|lost| !self.notices.own.account_for(lost)) {
            return Some(Extent::Everything);
        }
        let is_old = self.restored_after.is_some_and(|after| after.wrapping_sub(report.generation).cast_signed() >= 0);
        (!report.changes.is_empty() && !is_old).then_some(Extent::Changed)
    }

    /// Repairs the listed table; returns whether that was possible.
    fn restore_listed(&mut self, state: &State, listed: Option<&Listing>, report: &Report, extent: Extent) -> bool {
        match repair::repair(&render::outline(&self.plan), listed, &report.changes, extent) {
            Repair::Nothing => true,
            Repair::Whole => {
                log::warn!("{}", announcement(report, listed, "reloading it"));
                false
            }
            Repair::Parts(parts) => {
                log::warn!("{}", announcement(report, listed, "restoring it"));
                match self.restore(state, &parts) {
                    Ok(()) => true,
                    Err(error) => !error.is_timeout() && self.restore_all(state),
                }
            }
        }
    }

    /// Restores all chains, sets and maps, and leaves the table and its timeout policies; returns whether that was possible.
    fn restore_all(&mut self, state: &State) -> bool {
        let losses = self.localnet.losses();
        let Ok(listed) = self.ruleset.list() else { return false };
        let after = self.ruleset.generation();
        match repair::repair(&render::outline(&self.plan), listed.as_ref(), &Changes::default(), Extent::Everything) {
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
        let after = self.ruleset.generation();
        self.run(Language::Json, &render::table(&self.plan, state))?;
        self.restored_after = after;
        self.localnet.resume(&self.plan, losses);
        if let Some(timeouts) = render::timeouts(&self.plan) {
            self.run(Language::Native, &timeouts)?;
        }
        self.state = Some(state.clone());
        Ok(())
    }

    /// Removes the table from the kernel.
    ///
    /// # Errors
    /// The operating system's error.
    pub fn remove(&mut self) -> io::Result<()> {
        self.state = None;
        self.localnet.close();
        self.ruleset.delete()
    }

    /// Runs nft, and records the transaction as our own.
    fn run(&mut self, language: Language, transaction: &str) -> Result<(), NftError> {
        let after = self.ruleset.generation();
        let mut started = None;
        let own = &self.notices.own;
        let result = self.ruleset.run(language, transaction, &mut |pid| {
            own.begin(pid, after);
            started = Some(pid);
        });
        let until = self.ruleset.generation();
        if let Some(pid) = started {
            let outcome = if result.is_ok() { Outcome::Committed } else { Outcome::Failed };
            self.notices.own.end(pid, until, outcome);
        }
        result
    }
}

/// Message about a change of the listed table, and about the reaction.
fn announcement(report: &Report, listed: Option<&Listing>, follows: &str) -> String {
    let Report { changes, process, .. } = report;
    let process = name_of(process.as_ref());
    if listed.is_none() || changes.deleted_table() {
        format!("table inet {TABLE} was deleted by {process}; {follows}")
    } else if changes.is_empty() {
        format!("table inet {TABLE}: notifications of changes were lost; {follows}")
    } else {
        format!("table inet {TABLE}: {changes} by {process}; {follows}")
    }
}

#[cfg(test)]
mod tests;
