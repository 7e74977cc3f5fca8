//! Notices what other programs change in our table, so that the engine restores it at once. Lives on the reactor thread,
//! and never waits for nft.

use std::os::fd::{AsFd as _, AsRawFd as _};
use std::sync::{Arc, Mutex, PoisonError};

use mio::Interest;
use mio::unix::SourceFd;

use super::own::OwnTransactions;
use super::render::{GUARD, TABLE};
use crate::Error;
use crate::engine::Message;
use crate::netlink::nftables::{Changes, Object, Process, TableWatch, Watched};
use crate::plugin::{Handler, Io, Readiness};

/// The socket's key.
const SOCKET: usize = 0;

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
    /// Adds a report. Returns whether it is the first since [`Notices::take`]: then the engine must be notified.
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

/// Action that is run at once, on the reactor thread and before nft runs, when our table is gone or its chain `guard` may have
/// changed. It must not block.
pub type OnLoss = Box<dyn FnMut() + Send>;

/// The watch over our table.
pub struct Watch {
    table: Option<TableWatch>,
    notices: Arc<Notices>,
    on_loss: OnLoss,
    /// The last generation whose changes were reported, once it has run: a restart after a panic goes on from there.
    reported: Option<u32>,
}

impl Watch {
    /// A watch that posts to `notices`, and calls `on_loss` first where clients could get past the guard.
    pub fn new(notices: Arc<Notices>, on_loss: OnLoss) -> Watch {
        Watch { table: None, notices, on_loss, reported: None }
    }

    /// Reports what others changed; returns whether there may be more to read.
    fn read(&mut self, io: &mut Io<'_>) -> std::io::Result<bool> {
        let Some(table) = &mut self.table else { return Ok(false) };
        let Watched { transactions, lost, more } = table.read()?;
        let mut report = Report { lost, ..Report::default() };
        for transaction in transactions.into_iter().filter(|transaction| !self.notices.own.includes(transaction)) {
            let (process, generation) = (transaction.process, transaction.generation);
            report.merge(Report { changes: transaction.changes, process, generation, lost: None });
        }
        let generation = table.generation();
        if report.is_empty() {
            self.reported = Some(generation);
            return Ok(more);
        }
        if opens_guard(&report.changes) || (lost.is_some() && !table.exists().unwrap_or(false)) {
            (self.on_loss)();
        }
        if self.notices.post(report) {
            io.core.tell(Message::RulesChanged);
        }
        self.reported = Some(generation);
        Ok(more)
    }
}

/// Whether packets may pass the chain `guard` after these changes.
fn opens_guard(changes: &Changes) -> bool {
    let guard = || GUARD.to_owned();
    [Object::Table, Object::Chain(guard()), Object::Rules(guard())].iter().any(|object| changes.has(object))
}

impl Handler for Watch {
    fn start(&mut self, io: &mut Io<'_>) -> Result<(), Error> {
        match TableWatch::open(TABLE, self.reported) {
            Ok(table) => {
                io.register(&mut SourceFd(&table.as_fd().as_raw_fd()), SOCKET, Interest::READABLE)?;
                self.table = Some(table);
                self.read(io)?;
            }
            Err(error) if self.reported.is_some() => return Err(error.into()),
            // The gateway works without it.
            Err(error) => log::warn!("cannot watch the table inet {TABLE}: {error}"),
        }
        Ok(())
    }

    fn stop(&mut self, io: &mut Io<'_>) {
        if let Some(table) = self.table.take() {
            io.deregister(&mut SourceFd(&table.as_fd().as_raw_fd()), SOCKET);
        }
    }

    fn ready(&mut self, io: &mut Io<'_>, _key: usize, _readiness: Readiness) {
        match self.read(io) {
            Ok(false) => {}
            // Registering it again makes it ready again, after the other handlers.
            Ok(true) => {
                if let Some(table) = &self.table
                    && let Err(error) =
                        io.reregister(&mut SourceFd(&table.as_fd().as_raw_fd()), SOCKET, Interest::READABLE)
                {
                    log::warn!("cannot watch the table inet {TABLE}: {error}");
                }
            }
            Err(error) => log::warn!("cannot watch the table inet {TABLE}: {error}"),
        }
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Watch").field("table", &self.table).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::nftables::Action;

    fn report(object: Object, generation: u32) -> Report {
        let mut report = Report { generation, ..Report::default() };
        report.changes.add(object, Action { added: true, deleted: false });
        report
    }

    #[test]
    fn the_engine_is_told_once_of_any_number_of_changes() {
        let notices = Notices::default();
        assert!(notices.post(report(Object::Chain("a".to_owned()), 3)));
        assert!(!notices.post(Report { lost: Some((3, 5)), ..report(Object::Chain("b".to_owned()), 6) }));
        assert!(!notices.post(Report { lost: Some((6, 9)), ..Report::default() }));
        let all = notices.take().expect("there is one");
        assert_eq!((all.changes.objects.len(), all.lost), (2, Some((3, 9))));
        assert!(notices.take().is_none() && notices.post(report(Object::Table, 10)));
    }

    #[test]
    fn only_what_can_open_the_guard_calls_for_haste() {
        let opens = |object| opens_guard(&report(object, 1).changes);
        assert!(opens(Object::Table) && opens(Object::Rules("guard".to_owned())));
        assert!(opens(Object::Chain("guard".to_owned())));
        assert!(!opens(Object::Rules("output".to_owned())) && !opens(Object::Elements("active_ip4".to_owned())));
        assert!(opens_guard(&Changes { more: true, ..Changes::default() }));
    }
}
