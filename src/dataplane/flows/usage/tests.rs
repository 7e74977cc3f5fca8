//! [`Usage`] against a simple kernel: entries that expire in secret and are refreshed in secret, and events for changes only.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::*;
use crate::config::Protocol;
use crate::dataplane::flows::seen::closed_between;
use crate::dataplane::plan::Timeouts;
use crate::netlink::conntrack::{Status, TcpState, Tuple};

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// How late an event can be read.
const GATHER: Duration = Duration::from_millis(20);

/// Seconds that a silent flow lives.
const FLOW: Timeouts = Timeouts { silent: 4 };

/// How often a flow is asked for that does not tell: well within the trace of an end.
const DOUBT: Duration = Duration::from_secs(3);

/// An entry of the kernel's table.
#[derive(Debug, Clone, Copy)]
struct Real {
    target: TargetId,
    id: u32,
    status: u32,
    tcp_state: Option<TcpState>,
    expires: Instant,
    /// Whether its changes are events.
    tells: bool,
}

/// What the kernel says unasked.
#[derive(Debug, Clone, Copy)]
enum Told {
    Changed(TargetId, Entry),
    Gone(TargetId, Key, u32),
}

struct Kernel {
    now: Instant,
    seed: u64,
    table: BTreeMap<(TargetId, u16), Real>,
    ids: u32,
    events: VecDeque<(Instant, Told)>,
    /// When the last flow of each target ended in truth.
    ended: [Option<Instant>; 2],
    /// The same, with those that nobody need know of.
    ended_at_most: [Option<Instant>; 2],
    /// Whether each target's account may be later than the truth, since something was not told.
    excused: [bool; 2],
    /// Nobody hears of anything since these entries were open. Others that go without a trace cannot be known of.
    deaf_since: Option<BTreeSet<u32>>,
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

impl Kernel {
    fn new(seed: u64) -> Kernel {
        let now = Instant::now() + 1000 * SECOND;
        Kernel {
            now,
            seed,
            table: BTreeMap::new(),
            ids: 0,
            events: VecDeque::new(),
            ended: [None; 2],
            ended_at_most: [None; 2],
            excused: [false; 2],
            deaf_since: None,
        }
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
        real.expires > self.now && Seen::new(&self.entry(at, real)) == Some(Seen::Open)
    }

    fn in_use(&self, target: TargetId) -> bool {
        self.table.iter().any(|(at, real)| at.0 == target && self.open(*at, real))
    }

    /// Time passes. What expires in it ends then, and nobody is told.
    fn advance(&mut self, to: Instant) {
        for (at, real) in self.table.clone() {
            if self.open(at, &real) && real.expires <= to {
                self.gone(at.0, &real, real.expires);
            }
        }
        self.now = self.now.max(to);
    }

    /// An open flow has ended without a trace.
    fn gone(&mut self, target: TargetId, real: &Real, ended: Instant) {
        if self.deaf_since.as_ref().is_none_or(|open| open.contains(&real.id)) {
            self.ended[target] = self.ended[target].max(Some(ended));
        }
        self.ended_at_most[target] = self.ended_at_most[target].max(Some(ended));
        self.excused[target] |= !real.tells;
    }

    fn tell(&mut self, told: Told) {
        self.events.push_back((self.now, told));
    }

    fn change(&mut self, at: (TargetId, u16), change: impl FnOnce(&mut Real, Instant)) {
        let Some(mut real) = self.table.get(&at).copied() else { return };
        let was_open = self.open(at, &real);
        change(&mut real, self.now);
        self.table.insert(at, real);
        if was_open && !self.open(at, &real) {
            self.ended[at.0] = Some(self.now);
            self.ended_at_most[at.0] = Some(self.now);
            self.excused[at.0] |= !real.tells;
        }
        if real.tells {
            self.tell(Told::Changed(at.0, self.entry(at, &real)));
        }
    }

