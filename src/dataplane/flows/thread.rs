//! The `conntrack` thread: it waits for events and for orders, and for the moments at which the kernel is to be asked.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

use super::events::{SILENT, kernel_tells};
use super::index::Index;
use super::kernel::Dump;
use super::polled::{Count, Polled, Verdict};
use super::reach::Reach;
use super::seen::{Seen, UNANSWERED, closed_between, may_be_answered};
use super::usage::{Known, Usage};
use super::{FlowOrder, FlowOrders};
use crate::config::{Config, Endpoint, Protocol};
use crate::dataplane::plan::Plan;
use crate::engine::core::{Event, TargetId};
use crate::engine::{Inbox, Message};
use crate::netlink::conntrack::{Conntrack, Subscription};
use crate::system::wait_readable;

/// Up to how many flows are looked up one by one, rather than by a dump of all.
pub(super) const FEW: usize = 16;

/// How soon a flow that was not answered is looked at again while a drain waits for it.
const CHECK: Duration = Duration::from_millis(250);

/// How long to wait before the kernel is asked again after a failure.
const RETRY: Duration = Duration::from_secs(2);

/// The state of the thread.
pub(super) struct Flows {
    pub(super) index: Index,
    pub(super) target_of: Vec<TargetId>,
    pub(super) inbox: Inbox,
    orders: Receiver<FlowOrder>,
    /// For threads of its own.
    pub(super) own: FlowOrders,
    pub(super) conntrack: Option<Conntrack>,
    /// `None` where the kernel does not tell: then it is polled.
    pub(super) subscription: Option<Subscription>,
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
    awaited: BTreeMap<TargetId, Instant>,
    /// Who waits for `Checked`.
    checks: BTreeMap<TargetId, Check>,
    pub(super) reach: Reach,
    /// The TCP endpoints of each target.
    pub(super) tcp_endpoints: Vec<Vec<SocketAddr>>,
    /// A thread asks endpoints whether they answer the gateway itself.
    pub(super) asking: bool,
    /// After a failure: when the kernel may be asked again.
    retry: Option<Instant>,
    pub(super) dumped: Option<Instant>,
}

/// A drain that waits for flows that were not answered yet.
struct Check {
    /// Time of the order.
    asked: Instant,
    until: Instant,
    next: Instant,
}

impl Flows {
    pub(super) fn new(
        config: &Config,
        plan: &Plan,
        inbox: Inbox,
        orders: Receiver<FlowOrder>,
        own: FlowOrders,
    ) -> Flows {
        // A target without frontends has no flows.
        let mut times: Vec<_> =
            config.targets.iter().map(|target| (target.idle_timeout, Duration::from_secs(1 << 30))).collect();
        for (frontend, rules) in config.frontends.iter().zip(&plan.frontends) {
            let (_, trace) = &mut times[frontend.target];
            *trace = (*trace).min(Duration::from_secs(rules.timeouts.closed().into()));
        }
        Flows {
            index: Index::new(plan),
            target_of: config.frontends.iter().map(|frontend| frontend.target).collect(),
            inbox,
            orders,
            own,
            conntrack: None,
            subscription: None,
            gathering: None,
            stale: None,
            usage: Usage::new(times.iter().map(|(idle, trace)| (*idle).min(*trace / 4 * 3))),
            polled: BTreeMap::new(),
            times,
            awaited: BTreeMap::new(),
            checks: BTreeMap::new(),
            reach: Reach::new(config.frontends.len()),
            tcp_endpoints: config.targets.iter().map(|target| tcp(&target.endpoints)).collect(),
            asking: false,
            retry: None,
            dumped: None,
        }
    }

    pub(super) fn run(mut self) {
        self.subscribe();
        loop {
            self.own.waker.reset();
            let mut drained = BTreeMap::new();
            while let Ok(order) = self.orders.try_recv() {
                match order {
                    FlowOrder::End => return,
                    FlowOrder::Forget { target, answered } => _ = drained.insert(target, answered),
                    order => {
                        self.read_events();
                        self.carry_out(order);
                    }
                }
            }
            if !drained.is_empty() {
                self.read_events();
                self.forget_drained(&drained);
            }
            if self.gathering.is_none_or(|until| until <= Instant::now()) {
                self.read_events();
            }
            self.attend();
            if let Err(error) = self.wait() {
                log::error!("the flows' thread cannot wait: {error}");
                std::thread::sleep(RETRY);
            }
        }
    }

