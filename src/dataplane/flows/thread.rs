//! The `conntrack` thread: it waits for events, for orders, for probes of endpoints, and until the next query of the kernel is
//! due ([`due`](super::due)).

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

use super::endpoints::Inquiries;
use super::index::Index;
use super::kernel::{Kernel, Netlink};
use super::polled::Polled;
use super::reach::Reach;
use super::seen::UNANSWERED;
use super::usage::{Known, Usage};
use super::{FlowOrder, Report, Reports, Scope};
use crate::config::{Endpoint, Protocol, TargetSpec};
use crate::dataplane::plan::Plan;
use crate::ids::{FrontendId, TargetId};
use crate::system::connect::Connects;
use crate::system::{Waker, wait_readable};

/// Up to how many flows are looked up one by one, rather than by a dump of all.
pub(super) const FEW: usize = 16;

/// Pause after a failed query.
pub(super) const RETRY: Duration = Duration::from_secs(2);

/// The state of the thread.
pub(super) struct Flows<K> {
    pub(super) kernel: K,
    pub(super) index: Index,
    pub(super) target_of: Vec<TargetId>,
    pub(super) reports: Box<dyn Reports>,
    orders: Receiver<FlowOrder>,
    /// Readable when there is an order.
    waker: Waker,
    /// Whether the kernel reports changes; else it is polled.
    pub(super) subscribed: bool,
    /// Until when no events are read.
    pub(super) gathering: Option<Instant>,
    /// What has to be known before the account of the flows is right again.
    pub(super) stale: Option<Known>,
    pub(super) usage: Usage,
    /// The watched targets while the kernel is polled, with the moment of the next look.
    pub(super) polled: BTreeMap<TargetId, (Instant, Polled)>,
    /// For each target: its idle time, and for how long its flows leave a trace.
    pub(super) times: Vec<(Duration, Duration)>,
    /// The targets for which `Unused` is due, with the time of the order.
    pub(super) awaited: BTreeMap<TargetId, Instant>,
    /// Who waits for `Checked`.
    pub(super) checks: BTreeMap<TargetId, Check>,
    pub(super) reach: Reach,
    /// The TCP endpoints of each target.
    pub(super) tcp_endpoints: Vec<Vec<SocketAddr>>,
    pub(super) inquiries: Inquiries,
    /// The probes of endpoints, while there are any.
    pub(super) connects: Option<Connects>,
    /// After a failed query: time of the next one.
    pub(super) retry: Option<Instant>,
    /// Time of the last dump.
    pub(super) dumped: Option<Instant>,
}

/// A drain that waits for flows that were not answered yet.
pub(super) struct Check {
    /// Time of the order.
    pub asked: Instant,
    pub until: Instant,
    pub next: Instant,
}

impl<K: Kernel> Flows<K> {
    pub(super) fn new(
        targets: &BTreeMap<TargetId, &TargetSpec>,
        plan: &Plan,
        reports: Box<dyn Reports>,
        orders: Receiver<FlowOrder>,
        waker: Waker,
        kernel: K,
    ) -> Flows<K> {
        // A target without frontends has no flows.
        let mut times: Vec<_> =
            targets.values().map(|target| (target.idle_timeout, Duration::from_secs(1 << 30))).collect();
        for rules in plan.frontends.values() {
            let (_, trace) = &mut times[rules.target];
            *trace = (*trace).min(Duration::from_secs(rules.timeouts.closed().into()));
        }
        Flows {
            kernel,
            index: Index::new(plan),
            target_of: plan.frontends.values().map(|rules| rules.target).collect(),
            reports,
            orders,
            waker,
            subscribed: false,
            gathering: None,
            stale: None,
            usage: Usage::new(times.iter().map(|(idle, trace)| (*idle).min(*trace / 4 * 3))),
            polled: BTreeMap::new(),
            times,
            awaited: BTreeMap::new(),
            checks: BTreeMap::new(),
            reach: Reach::new(plan.frontends.len()),
            tcp_endpoints: targets.values().map(|target| tcp(&target.endpoints)).collect(),
            inquiries: Inquiries::default(),
            connects: None,
            retry: None,
            dumped: None,
        }
    }

