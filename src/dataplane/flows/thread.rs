//! The `conntrack` thread: it waits for events and for orders, and for the moments at which the kernel is to be asked.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

use super::endpoints::words;
use super::index::Index;
use super::kernel::Dump;
use super::polled::{Count, Polled, Verdict};
use super::reach::Reach;
use super::seen::{Seen, UNANSWERED, closed_between, may_be_answered};
use super::usage::{Known, Usage};
use super::{FlowOrder, FlowOrders};
use crate::config::Config;
use crate::dataplane::plan::Plan;
use crate::engine::core::{Event, FrontendId, TargetId};
use crate::engine::{Inbox, Message};
use crate::netlink::conntrack::{self, Conntrack, Entry, Subscription};
use crate::netlink::route;
use crate::system::wait_readable;

/// How long events are left to gather after some have been read: a busy gateway wakes us fifty times a second at the most.
const GATHER: Duration = Duration::from_millis(20);

/// How many events are read before anything else has its turn: more than the kernel keeps for us.
const BATCH: usize = 32768;

/// Up to how many flows are looked up one by one, rather than by a dump of all.
const FEW: usize = 16;

/// How soon a flow that was not answered is looked at again while a drain waits for it.
const CHECK: Duration = Duration::from_millis(250);

/// How long to wait before the kernel is asked again after a failure.
const RETRY: Duration = Duration::from_secs(2);

/// Why there are no events.
const SILENT: &str = "net.netfilter.nf_conntrack_events is 0, or not there";

/// Says whether the kernel tells of changes (0: never, 1: always, 2: if somebody listens).
const EVENTS: &str = "/proc/sys/net/netfilter/nf_conntrack_events";

/// The state of the thread.
pub(super) struct Flows {
    pub(super) index: Index,
    pub(super) target_of: Vec<TargetId>,
    inbox: Inbox,
    orders: Receiver<FlowOrder>,
    /// For threads of its own.
    pub(super) own: FlowOrders,
    pub(super) conntrack: Option<Conntrack>,
    /// `None` where the kernel does not tell: then it is polled.
    pub(super) subscription: Option<Subscription>,
    /// Until when no events are read.
    gathering: Option<Instant>,
    /// What has to be known before the account of the flows is right again.
    pub(super) stale: Option<Known>,
    pub(super) usage: Usage,
    /// The watched targets while the kernel is polled, with the moment of the next look.
    pub(super) polled: BTreeMap<TargetId, (Instant, Polled)>,
    /// For each target: its idle time, and for how long its flows leave a trace.
    pub(super) times: Vec<(Duration, Duration)>,
    /// Who waits for `Unused`.
    awaited: BTreeSet<TargetId>,
    /// Who waits for `Checked`.
    checks: BTreeMap<TargetId, Check>,
    pub(super) reach: Reach,
    /// A thread asks endpoints whether they answer the gateway itself.
    pub(super) asking: bool,
    /// After a failure: when the kernel may be asked again.
    retry: Option<Instant>,
    pub(super) dumped: Option<Instant>,
}

