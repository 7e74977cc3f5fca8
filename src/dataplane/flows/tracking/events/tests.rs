//! [`ByEvents`] against a simple kernel: entries expire and are refreshed without an event, as only changes have one.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::super::Times;
use super::super::account::STEP;
use super::*;
use crate::config::Protocol;
use crate::dataplane::plan::Timeouts;
use crate::netlink::conntrack::{Entry, Status, TcpState, Tuple};

const TARGETS: [TargetId; 2] = [TargetId::new(0), TargetId::new(1)];
const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// Maximum delay of the read of an event.
const GATHER: Duration = Duration::from_millis(20);

/// Lifetime of an idle flow, in seconds.
const FLOW: Timeouts = Timeouts { silent: 4 };

/// Recheck interval of a flow whose changes are not reported: three quarters of the closed retention.
const RECHECK: Duration = Duration::from_secs(3);

const TIMES: Times = Times { idle: SECOND.saturating_mul(100), closed: SECOND.saturating_mul(4) };

/// An entry of the kernel's table.
#[derive(Debug, Clone, Copy)]
struct Real {
    target: TargetId,
    id: u32,
    status: u32,
    tcp_state: Option<TcpState>,
    expires: Instant,
    /// Whether its changes are events.
    reported: bool,
}

/// An event of the kernel.
#[derive(Debug, Clone, Copy)]
enum Notice {
    Changed(TargetId, Entry),
    Gone(TargetId, Key, u32),
}

/// The truth about a target.
#[derive(Debug, Clone, Copy, Default)]
struct Truth {
    /// Time at which the last flow ended.
    ended: Option<Instant>,
    /// The same, with those that need not be known.
    ended_at_most: Option<Instant>,
    /// Whether the account may be later than the truth, since an end had no event.
    excused: bool,
}

struct Kernel {
    now: Instant,
    seed: u64,
    table: BTreeMap<(TargetId, u16), Real>,
    ids: u32,
    events: VecDeque<(Instant, Notice)>,
    truth: BTreeMap<TargetId, Truth>,
    /// Events are lost since these entries were open. Others that vanish cannot be known.
    lost_since: Option<BTreeSet<u32>>,
}

/// The flow of a client's port; the even ones speak TCP.
fn key(target: TargetId, port: u16) -> Key {
    let at = |last, port| SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, last)), port);
    let protocol = if port.is_multiple_of(2) { Protocol::Tcp } else { Protocol::Udp };
    Key {
        protocol,
        original: Tuple { source: at(9, port), destination: at(u8::from(target == TargetId::new(1)), 80) },
        zone: 0,
    }
}

/// An entry as the table finds it.
fn found(now: Instant, target: TargetId, entry: Entry) -> Found {
    Found { target, frontend: FrontendId::new(0), entry, seen: Seen::new(&entry, FLOW, Window::at(now)) }
}

impl Kernel {
    fn new(seed: u64) -> Kernel {
        let now = Instant::now() + 1000 * SECOND;
        Kernel {
            now,
            seed,
            table: BTreeMap::new(),
            ids: 0,
            events: VecDeque::new(),
            truth: TARGETS.map(|target| (target, Truth::default())).into(),
            lost_since: None,
        }
    }

    fn of(&mut self, target: TargetId) -> &mut Truth {
        self.truth.get_mut(&target).expect("one of the targets")
    }