    // ---- orders ----

    fn carry_out(&mut self, order: FlowOrder) {
        match order {
            FlowOrder::Watch { target, asked } => {
                self.awaited.insert(target, asked);
                if self.subscription.is_some() {
                    self.usage.watch(target, true);
                } else if let Some((next, _)) = self.polled.get_mut(&target) {
                    *next = Instant::now();
                } else {
                    self.poll_from_now(target, Instant::now());
                }
            }
            FlowOrder::Release(target) => self.release(target),
            FlowOrder::Check { target, asked } => {
                let now = Instant::now();
                self.checks.insert(target, Check { asked, until: now + UNANSWERED, next: now });
            }
            FlowOrder::ForgetStale(frontends) => {
                if let Err(error) = self.forget_stale(&frontends) {
                    log::warn!("cannot delete stale conntrack entries: {error}");
                }
            }
            FlowOrder::Asked(answers) => {
                self.asking = false;
                for answer in answers {
                    if !answer.none && self.index.rules(answer.frontend).has_range() && answer.endpoint.is_err() {
                        // Not every port of a range is in use.
                        self.reach.dismiss(answer.frontend);
                        continue;
                    }
                    if let Some(endpoint) = self.reach.asked(Instant::now(), answer.frontend, answer.endpoint.is_ok()) {
                        self.inbox.send(Message::Event(answer.event(endpoint)));
                    }
                }
            }
            FlowOrder::Survey(details) => {
                let survey = self.survey(details).map_err(|error| error.to_string());
                self.inbox.send(Message::Surveyed(survey));
            }
            FlowOrder::Forget { .. } | FlowOrder::End => {}
        }
    }

