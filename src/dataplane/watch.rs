//! Watches for changes of our table by other programs, so that the engine restores it at once. Runs on the reactor thread,
//! and never waits for nft.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::localnet::Localnet;
use super::monitor::{Monitor, MonitorEvent, Progress};
use super::own::OwnTransactions;
use super::render::{GUARD, TABLE};
use crate::Error;
use crate::netlink::nftables::{Changes, Object, Process, TableWatch, Watched};

/// Changes by other programs since the engine last took them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// All of it.
    pub changes: Changes,
    /// The process that committed the last of the transactions.
    pub process: Option<Process>,
    /// The last generation that is reported.
    pub generation: u32,
    /// Notifications were lost: anything can have happened after the first of these generations, up to the second.
    pub lost: Option<(u32, u32)>,
}

impl Report {
    fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.lost.is_none()
    }

    fn merge(&mut self, later: Report) {
        self.changes.merge(later.changes);
        self.process = later.process.or(self.process.take());
        self.generation = later.generation;
        self.lost = match (self.lost, later.lost) {
            (Some((after, _)), Some((_, until))) => Some((after, until)),
            (lost, None) | (None, lost) => lost,
        };
    }
}

/// State that the reactor, which watches the table, and the engine, which changes it, share.
#[derive(Debug, Default)]
pub struct Notices {
    /// The transactions of the engine's own.
    pub own: OwnTransactions,
    pending: Mutex<Option<Report>>,
}

impl Notices {
    /// Adds a report. Returns true for the first one since [`Notices::take`]: then the engine must be notified.
    pub fn post(&self, report: Report) -> bool {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let is_first = pending.is_none();
        pending.get_or_insert_default().merge(report);
        is_first
    }

    /// The process that was reported last, as log messages name it.
    pub fn process(&self) -> String {
        let pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        name_of(pending.as_ref().and_then(|report| report.process.as_ref()))
    }

    /// For the engine: the reports so far, as one.
    pub fn take(&self) -> Option<Report> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A process, as log messages name it.
pub(super) fn name_of(process: Option<&Process>) -> String {
    process.map_or_else(|| "another program".to_owned(), Process::to_string)
}

/// Kernel interface of the watch: that of [`TableWatch`].
trait TableEvents: Send {
    fn fd(&self) -> BorrowedFd<'_>;
    fn read(&mut self) -> io::Result<Watched>;
    fn generation(&self) -> u32;
    fn exists(&mut self) -> io::Result<bool>;
}

impl TableEvents for TableWatch {
    fn fd(&self) -> BorrowedFd<'_> {
        self.as_fd()
    }

    fn read(&mut self) -> io::Result<Watched> {
        self.read()
    }

    fn generation(&self) -> u32 {
        self.generation()
    }

    fn exists(&mut self) -> io::Result<bool> {
        self.exists()
    }
}

/// The watch over our table.
pub struct Watch {
    events: Option<Box<dyn TableEvents>>,
    notices: Arc<Notices>,
    localnet: Localnet,
    /// The last generation whose changes were reported, once it has run: a restart after a panic goes on from there.
    reported: Option<u32>,
}

impl Watch {
    /// A watch that posts to `notices`. Before nft runs, it suspends `localnet` when outside hosts could get past the guard.
    pub fn new(notices: Arc<Notices>, localnet: Localnet) -> Watch {
        Watch { events: None, notices, localnet, reported: None }
    }

    /// Reports what other programs changed.
    fn read(&mut self, emit: &mut dyn FnMut(MonitorEvent)) -> io::Result<Progress> {
        let Some(events) = &mut self.events else { return Ok(Progress::Drained) };
        let Watched { transactions, lost, more } = events.read()?;
        let mut report = Report { lost, ..Report::default() };
        for transaction in transactions.into_iter().filter(|transaction| !self.notices.own.includes(transaction)) {
            let (process, generation) = (transaction.process, transaction.generation);
            report.merge(Report { changes: transaction.changes, process, generation, lost: None });
        }
        if opens_guard(&report.changes) || (lost.is_some() && !events.exists().unwrap_or(false)) {
            self.localnet.suspend();
        }
        if !report.is_empty() && self.notices.post(report) {
            emit(MonitorEvent::TableChanged);
        }
        self.reported = Some(events.generation());
        Ok(if more { Progress::More } else { Progress::Drained })
    }
}

/// Whether packets may pass the chain `guard` after these changes.
fn opens_guard(changes: &Changes) -> bool {
    let guard = || GUARD.to_owned();
    [Object::Table, Object::Chain(guard()), Object::Rules(guard())].iter().any(|object| changes.has(object))
}

impl Monitor for Watch {
    fn open(&mut self, _now: Instant) -> Result<(), Error> {
        match TableWatch::open(TABLE, self.reported) {
            Ok(table) => self.events = Some(Box::new(table)),
            Err(error) if self.reported.is_some() => return Err(error.into()),
            // The gateway works without it.
            Err(error) => log::warn!("cannot watch the table inet {TABLE}: {error}"),
        }
        Ok(())
    }

    fn close(&mut self) {
        self.events = None;
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.events.as_deref().map(TableEvents::fd)
    }

    fn poll(&mut self, _now: Instant, emit: &mut dyn FnMut(MonitorEvent)) -> Progress {
        self.read(emit).unwrap_or_else(|error| {
            log::warn!("cannot watch the table inet {TABLE}: {error}");
            Progress::Drained
        })
    }
}

#[cfg(test)]
mod tests;