    fn random(&mut self, below: u64) -> u64 {
        // xorshift64*
        self.seed ^= self.seed >> 12;
        self.seed ^= self.seed << 25;
        self.seed ^= self.seed >> 27;
        (self.seed.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % below
    }

    fn entry(&self, at: (TargetId, u16), real: &Real) -> Entry {
        let key = key(at.0, at.1);
        Entry {
            protocol: key.protocol,
            original: key.original,
            reply: Tuple { source: key.original.destination, destination: key.original.source },
            status: Status(real.status),
            timeout: Some(real.expires.saturating_duration_since(self.now).as_secs() as u32),
            tcp_state: real.tcp_state,
            zone: 0,
            id: real.id,
            sent: None,
            received: None,
            start: None,
        }
    }

    fn open(&self, at: (TargetId, u16), real: &Real) -> bool {
        real.expires > self.now && matches!(found(self.now, at.0, self.entry(at, real)).seen, Seen::Counted { .. })
    }

    fn in_use(&self, target: TargetId) -> bool {
        self.table.iter().any(|(at, real)| at.0 == target && self.open(*at, real))
    }

    /// Time passes. What expires ends then, without an event.
    fn advance(&mut self, to: Instant) {
        for (at, real) in self.table.clone() {
            if self.open(at, &real) && real.expires <= to {
                self.gone(at.0, &real, real.expires);
            }
        }
        self.now = self.now.max(to);
    }

    /// An open flow has ended without evidence.
    fn gone(&mut self, target: TargetId, real: &Real, ended: Instant) {
        if self.lost_since.as_ref().is_none_or(|open| open.contains(&real.id)) {
            self.of(target).ended = self.of(target).ended.max(Some(ended));
        }
        self.of(target).ended_at_most = self.of(target).ended_at_most.max(Some(ended));
        self.of(target).excused |= !real.reported;
    }

    fn notify(&mut self, notice: Notice) {
        self.events.push_back((self.now, notice));
    }

    fn change(&mut self, at: (TargetId, u16), change: impl FnOnce(&mut Real, Instant)) {
        let Some(mut real) = self.table.get(&at).copied() else { return };
        let was_open = self.open(at, &real);
        change(&mut real, self.now);
        self.table.insert(at, real);
        if was_open && !self.open(at, &real) {
            self.of(at.0).ended = Some(self.now);
            self.of(at.0).ended_at_most = Some(self.now);
            self.of(at.0).excused |= !real.reported;
        }
        if real.reported {
            self.notify(Notice::Changed(at.0, self.entry(at, &real)));
        }
    }

    fn remove(&mut self, at: (TargetId, u16)) {
        let Some(real) = self.table.get(&at).copied() else { return };
        if self.open(at, &real) {
            self.gone(at.0, &real, self.now);
        }
        self.table.remove(&at);
        if real.reported {
            self.notify(Notice::Gone(at.0, key(at.0, at.1), real.id));
        }
    }

    fn create(&mut self, at: (TargetId, u16), reported: bool) {
        self.remove(at);
        self.ids += 1;
        let tcp = at.1.is_multiple_of(2);
        let real = Real {
            target: at.0,
            id: self.ids,
            status: Status::DST_NAT,
            tcp_state: tcp.then_some(TcpState::SynSent),
            expires: self.now + FLOW.silent * SECOND,
            reported,
        };
        self.table.insert(at, real);
        if reported {
            self.notify(Notice::Changed(at.0, self.entry(at, &real)));
        }
    }

    /// Something happens to a flow, or between flows.
    fn act(&mut self) {
        let at = (TargetId::new(self.random(2) as u32), self.random(8) as u16);
        let what = self.random(12);
        let Some(real) = self.table.get(&at).copied().filter(|real| real.expires > self.now) else {
            if what < 4 {
                self.create(at, true);
            } else {
                // The kernel happens upon it, if it has expired.
                self.remove(at);
            }
            return;
        };
        debug_assert_eq!(real.target, at.0);
        let refreshed = |real: &mut Real, now: Instant| real.expires = now + FLOW.silent * SECOND;
        if !at.1.is_multiple_of(2) {
            match what {
                0..4 if real.status & Status::SEEN_REPLY == 0 => self.change(at, |real, now| {
                    real.status |= Status::SEEN_REPLY;
                    refreshed(real, now);
                }),
                0..6 => {
                    let mut refreshed_entry = real;
                    refreshed(&mut refreshed_entry, self.now);
                    self.table.insert(at, refreshed_entry);
                }
                6 => self.remove(at),
                _ => {}
            }
            return;
        }
        let state = real.tcp_state.expect("it speaks TCP");
        let to = |next: TcpState| {
            move |real: &mut Real, now: Instant| {
                real.tcp_state = Some(next);
                // Some states last for less long than others.
                real.expires = now + if next == TcpState::LastAck { 2 } else { FLOW.silent } * SECOND;
                match next {
                    TcpState::SynRecv => real.status |= Status::SEEN_REPLY,
                    TcpState::Established => real.status |= Status::ASSURED,
                    _ => {}
                }
            }
        };
        match (state, what) {
            (TcpState::SynSent, 0..5) => self.change(at, to(TcpState::SynRecv)),
            (TcpState::SynRecv, 0..=6) => self.change(at, to(TcpState::Established)),
            (TcpState::Established, 0) => self.change(at, to(TcpState::FinWait)),
            (TcpState::FinWait, 0..3) => self.change(at, to(TcpState::LastAck)),
            (TcpState::LastAck, 0..=6) => self.change(at, to(TcpState::TimeWait)),
            // Its port is used again, which takes the evidence away: not while events are lost.
            (TcpState::TimeWait | TcpState::Close, 0) if self.lost_since.is_none() => self.create(at, true),
            (TcpState::TimeWait | TcpState::Close, _) => {}
            (_, 7) => self.change(at, to(TcpState::Close)),
            (_, 8) => self.remove(at),
            (TcpState::Established, 1..7) => {
                let mut refreshed_entry = real;
                refreshed(&mut refreshed_entry, self.now);
                self.table.insert(at, refreshed_entry);
            }
            // A change of something else.
            (_, 9) if real.reported => {
                let entry = Entry { tcp_state: None, ..self.entry(at, &real) };
                self.notify(Notice::Changed(at.0, entry));
            }
            _ => {}
        }
    }

    /// Dumps the table. That removes what has expired.
    fn dump(&mut self) -> Dump {
        let expired: Vec<_> =
            self.table.iter().filter(|(_, real)| real.expires <= self.now).map(|(at, _)| *at).collect();
        expired.into_iter().for_each(|at| self.remove(at));
        let found = self.table.iter().map(|(at, real)| found(self.now, at.0, self.entry(*at, real)));
        Dump { window: Window::at(self.now), found: found.collect() }
    }
}

/// The thread, reduced to its tracking.
struct Thread {
    tracking: ByEvents,
}

impl Thread {
    fn read(&mut self, kernel: &mut Kernel) {
        for (_, notice) in kernel.events.drain(..) {
            match notice {
                Notice::Changed(target, entry) => self.tracking.changed(kernel.now, &found(kernel.now, target, entry)),
                Notice::Gone(target, key, id) => self.tracking.account(target).end(kernel.now, &key, Some(id)),
            }
        }
    }