    /// Handles all that has come: orders, events, probes, and what is due. Returns whether the thread goes on.
    pub(super) fn turn(&mut self) -> bool {
        let mut drained = BTreeMap::new();
        while let Ok(order) = self.orders.try_recv() {
            match order {
                FlowOrder::End => return false,
                FlowOrder::Flush { target, scope } => _ = drained.insert(target, scope),
                order => {
                    self.read_events();
                    self.handle(order);
                }
            }
        }
        if !drained.is_empty() {
            self.read_events();
            self.flush_drained(&drained);
        }
        let now = self.kernel.now();
        if self.gathering.is_none_or(|until| until <= now) {
            self.read_events();
        }
        self.take_probes(now);
        self.run_due();
        true
    }

    fn handle(&mut self, order: FlowOrder) {
        match order {
            FlowOrder::Watch { target, asked } => {
                self.awaited.insert(target, asked);
                if self.subscribed {
                    self.usage.watch(target, true);
                } else {
                    let now = self.kernel.now();
                    match self.polled.get_mut(&target) {
                        Some((next, _)) => *next = now,
                        None => self.poll_from_now(target, now),
                    }
                }
            }
            FlowOrder::Release(target) => self.release(target),
            FlowOrder::Check { target, asked } => {
                let now = self.kernel.now();
                self.checks.insert(target, Check { asked, until: now + UNANSWERED, next: now });
            }
            FlowOrder::DeleteStale(frontends) => {
                if let Err(error) = self.delete_stale(&frontends) {
                    log::warn!("cannot delete stale conntrack entries: {error}");
                }
            }
            FlowOrder::Survey(details) => {
                let survey = self.survey(details).map_err(|error| error.to_string());
                self.reports.surveyed(survey);
            }
            FlowOrder::Flush { .. } | FlowOrder::End => {}
        }
    }

    /// Where many drain at once, one dump serves them all.
    fn flush_drained(&mut self, targets: &BTreeMap<TargetId, Scope>) {
        if let Err(error) = self.flush(targets) {
            log::warn!("cannot delete the conntrack entries of drained targets: {error}");
        }
        for (frontend, _) in self.target_of.iter().enumerate().filter(|(_, target)| targets.contains_key(target)) {
            let frontend = FrontendId::at(frontend);
            self.reach.reset(frontend);
            self.inquiries.cancel(frontend);
        }
        for (target, scope) in targets {
            if *scope == Scope::All {
                self.usage.clear(*target);
            }
            self.release(*target);
            self.reports.report(Report::Flushed(*target));
        }
    }

    fn release(&mut self, target: TargetId) {
        self.usage.watch(target, false);
        self.polled.remove(&target);
        self.awaited.remove(&target);
        self.checks.remove(&target);
    }

    pub(super) fn poll_from_now(&mut self, target: TargetId, now: Instant) {
        let (idle, trace) = self.times[target];
        let polled = Polled::new(now, idle, trace);
        self.polled.insert(target, (polled.first_look(), polled));
    }
}

impl Flows<Netlink> {
    /// The thread's main function.
    pub(super) fn run(mut self) {
        self.subscribe();
        loop {
            self.waker.reset();
            if !self.turn() {
                return;
            }
            if let Err(error) = self.wait() {
                log::error!("the flows' thread cannot wait: {error}");
                std::thread::sleep(RETRY);
            }
        }
    }

    fn wait(&mut self) -> io::Result<()> {
        let until = self.deadline();
        let events = self.kernel.events().filter(|_| self.gathering.is_none());
        let connects = self.connects.as_ref().map(AsFd::as_fd);
        let fds: Vec<_> = std::iter::once(self.waker.as_fd()).chain(events).chain(connects).collect();
        wait_readable(&fds, until).map(|_| ())
    }
}

fn tcp(endpoints: &[Endpoint]) -> Vec<SocketAddr> {
    let tcp = endpoints.iter().filter(|endpoint| endpoint.protocol == Protocol::Tcp);
    tcp.flat_map(|endpoint| endpoint.addresses.iter().map(|address| address.first())).collect()
}