    /// Where many drain at once, one dump serves them all.
    fn forget_drained(&mut self, targets: &BTreeMap<TargetId, bool>) {
        if let Err(error) = self.forget(targets) {
            log::warn!("cannot delete the conntrack entries of drained targets: {error}");
        }
        for (frontend, _) in self.target_of.iter().enumerate().filter(|(_, target)| targets.contains_key(target)) {
            self.reach.reset(frontend);
        }
        for (target, answered) in targets {
            if *answered {
                self.usage.clear(*target);
            }
            self.release(*target);
            self.inbox.send(Message::Event(Event::FlowsForgotten(*target)));
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

    // ---- what is due ----

    /// Asks the kernel what has to be known by now, and answers those who wait.
    fn attend(&mut self) {
        let now = Instant::now();
        if self.retry.is_none_or(|at| at <= now) {
            match self.ask(now) {
                Ok(()) => self.retry = None,
                Err(error) => {
                    if self.retry.is_none() {
                        log::warn!("cannot tell which flows there are, so nothing drains: {error}");
                    }
                    self.retry = Some(now + RETRY);
                    // Better one drain too few.
                    for (target, check) in std::mem::take(&mut self.checks) {
                        let asked = check.asked;
                        self.inbox.send(Message::Event(Event::Checked { target, asked, used: true, since: None }));
                    }
                }
            }
        }
        if self.subscription.is_none() || self.stale.is_some() {
            return;
        }
        let usage = &self.usage;
        let is_unused = |(target, _): &(&TargetId, &Instant)| usage.flows(**target).is_empty();
        let unused: Vec<_> = self.awaited.iter().filter(is_unused).map(|(target, asked)| (*target, *asked)).collect();
        if !unused.is_empty() && !kernel_tells() {
            // There may be flows that nobody has told of, and may have been until now: the idle times begin anew.
            return self.give_up_events(SILENT);
        }
        for (target, asked) in unused {
            self.awaited.remove(&target);
            let since = self.usage.ended(target);
            self.inbox.send(Message::Event(Event::Unused { target, asked, since }));
        }
    }

    fn ask(&mut self, now: Instant) -> io::Result<()> {
        let used: Vec<_> =
            self.checks.keys().filter(|target| !self.usage.flows(**target).is_empty()).copied().collect();
        for target in used {
            self.checked(target, true);
        }
        let poll_due = self.polled.values().any(|(next, _)| *next <= now);
        let check_due = self.checks.values().any(|check| check.next <= now);
        if poll_due || check_due || self.stale.is_some() {
            self.look()?;
            return Ok(());
        }
        self.ask_endpoints(now)?;
        for target in self.usage.doubtful(now) {
            let suspects = self.usage.suspects(target, now);
            if suspects.len() > FEW {
                self.look()?;
                return Ok(());
            }
            for (key, id, frontend) in suspects {
                let at = Instant::now();
                let entry = self.look_up(frontend, &key, id)?;
                let answered = Instant::now();
                match entry {
                    Some(entry) => {
                        let timeouts = self.index.rules(frontend).timeouts;
                        let closed = closed_between(&entry, timeouts, (at, answered)).1;
                        self.usage.answered(at, closed, target, &entry);
                    }
                    None => self.usage.end(answered, target, &key, Some(id)),
                }
            }
        }
        Ok(())
    }

    /// Asks the kernel for all flows, and tells everybody who needs to know.
    pub(super) fn look(&mut self) -> io::Result<Dump> {
        let dump = self.dump()?;
        let counts = self.count(&dump);
        for (target, (next, polled)) in &mut self.polled {
            let count = counts.get(target).copied().unwrap_or_default();
            match polled.observe(dump.asked.0, &count) {
                Verdict::LookAt(at) => *next = at,
                Verdict::Unused => {
                    // Until it is asked for again, the last moment that still finds the traces of what ends now.
                    *next = polled.last_look(dump.asked.0);
                    if let Some(asked) = self.awaited.remove(target) {
                        let since = Some(polled.since());
                        self.inbox.send(Message::Event(Event::Unused { target: *target, asked, since }));
                    }
                }
            }
        }
        if self.subscription.is_some() {
            let known = self.stale.take().unwrap_or(Known::Everything);
            let seen: Vec<_> = dump
                .entries
                .iter()
                .map(|(frontend, entry)| {
                    let closed = closed_between(entry, self.index.rules(*frontend).timeouts, dump.asked).1;
                    (self.target_of[*frontend], *frontend, *entry, closed)
                })
                .collect();
            self.usage.reconcile(dump.asked, &seen, known);
        }
        self.look_for_checks(&dump, &counts);
        Ok(dump)
    }

    fn look_for_checks(&mut self, dump: &Dump, counts: &BTreeMap<TargetId, Count>) {
        let targets: Vec<_> = self.checks.keys().copied().collect();
        for target in targets {
            let used = counts.get(&target).is_some_and(|count| count.open() > 0);
            let may_be_used = dump.entries.iter().any(|(frontend, entry)| {
                self.target_of[*frontend] == target
                    && Seen::new(entry) == Some(Seen::Idle)
                    && may_be_answered(entry, self.index.rules(*frontend).timeouts)
            });
            if used || !may_be_used {
                self.checked(target, used);
            } else if let Some(check) = self.checks.get_mut(&target) {
                check.next = dump.asked.1 + CHECK;
                if check.until <= dump.asked.1 {
                    self.checked(target, false);
                }
            }
        }
    }

    fn checked(&mut self, target: TargetId, used: bool) {
        let Some(Check { asked, .. }) = self.checks.remove(&target) else { return };
        let since = self.subscription.as_ref().and_then(|_| self.usage.ended(target));
        self.inbox.send(Message::Event(Event::Checked { target, asked, used, since }));
    }

    fn wait(&mut self) -> io::Result<()> {
        let reads = self.gathering.is_none();
        let next = match self.retry {
            Some(retry) => Some(retry),
            None => {
                let polls = self.polled.values().map(|(next, _)| *next);
                let checks = self.checks.values().map(|check| check.next);
                let silent = self.reach.deadline().filter(|_| !self.asking);
                polls.chain(checks).chain(silent).chain(self.usage.deadline(Instant::now())).min()
            }
        };
        let until = next.into_iter().chain(self.gathering).min();
        let events = self.subscription.as_ref().filter(|_| reads).map(AsFd::as_fd);
        let fds: Vec<_> = std::iter::once(self.own.waker.as_fd()).chain(events).collect();
        wait_readable(&fds, until).map(|_| ())
    }
}

fn tcp(endpoints: &[Endpoint]) -> Vec<SocketAddr> {
    let tcp = endpoints.iter().filter(|endpoint| endpoint.protocol == Protocol::Tcp);
    tcp.flat_map(|endpoint| endpoint.addresses.iter().map(|address| address.first())).collect()
}