    fn remove(&mut self, at: (TargetId, u16)) {
        let Some(real) = self.table.get(&at).copied() else { return };
        if self.open(at, &real) {
            self.gone(at.0, &real, self.now);
        }
        self.table.remove(&at);
        if real.tells {
            self.tell(Told::Gone(at.0, key(at.0, at.1), real.id));
        }
    }

    fn create(&mut self, at: (TargetId, u16), tells: bool) {
        self.remove(at);
        self.ids += 1;
        let tcp = at.1.is_multiple_of(2);
        let real = Real {
            target: at.0,
            id: self.ids,
            status: Status::DST_NAT,
            tcp_state: tcp.then_some(TcpState::SynSent),
            expires: self.now + FLOW.silent * SECOND,
            tells,
        };
        self.table.insert(at, real);
        if tells {
            self.tell(Told::Changed(at.0, self.entry(at, &real)));
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
                    let mut silently = real;
                    refreshed(&mut silently, self.now);
                    self.table.insert(at, silently);
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
            // Its port is used again, which takes the trace away: not while nobody hears of it.
            (TcpState::TimeWait | TcpState::Close, 0) if self.deaf_since.is_none() => self.create(at, true),
            (TcpState::TimeWait | TcpState::Close, _) => {}
            (_, 7) => self.change(at, to(TcpState::Close)),
            (_, 8) => self.remove(at),
            (TcpState::Established, 1..7) => {
                let mut silently = real;
                refreshed(&mut silently, self.now);
                self.table.insert(at, silently);
            }
            // A change of something else.
            (_, 9) if real.tells => {
                let entry = Entry { tcp_state: None, ..self.entry(at, &real) };
                self.tell(Told::Changed(at.0, entry));
            }
            _ => {}
        }
    }

    /// What a dump shows. It removes what has expired.
    fn dump(&mut self) -> Vec<(TargetId, FrontendId, Entry, Instant)> {
        let expired: Vec<_> =
            self.table.iter().filter(|(_, real)| real.expires <= self.now).map(|(at, _)| *at).collect();
        expired.into_iter().for_each(|at| self.remove(at));
        let shown = |(at, real): (&(TargetId, u16), &Real)| {
            let entry = self.entry(*at, real);
            (at.0, FrontendId::new(0), entry, closed_between(&entry, FLOW, (self.now, self.now)).1)
        };
        self.table.iter().map(shown).collect()
    }
}

/// The thread, as far as it matters here.
struct Thread {
    usage: Usage,
}

impl Thread {
    fn read(&mut self, kernel: &mut Kernel) {
        for (_, told) in kernel.events.drain(..) {
            match told {
                Told::Changed(target, entry) => self.usage.told(kernel.now, target, FrontendId::new(0), &entry),
                Told::Gone(target, key, id) => self.usage.end(kernel.now, target, &key, Some(id)),
            }
        }
    }

    /// Asks for all that is in doubt.
    fn ask(&mut self, kernel: &mut Kernel) {
        for target in self.usage.doubtful(kernel.now) {
            for (key, id, _) in self.usage.suspects(target, kernel.now) {
                let at = (target, key.original.source.port());
                let found = kernel.table.get(&at).copied().filter(|real| real.id == id && real.expires > kernel.now);
                match found {
                    Some(real) => {
                        let entry = kernel.entry(at, &real);
                        let closed = closed_between(&entry, FLOW, (kernel.now, kernel.now)).1;
                        self.usage.answered(kernel.now, closed, target, &entry);
                    }
                    None => self.usage.end(kernel.now, target, &key, Some(id)),
                }
            }
        }
    }

