//! The `conntrack` thread: it waits for events, for orders, for probes of endpoints, and until a query of the kernel is due.
//!
//! A query that fails is repeated after a pause, and never shows that a target is not in use.

use std::collections::BTreeMap;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

use super::clients::Clients;
use super::deletions::Deletions;
use super::index::Index;
use super::kernel::Kernel;
use super::pending::Pending;
use super::table::{Dump, Table};
use super::tracking::{AllTimes, ByEvents, ByPolls, Refresh, State, Times, Tracking};
use super::{FlowOrder, Report, Reports, Scope};
use crate::config::TargetSpec;
use crate::dataplane::plan::Plan;
use crate::ids::TargetId;
use crate::netlink::conntrack::Event;
use crate::system::{Waker, wait_readable};

/// Pause after a failed query.
pub(super) const RETRY: Duration = Duration::from_secs(2);

/// Pause after events were read, in which more gather: a busy gateway wakes the thread fifty times a second at most.
const GATHER: Duration = Duration::from_millis(20);

/// Maximum number of events that are read before anything else has its turn: more than the kernel keeps for us.
const BATCH: usize = 32768;

/// Reason why there are no events.
const UNAVAILABLE: &str = "net.netfilter.nf_conntrack_events is 0 or missing";

/// The state of the thread.
pub(super) struct Flows {
    pub(super) table: Table,
    pub(super) times: AllTimes,
    pub(super) tracking: Box<dyn Tracking>,
    pending: Pending,
    deletions: Deletions,
    clients: Clients,
    reports: Box<dyn Reports>,
    orders: Receiver<FlowOrder>,
    /// Readable when there is an order.
    waker: Waker,
    /// Time until which events gather unread.
    gathering: Option<Instant>,
    /// Time of the next query, after a failed one.
    retry: Option<Instant>,
}

impl Flows {
    pub(super) fn new(
        targets: &BTreeMap<TargetId, &TargetSpec>,
        plan: &Plan,
        reports: Box<dyn Reports>,
        orders: Receiver<FlowOrder>,
        waker: Waker,
        kernel: Box<dyn Kernel>,
    ) -> Flows {
        let index = Index::new(plan);
        // A target without frontends has no flows.
        let times = |spec: &TargetSpec| Times { idle: spec.idle_timeout, closed: Duration::from_secs(1 << 30) };
        let mut times: AllTimes = targets.iter().map(|(id, spec)| (*id, times(spec))).collect();
        for rules in plan.frontends.values() {
            let closed = Duration::from_secs(rules.timeouts.closed().into());
            times.entry(rules.target).and_modify(|times| times.closed = times.closed.min(closed));
        }
        let mut flows = Flows {
            clients: Clients::new(targets, &index),
            table: Table { kernel, index },
            tracking: Box::new(ByPolls::new(&times)),
            times,
            pending: Pending::default(),
            deletions: Deletions::default(),
            reports,
            orders,
            waker,
            gathering: None,
            retry: None,
        };
        flows.subscribe();
        flows
    }

    fn subscribe(&mut self) {
        let error = match self.table.kernel.subscribe(true) {
            Ok(()) if self.table.kernel.reports_changes() => return self.track(Box::new(ByEvents::new(&self.times))),
            Ok(()) => UNAVAILABLE.to_owned(),
            Err(error) => error.to_string(),
        };
        self.poll(&error);
    }

    /// Polls the kernel from now on, because it reports no events.
    fn poll(&mut self, reason: &str) {
        log::warn!("conntrack events unavailable ({reason}); polling instead");
        // Closing a socket cannot fail.
        let _ = self.table.kernel.subscribe(false);
        self.gathering = None;
        self.track(Box::new(ByPolls::new(&self.times)));
    }

    /// Replaces the way of tracking. Flows without an event may have ended until now, so idle times start again.
    fn track(&mut self, tracking: Box<dyn Tracking>) {
        let before = std::mem::replace(&mut self.tracking, tracking);
        let now = self.table.kernel.now();
        before.watched().into_iter().for_each(|target| self.tracking.watch(now, target));
    }

    /// Handles everything that has come: orders, events, results of probes, and what is due.
    pub(super) fn turn(&mut self) -> ControlFlow<()> {
        while let Ok(order) = self.orders.try_recv() {
            self.read_events();
            self.handle(order)?;
        }
        let now = self.table.kernel.now();
        if self.deletions.deadline().is_some_and(|at| at <= now) {
            self.read_events();
            self.delete(now);
        }
        if self.gathering.is_none_or(|until| until <= now) {
            self.read_events();
        }
        let findings = self.clients.handle_probes(now, &mut self.table);
        self.report(findings);
        self.run_due();
        ControlFlow::Continue(())
    }