    /// Makes the lookups that are due.
    fn refresh(&mut self, kernel: &mut Kernel) {
        // A simple kernel shows every state in a lookup.
        while let Some(((target, id), found)) = self.tracking.unclear.pop_first() {
            let at = (target, found.entry.original.source.port());
            if let Some(real) = kernel.table.get(&at).copied().filter(|real| real.id == id && real.expires > kernel.now)
            {
                self.tracking.changed(kernel.now, &self::found(kernel.now, target, kernel.entry(at, &real)));
            }
        }
        let due = TARGETS.into_iter().filter(|target| self.tracking.is_due(*target, kernel.now)).collect::<Vec<_>>();
        for target in due {
            let account = self.tracking.account(target);
            let expired: Vec<_> = account.expired(kernel.now).map(|(key, flow)| (*key, flow.id)).collect();
            for (key, id) in expired {
                let at = (target, key.original.source.port());
                let real = kernel.table.get(&at).copied().filter(|real| real.id == id && real.expires > kernel.now);
                match real {
                    Some(real) => {
                        let entry = kernel.entry(at, &real);
                        account.looked_up(Window::at(kernel.now), &found(kernel.now, target, entry));
                    }
                    None => account.end(kernel.now, &key, Some(id)),
                }
            }
        }
    }