/// A drain that waits for flows that were not answered yet.
struct Check {
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
            awaited: BTreeSet::new(),
            checks: BTreeMap::new(),
            reach: Reach::new(config.frontends.len()),
            asking: false,
            retry: None,
            dumped: None,
        }
    }

    pub(super) fn run(mut self) {
        self.subscribe();
        loop {
            self.own.waker.reset();
            let mut drained = BTreeSet::new();
            while let Ok(order) = self.orders.try_recv() {
                match order {
                    FlowOrder::End => return,
                    FlowOrder::Forget(target) => _ = drained.insert(target),
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

    // ---- the subscription ----

    fn subscribe(&mut self) {
        let cannot = match Subscription::open() {
            Ok(_) if !kernel_tells() => SILENT.to_owned(),
            Ok(subscription) => {
                self.subscription = Some(subscription);
                self.stale = Some(Known::Nothing);
                return;
            }
            Err(error) => error.to_string(),
        };
        log::warn!("conntrack's events are not to be had ({cannot}), so the flows are polled");
    }

    /// The kernel does not tell any more: it is polled from now on.
    fn give_up_events(&mut self, why: &str) {
        self.subscription = None;
        self.stale = None;
        log::warn!("conntrack's events have ended ({why}), so the flows are polled");
        let now = Instant::now();
        for target in self.usage.watched() {
            self.poll_from_now(target, now);
        }
        self.usage.forget_all();
    }

    fn read_events(&mut self) {
        let mut stateless = BTreeMap::new();
        self.take_events(&mut stateless);
        if stateless.len() > FEW {
            self.stale.get_or_insert(Known::Everything);
            return;
        }
        for ((target, _), (frontend, entry)) in stateless {
            let now = Instant::now();
            match self.look_up(frontend, &entry.key(), entry.id) {
                Ok(Some(entry)) => self.usage.told(now, target, frontend, &entry),
                Ok(None) => {}
                Err(_) => _ = self.stale.get_or_insert(Known::Everything),
            }
        }
    }

    /// `stateless` are those that were answered and not known before, and of which nothing more was told: a connection that
    /// conntrack has picked up in its middle has no other event.
    fn take_events(&mut self, stateless: &mut BTreeMap<(TargetId, u32), (FrontendId, Entry)>) {
        let Some(subscription) = &mut self.subscription else { return };
        self.gathering = None;
        let mut left = BATCH;
        while left > 0 {
            left -= 1;
            let event = match subscription.recv() {
                Ok(Some(event)) => event,
                Ok(None) => return,
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    log::debug!("a conntrack event: {error}");
                    continue;
                }
                Err(error) => return self.give_up_events(&error.to_string()),
            };
            let now = Instant::now();
            self.gathering = Some(now + GATHER);
            match event {
                conntrack::Event::New(mut entry) | conntrack::Event::Update(mut entry) => {
                    if let Some(frontend) = self.index.frontend(&entry) {
                        // The kernel has longer ones for a flow whose policy is gone.
                        entry.timeout = entry.timeout.min(Some(self.index.rules(frontend).timeouts.silent));
                        let target = self.target_of[frontend];
                        self.usage.told(now, target, frontend, &entry);
                        let is_local = |ip| route::is_local(ip).unwrap_or(false);
                        if self.reach.told(now, frontend, &entry, is_local) {
                            self.inbox.send(Message::Event(Event::ClientsLost { frontend, problem: None }));
                        }
                        let known = || self.usage.flows(target).contains_key(&entry.key());
                        if Seen::new(&entry).is_none() && entry.status.answered() && stateless.len() <= FEW && !known()
                        {
                            stateless.insert((target, entry.id), (frontend, entry));
                        }
                    }
                }
                conntrack::Event::Destroy(entry) => {
                    if let Some(frontend) = self.index.frontend(&entry) {
                        self.usage.end(now, self.target_of[frontend], &entry.key(), Some(entry.id));
                    }
                }
                conntrack::Event::Overrun => {
                    log::debug!("conntrack's events came too fast");
                    if self.stale.replace(Known::SomeLost) != Some(Known::SomeLost) {
                        // More are lost, without a word, until all that is kept has been read: only then a dump is the truth.
                        left = BATCH;
                    }
                }
            }
        }
        self.gathering = None;
    }

    // ---- orders ----

    fn carry_out(&mut self, order: FlowOrder) {
        match order {
            FlowOrder::Watch(target) => {
                self.awaited.insert(target);
                if self.subscription.is_some() {
                    self.usage.watch(target, true);
                } else if let Some((next, _)) = self.polled.get_mut(&target) {
                    *next = Instant::now();
                } else {
                    self.poll_from_now(target, Instant::now());
                }
            }
            FlowOrder::Release(target) => self.release(target),
            FlowOrder::Check(target) => {
                let now = Instant::now();
                self.checks.insert(target, Check { until: now + UNANSWERED, next: now });
            }
            FlowOrder::ForgetStale(frontends) => {
                if let Err(error) = self.forget_stale(&frontends) {
                    log::warn!("cannot delete stale conntrack entries: {error}");
                }
            }
            FlowOrder::Asked(answers) => {
                self.asking = false;
                for (frontend, answer) in answers {
                    if let Some(endpoint) = self.reach.asked(frontend, answer.is_ok()) {
                        let problem = Some(words(endpoint, answer));
                        self.inbox.send(Message::Event(Event::ClientsLost { frontend, problem }));
                    }
                }
            }
            FlowOrder::Survey(details) => {
                let survey = self.survey(details).map_err(|error| error.to_string());
                self.inbox.send(Message::Surveyed(survey));
            }
            FlowOrder::Forget(_) | FlowOrder::End => {}
        }
    }

    /// Where many drain at once, one dump serves them all.
    fn forget_drained(&mut self, targets: &BTreeSet<TargetId>) {
        if let Err(error) = self.forget(targets) {
            log::warn!("cannot delete the conntrack entries of drained targets: {error}");
        }
        for (frontend, _) in self.target_of.iter().enumerate().filter(|(_, target)| targets.contains(target)) {
            self.reach.reset(frontend);
        }
        for target in targets {
            self.usage.clear(*target);
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

    fn poll_from_now(&mut self, target: TargetId, now: Instant) {
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
                    for (target, _) in std::mem::take(&mut self.checks) {
                        self.inbox.send(Message::Event(Event::Checked { target, used: true, since: None }));
                    }
                }
            }
        }
        if self.subscription.is_none() || self.stale.is_some() {
            return;
        }
        let usage = &self.usage;
        let unused: Vec<_> = self.awaited.iter().filter(|target| usage.flows(**target).is_empty()).copied().collect();
        if !unused.is_empty() && !kernel_tells() {
            // There may be flows that nobody has told of, and may have been until now: the idle times begin anew.
            return self.give_up_events(SILENT);
        }
        for target in unused {
            self.awaited.remove(&target);
            let since = self.usage.ended(target);
            self.inbox.send(Message::Event(Event::Unused { target, since }));
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
                    if self.awaited.remove(target) {
                        let since = Some(polled.since());
                        self.inbox.send(Message::Event(Event::Unused { target: *target, since }));
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
        self.checks.remove(&target);
        let since = self.subscription.as_ref().and_then(|_| self.usage.ended(target));
        self.inbox.send(Message::Event(Event::Checked { target, used, since }));
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

/// Whether the kernel tells of changes: not if it is set to be silent, nor if it was built so and has no such setting.
fn kernel_tells() -> bool {
    match std::fs::read_to_string(EVENTS) {
        Ok(value) => value.trim() != "0",
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}