    /// What is said of the targets, right after the events were read and all doubts asked for, is true.
    #[track_caller]
    fn check(&self, kernel: &Kernel, seed: u64) {
        for target in [0, 1].map(TargetId::new) {
            let (true_end, said) = (kernel.ended[target], self.usage.ended(target));
            let late = if kernel.excused[target] { SECOND.max(DOUBT) } else { STEP + 2 * GATHER };
            if !self.usage.flows(target).is_empty() {
                // It may be out of use for as long as a flow's last second is not over.
                let now = kernel.now;
                assert!(
                    kernel.in_use(target) || true_end.is_some_and(|end| now <= end + late),
                    "seed {seed}: target {target} is said to be in use, and was so until {:?} ago",
                    true_end.map(|end| now - end)
                );
                continue;
            }
            assert!(!kernel.in_use(target), "seed {seed}: target {target} is in use");
            let Some(true_end) = true_end else { continue };
            let Some(said) = said else { panic!("seed {seed}: target {target} has been in use") };
            assert!(said >= true_end, "seed {seed}: target {target}: said {:?} before the end", true_end - said);
            let at_most = kernel.ended_at_most[target].unwrap_or(true_end);
            assert!(said <= at_most + late, "seed {seed}: target {target}: said {:?} after the end", said - at_most);
        }
    }
}

/// Lives through `steps` changes. `lossy`: events are lost at times.
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
    let mut thread = Thread { usage: Usage::new([DOUBT; 2].into_iter()) };
    thread.usage.watch(TargetId::new(0), true);
    thread.usage.watch(TargetId::new(1), true);
    let dump = kernel.dump();
    thread.usage.reconcile((kernel.now, kernel.now), &dump, Known::Nothing);
    for _ in 0..steps {
        // Mostly many changes at once, and now and then a long silence.
        let pause = if kernel.random(40) == 0 { 6000 } else { 120 };
        let next = kernel.now + kernel.random(pause) as u32 * MILLISECOND;
        // Until then, the thread wakes whenever it has to.
        loop {
            let event = kernel.events.front().map(|(at, _)| *at + GATHER);
            let deadline = thread.usage.deadline(kernel.now).into_iter().chain(event).min();
            let Some(wake) = deadline.filter(|wake| *wake <= next) else { break };
            let jitter = kernel.random(3) as u32 * MILLISECOND;
            kernel.advance(wake.max(kernel.now) + jitter);
            thread.read(&mut kernel);
            thread.ask(&mut kernel);
            thread.check(&kernel, seed);
            // What was excused is settled once it is out of use, and known to be.
            for target in [0, 1].map(TargetId::new) {
                if kernel.table.iter().all(|(at, real)| at.0 != target || real.tells) && kernel.in_use(target) {
                    kernel.excused[target] = false;
                }
            }
        }
        kernel.advance(next);
        kernel.act();
        if lossy && kernel.random(100) == 0 {
            // Nobody reads for a while, and the kernel keeps only the first events.
            thread.read(&mut kernel);
            let open = kernel.table.iter().filter(|(at, real)| kernel.open(**at, real));
            kernel.deaf_since = Some(open.map(|(_, real)| real.id).collect());
            for _ in 0..kernel.random(60) {
                let later = kernel.now + kernel.random(50) as u32 * MILLISECOND;
                kernel.advance(later);
                kernel.act();
            }
            kernel.excused = [true; 2];
            let kept = kernel.random(20) as usize;
            kernel.events.truncate(kept);
            thread.read(&mut kernel);
            let dump = kernel.dump();
            thread.usage.reconcile((kernel.now, kernel.now), &dump, Known::SomeLost);
            kernel.events.clear();
            kernel.deaf_since = None;
            thread.ask(&mut kernel);
            thread.check(&kernel, seed);
        } else if kernel.random(100) == 0 {
            // Somebody asks for the status.
            let dump = kernel.dump();
            thread.usage.reconcile((kernel.now, kernel.now), &dump, Known::Everything);
        }
    }
}

#[test]
fn the_end_of_use_is_never_said_to_be_earlier_than_it_was_nor_much_later() {
    for seed in 1..400 {
        live(seed, 1000, false);
    }
}

#[test]
fn the_end_of_use_is_right_when_events_are_lost() {
    for seed in 1..400 {
        live(seed, 1000, true);
    }
}