    /// Asserts that the account is true, right after events were read and lookups made.
    #[track_caller]
    fn check(&self, kernel: &Kernel, seed: u64) {
        for target in TARGETS {
            let (true_end, reported_end) = (kernel.truth[&target].ended, self.tracking.ended(target));
            let late = if kernel.truth[&target].excused { SECOND.max(RECHECK) } else { STEP + 2 * GATHER };
            if self.tracking.state(target) == State::InUse {
                // It may be out of use for as long as a flow's last second is not over.
                let now = kernel.now;
                assert!(
                    kernel.in_use(target) || true_end.is_some_and(|end| now <= end + late),
                    "seed {seed}: target {target} counts as in use, and was so until {:?} ago",
                    true_end.map(|end| now - end)
                );
                continue;
            }
            assert!(!kernel.in_use(target), "seed {seed}: target {target} is in use");
            let Some(true_end) = true_end else { continue };
            let Some(reported_end) = reported_end else { panic!("seed {seed}: target {target} has been in use") };
            assert!(
                reported_end >= true_end,
                "seed {seed}: target {target}: ended, reportedly, {:?} before the end",
                true_end - reported_end
            );
            let at_most = kernel.truth[&target].ended_at_most.unwrap_or(true_end);
            assert!(
                reported_end <= at_most + late,
                "seed {seed}: target {target}: ended, reportedly, {:?} after the end",
                reported_end - at_most
            );
        }
    }
}

/// Runs `steps` changes. `lossy`: events are lost at times.
fn live(seed: u64, steps: u32, lossy: bool) {
    let mut kernel = Kernel::new(seed);
    // Some flows are older than the subscription.
    for port in 0..4 {
        let at = (TargetId::new(kernel.random(2) as u32), port);
        kernel.create(at, false);
        kernel.change(at, |real, _| {
            real.status |= Status::SEEN_REPLY | Status::ASSURED;
            real.tcp_state = real.tcp_state.map(|_| TcpState::Established);
        });
    }
    let mut thread = Thread { tracking: ByEvents::new(&TARGETS.map(|target| (target, TIMES)).into()) };
    TARGETS.into_iter().for_each(|target| thread.tracking.watch(kernel.now, target));
    let dump = kernel.dump();
    thread.tracking.observe(&dump);
    for _ in 0..steps {
        // Mostly many changes at once, and now and then a long pause.
        let pause = if kernel.random(40) == 0 { 6000 } else { 120 };
        let next = kernel.now + kernel.random(pause) as u32 * MILLISECOND;
        // Until then, the thread wakes whenever it has to.
        loop {
            let event = kernel.events.front().map(|(at, _)| *at + GATHER);
            let deadline = thread.tracking.deadline(kernel.now).into_iter().chain(event).min();
            let Some(wake) = deadline.filter(|wake| *wake <= next) else { break };
            let jitter = kernel.random(3) as u32 * MILLISECOND;
            kernel.advance(wake.max(kernel.now) + jitter);
            thread.read(&mut kernel);
            thread.refresh(&mut kernel);
            thread.check(&kernel, seed);
            // What was excused is settled once it is not in use, and known to be.
            for target in TARGETS {
                if kernel.table.iter().all(|(at, real)| at.0 != target || real.reported) && kernel.in_use(target) {
                    kernel.of(target).excused = false;
                }
            }
        }
        kernel.advance(next);
        kernel.act();
        if lossy && kernel.random(100) == 0 {
            // Events are unread for a while, and the kernel keeps only the first ones.
            thread.read(&mut kernel);
            let open = kernel.table.iter().filter(|(at, real)| kernel.open(**at, real));
            kernel.lost_since = Some(open.map(|(_, real)| real.id).collect());
            for _ in 0..kernel.random(60) {
                let later = kernel.now + kernel.random(50) as u32 * MILLISECOND;
                kernel.advance(later);
                kernel.act();
            }
            kernel.truth.values_mut().for_each(|truth| truth.excused = true);
            let kept = kernel.random(20) as usize;
            kernel.events.truncate(kept);
            thread.read(&mut kernel);
            let dump = kernel.dump();
            thread.tracking.overrun();
            thread.tracking.observe(&dump);
            kernel.events.clear();
            kernel.lost_since = None;
            thread.refresh(&mut kernel);
            thread.check(&kernel, seed);
        } else if kernel.random(100) == 0 {
            // An operator queries the status.
            let dump = kernel.dump();
            thread.tracking.observe(&dump);
        }
    }
}

#[test]
fn the_end_of_use_is_never_early_and_hardly_late() {
    for seed in 1..400 {
        live(seed, 1000, false);
    }
}

#[test]
fn the_end_of_use_is_right_after_a_loss_of_events() {
    for seed in 1..400 {
        live(seed, 1000, true);
    }
}