    fn handle(&mut self, order: FlowOrder) -> ControlFlow<()> {
        let now = self.table.kernel.now();
        match order {
            FlowOrder::Watch { target, asked } => {
                self.pending.watch(target, asked);
                self.tracking.watch(now, target);
            }
            FlowOrder::Release(target) => {
                self.pending.cancel(target);
                self.tracking.unwatch(target);
            }
            FlowOrder::Check { target, asked } => self.pending.check(now, target, asked),
            FlowOrder::Flush { target, scope } => self.deletions.flush(now, target, scope),
            FlowOrder::DeleteStale(frontends) => self.deletions.delete_stale(now, frontends),
            FlowOrder::Survey(details) => {
                let survey = self.survey(details).map_err(|error| error.to_string());
                self.reports.surveyed(survey);
            }
            FlowOrder::End => return ControlFlow::Break(()),
        }
        ControlFlow::Continue(())
    }

    fn report(&self, reports: impl IntoIterator<Item = Report>) {
        reports.into_iter().for_each(|report| self.reports.report(report));
    }

    fn delete(&mut self, now: Instant) {
        for (target, scope) in self.deletions.run(now, &mut self.table) {
            self.clients.reset(target);
            if scope == Scope::All {
                self.tracking.flushed(target);
            }
            self.pending.cancel(target);
            self.tracking.unwatch(target);
            self.reports.report(Report::Flushed(target));
        }
    }

    fn read_events(&mut self) {
        self.gathering = None;
        let (mut left, mut is_overrun) = (BATCH, false);
        while left > 0 {
            left -= 1;
            let event = match self.table.kernel.receive() {
                Ok(Some(event)) => event,
                Ok(None) => return,
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    log::debug!("a conntrack event: {error}");
                    continue;
                }
                Err(error) => return self.poll(&error.to_string()),
            };
            let now = self.table.kernel.now();
            self.gathering = Some(now + GATHER);
            match event {
                Event::New(entry) | Event::Update(entry) => {
                    if let Some(found) = self.table.find(now, entry) {
                        self.tracking.changed(now, &found);
                        let report = self.clients.changed(now, &found, &mut *self.table.kernel);
                        self.report(report);
                    }
                }
                Event::Destroy(entry) => {
                    if let Some(found) = self.table.find(now, entry) {
                        self.tracking.removed(now, &found);
                        self.clients.removed(now, &found);
                    }
                }
                Event::Overrun => {
                    log::debug!("conntrack events came too fast");
                    self.tracking.overrun();
                    // More are lost, without notice, until all that is kept has been read: only then a dump is the truth.
                    if !std::mem::replace(&mut is_overrun, true) {
                        left = BATCH;
                    }
                }
            }
        }
        self.gathering = None;
    }

    /// Makes the queries that are due, and completes the orders that wait for them.
    fn run_due(&mut self) {
        let now = self.table.kernel.now();
        if self.retry.is_none_or(|at| at <= now) {
            match self.query(now) {
                Ok(()) => self.retry = None,
                Err(error) => {
                    if self.retry.is_none() {
                        log::warn!("cannot query the flows, so no target drains: {error}");
                    }
                    self.retry = Some(now + RETRY);
                    let failed = self.pending.report_used(|_| true);
                    self.report(failed);
                }
            }
        }
        let unused = self.pending.unused(|target| self.tracking.state(target));
        if !unused.is_empty() && !self.tracking.is_available(&*self.table.kernel) {
            return self.poll(UNAVAILABLE);
        }
        for (target, since) in unused {
            let report = self.pending.report_unused(target, since);
            self.report(report);
        }
    }

    fn query(&mut self, now: Instant) -> io::Result<()> {
        let used = self.pending.report_used(|target| self.tracking.state(target) == State::InUse);
        self.report(used);
        if self.pending.is_check_due(now) || self.tracking.refresh(&mut self.table)? == Refresh::DumpNeeded {
            self.dump()?;
            return Ok(());
        }
        self.clients.inquire(now, &mut self.table)
    }

    /// Queries all flows, and updates everything that depends on them.
    pub(super) fn dump(&mut self) -> io::Result<Dump> {
        let dump = self.table.dump()?;
        self.tracking.observe(&dump);
        let checked = self.pending.observe(&dump, |target| self.tracking.ended(target));
        self.report(checked);
        Ok(dump)
    }

    /// Time of the next turn, unless something comes before.
    pub(super) fn deadline(&mut self) -> Option<Instant> {
        let now = self.table.kernel.now();
        let query = match self.retry {
            Some(retry) => Some(retry),
            None => {
                let tracking = self.tracking.deadline(now).into_iter();
                tracking.chain(self.pending.deadline()).chain(self.clients.deadline()).min()
            }
        };
        let probes = self.table.kernel.probe_deadline(now);
        query.into_iter().chain(self.deletions.deadline()).chain(self.gathering).chain(probes).min()
    }

    /// Main function of the thread.
    pub(super) fn run(mut self) {
        loop {
            self.waker.reset();
            if self.turn().is_break() {
                return;
            }
            if let Err(error) = self.wait() {
                log::error!("the conntrack thread cannot wait: {error}");
                std::thread::sleep(RETRY);
            }
        }
    }

    fn wait(&mut self) -> io::Result<()> {
        let until = self.deadline();
        let events = self.table.kernel.events().filter(|_| self.gathering.is_none());
        let probes = self.table.kernel.probes();
        let fds: Vec<_> = std::iter::once(self.waker.as_fd()).chain(events).chain(probes).collect();
        wait_readable(&fds, until).map(|_| ())
    }
}
