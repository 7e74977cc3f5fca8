//! The thread's decisions against a kernel that fails on demand, loses events and shows odd entries.

mod clients;
mod drains;
mod events;
mod failures;
mod survey;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Receiver, Sender};
use rustix::io::Errno;

use super::kernel::Kernel;
use super::seen::{OFFLOADED, UNANSWERED};
use super::thread::{Flows, RETRY};
use super::tracking::FEW;
use super::{FlowOrder, Report, Reports, Scope, Survey, Unresponsive, Use, deletions};
use crate::config::{Access, Endpoint, FrontendSpec, Kind, Masquerade, Probe, Protocol, Readiness, TargetSpec};
use crate::dataplane::plan::{ColdPath, Plan, Rules};
use crate::ids::{FrontendId, TargetId};
use crate::netlink::conntrack::{Entry, Event, Key, Status, TcpState, Tuple};
use crate::system::Waker;
use crate::system::connect::Connected;

const T0: TargetId = TargetId::new(0);
const T1: TargetId = TargetId::new(1);
const F0: FrontendId = FrontendId::new(0);
const F1: FrontendId = FrontendId::new(1);
const F2: FrontendId = FrontendId::new(2);
const F3: FrontendId = FrontendId::new(3);
const SECOND: Duration = Duration::from_secs(1);
const IDLE: Duration = Duration::from_secs(5);
/// The `flow_timeout` of all frontends, in seconds.
const FLOW: u32 = 60;
const ANSWERED: u32 = Status::DST_NAT | Status::SEEN_REPLY | Status::ASSURED;

/// A kernel whose table and failures the test sets. Clones are the same kernel.
#[derive(Clone)]
struct Fake(Arc<Mutex<Inner>>);

struct Inner {
    now: Instant,
    wall: SystemTime,
    /// Time that a query takes.
    latency: Duration,
    table: Vec<Entry>,
    events: VecDeque<io::Result<Event>>,
    /// Error of every query of the table, while it is set.
    broken: Option<Errno>,
    /// Errors of deletions, by the entry's id.
    undeletable: BTreeMap<u32, Errno>,
    /// Whether events are reported.
    reports: bool,
    unsubscribable: Option<Errno>,
    subscribed: bool,
    dumps: u32,
    look_ups: u32,
    /// Queries of all entries to a port.
    ports: Vec<Option<u16>>,
    deleted: Vec<u32>,
    shortened: Vec<(u32, u32)>,
    local: BTreeSet<IpAddr>,
    probes: Vec<SocketAddr>,
    results: Vec<Connected>,
}

impl Inner {
    fn query(&mut self) -> io::Result<()> {
        self.now += self.latency;
        self.broken.map_or(Ok(()), |errno| Err(errno.into()))
    }
}

impl Fake {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect("no test has panicked")
    }
}

impl Kernel for Fake {
    fn now(&self) -> Instant {
        self.inner().now
    }

    fn wall(&self) -> SystemTime {
        self.inner().wall
    }

    fn dump_dnat(&mut self, each: &mut dyn FnMut(&Entry)) -> io::Result<()> {
        let mut inner = self.inner();
        inner.dumps += 1;
        inner.query()?;
        inner.table.iter().filter(|entry| entry.status.dnat()).for_each(each);
        Ok(())
    }

    fn dump_to(&mut self, protocol: Protocol, port: Option<u16>, each: &mut dyn FnMut(&Entry)) -> io::Result<()> {
        let mut inner = self.inner();
        inner.ports.push(port);
        inner.query()?;
        let of_port = |entry: &&Entry| port.is_none_or(|port| entry.original.destination.port() == port);
        inner.table.iter().filter(|entry| entry.protocol == protocol).filter(of_port).for_each(each);
        Ok(())
    }

    fn look_up(&mut self, key: &Key, id: u32) -> io::Result<Option<Entry>> {
        let mut inner = self.inner();
        inner.look_ups += 1;
        inner.query()?;
        Ok(inner.table.iter().find(|entry| entry.key() == *key && entry.id == id).copied())
    }

    fn set_timeout(&mut self, entry: &Entry, seconds: u32) -> io::Result<bool> {
        self.inner().shortened.push((entry.id, seconds));
        Ok(true)
    }

    fn delete(&mut self, entry: &Entry) -> io::Result<bool> {
        let mut inner = self.inner();
        if let Some(errno) = inner.undeletable.get(&entry.id) {
            return Err((*errno).into());
        }
        inner.deleted.push(entry.id);
        let before = inner.table.len();
        inner.table.retain(|other| other.id != entry.id);
        Ok(inner.table.len() < before)
    }

    fn subscribe(&mut self, on: bool) -> io::Result<()> {
        let mut inner = self.inner();
        inner.subscribed = on && inner.unsubscribable.is_none();
        inner.unsubscribable.filter(|_| on).map_or(Ok(()), |errno| Err(errno.into()))
    }

    fn receive(&mut self) -> io::Result<Option<Event>> {
        let mut inner = self.inner();
        if inner.subscribed { inner.events.pop_front().transpose() } else { Ok(None) }
    }

    fn reports_changes(&self) -> bool {
        self.inner().reports
    }

    fn is_local(&mut self, ip: IpAddr) -> bool {
        self.inner().local.contains(&ip)
    }

    fn probe(&mut self, endpoint: SocketAddr) {
        self.inner().probes.push(endpoint);
    }

    fn probed(&mut self, _: Instant) -> Vec<Connected> {
        std::mem::take(&mut self.inner().results)
    }

    fn probe_deadline(&self, _: Instant) -> Option<Instant> {
        None
    }

    fn events(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn probes(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// A message of the thread.
enum Sent {
    Report(Report),
    Survey(Result<Survey, String>),
}

impl Reports for Sender<Sent> {
    fn report(&self, report: Report) {
        self.send(Sent::Report(report)).expect("the test receives");
    }

    fn surveyed(&self, survey: Result<Survey, String>) {
        self.send(Sent::Survey(survey)).expect("the test receives");
    }
}

/// A thread with two targets. 198.51.100.1:80 leads to target 0, by TCP (frontend 0) and UDP (frontend 1), port 81 (frontend 2)
/// and ports 90 and 91 (frontend 3) to the two TCP endpoints of target 1.
struct Bench {
    flows: Flows,
    kernel: Fake,
    orders: Sender<FlowOrder>,
    sent: Receiver<Sent>,
}

fn at(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn endpoint(protocol: Protocol, address: &str) -> Endpoint {
    Endpoint { name: address.to_owned(), protocol, addresses: vec![address.parse().expect("an address")] }
}

fn target(name: &str, endpoints: Vec<Endpoint>) -> TargetSpec {
    TargetSpec {
        name: name.to_owned(),
        kind: Kind { namespace: "static".to_owned(), name: "none".to_owned() },
        idle_timeout: IDLE,
        min_uptime: Duration::ZERO,
        max_uptime: None,
        endpoints,
        readiness: Readiness { probe: Probe::None, deadline: SECOND },
    }
}

fn frontend(protocol: Protocol, listen: &str, target: &TargetSpec, endpoint: usize) -> FrontendSpec {
    FrontendSpec {
        name: listen.to_owned(),
        kind: Kind { namespace: "static".to_owned(), name: "always".to_owned() },
        protocol,
        listen: vec![listen.parse().expect("an address")],
        flow_timeout: FLOW * SECOND,
        target: target.name.clone(),
        endpoint: target.endpoints[endpoint].clone(),
        access: Access::default(),
        masquerade: Masquerade::Never,
    }
}

/// Support of the kernel for events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Events {
    Reported,
    Off,
}

impl Events {
    const ALL: [Events; 2] = [Events::Reported, Events::Off];
}

impl Bench {
    fn new(events: Events) -> Bench {
        Bench::with(events, None)
    }

    fn with(events: Events, unsubscribable: Option<Errno>) -> Bench {
        use Protocol::{Tcp, Udp};
        let targets = [
            target("a", vec![endpoint(Tcp, "203.0.113.2:8080"), endpoint(Udp, "203.0.113.2:8080")]),
            target("b", vec![endpoint(Tcp, "203.0.113.3:8080"), endpoint(Tcp, "203.0.113.4:90-91")]),
        ];
        let frontends = [
            (T0, frontend(Tcp, "198.51.100.1:80", &targets[0], 0)),
            (T0, frontend(Udp, "198.51.100.1:80", &targets[0], 1)),
            (T1, frontend(Tcp, "198.51.100.1:81", &targets[1], 0)),
            (T1, frontend(Tcp, "198.51.100.1:90-91", &targets[1], 1)),
        ];
        let rules = frontends.iter().map(|(target, spec)| Rules::new(spec, *target, ColdPath::Drop));
        let plan = Plan { frontends: [F0, F1, F2, F3].into_iter().zip(rules).collect() };
        let kernel = Fake(Arc::new(Mutex::new(Inner {
            // Far enough from the machine's start for the kernel's longest timeout.
            now: Instant::now() + 10_000 * SECOND,
            wall: SystemTime::UNIX_EPOCH + 1_000_000 * SECOND,
            latency: Duration::ZERO,
            table: Vec::new(),
            events: VecDeque::new(),
            broken: None,
            undeletable: BTreeMap::new(),
            reports: events == Events::Reported,
            unsubscribable,
            subscribed: false,
            dumps: 0,
            look_ups: 0,
            ports: Vec::new(),
            deleted: Vec::new(),
            shortened: Vec::new(),
            local: BTreeSet::new(),
            probes: Vec::new(),
            results: Vec::new(),
        })));
        let (orders, receiver) = crossbeam_channel::bounded(64);
        let (sender, sent) = crossbeam_channel::unbounded();
        let waker = Waker::new().expect("a descriptor");
        let (fake, sender) = (Box::new(kernel.clone()), Box::new(sender));
        let flows = Flows::new(&[(T0, &targets[0]), (T1, &targets[1])].into(), &plan, sender, receiver, waker, fake);
        Bench { flows, kernel, orders, sent }
    }

    fn kernel(&self) -> MutexGuard<'_, Inner> {
        self.kernel.inner()
    }

    fn now(&self) -> Instant {
        self.kernel().now
    }

    /// Gives an order without a turn.
    fn send(&self, order: FlowOrder) {
        self.orders.send(order).expect("the channel has space");
    }

    fn order(&mut self, order: FlowOrder) {
        self.send(order);
        self.turn();
    }

    fn watch(&mut self, target: TargetId) {
        let asked = self.asked();
        self.order(FlowOrder::Watch { target, asked });
    }

    fn check(&mut self, target: TargetId) {
        let asked = self.asked();
        self.order(FlowOrder::Check { target, asked });
    }

    /// Time of an order that is given now: before the thread handles it.
    fn asked(&self) -> Instant {
        self.now() - SECOND
    }

    fn turn(&mut self) {
        assert!(self.flows.turn().is_continue());
    }

    /// Runs the thread for so long, each time at its own deadline.
    fn pass(&mut self, time: Duration) {
        let end = self.now() + time;
        for _ in 0..100_000 {
            let (now, deadline) = (self.now(), self.flows.deadline());
            let is_readable = {
                let kernel = self.kernel();
                kernel.subscribed && !kernel.events.is_empty()
            };
            // While events gather, the thread does not wait for their socket.
            let gathers = deadline.is_some_and(|at| at <= now + Duration::from_millis(20));
            match deadline.into_iter().chain((is_readable && !gathers).then_some(now)).min() {
                Some(next) if next <= end => {
                    let next = next.max(now);
                    self.kernel().now = next;
                    self.turn();
                }
                _ => return self.kernel().now = end,
            }
        }
        panic!("it spins");
    }

    fn event(&mut self, event: Event) {
        self.kernel().events.push_back(Ok(event));
    }

    fn reports(&self) -> Vec<Report> {
        let report = |sent| match sent {
            Sent::Report(report) => Some(report),
            Sent::Survey(_) => None,
        };
        self.sent.try_iter().filter_map(report).collect()
    }

    fn survey(&mut self, details: Option<TargetId>) -> Result<Survey, String> {
        self.order(FlowOrder::Survey(details));
        let survey = |sent| match sent {
            Sent::Survey(survey) => Some(survey),
            Sent::Report(_) => None,
        };
        self.sent.try_iter().find_map(survey).expect("a survey")
    }

    /// The number of lookups and of dumps.
    fn queried(&self) -> (u32, u32) {
        let kernel = self.kernel();
        (kernel.look_ups, kernel.dumps)
    }

    fn queries(&self) -> u32 {
        let (look_ups, dumps) = self.queried();
        look_ups + dumps
    }
}

/// A flow of a client to 198.51.100.1:80.
fn flow(id: u32, protocol: Protocol, tcp_state: Option<TcpState>, status: u32, timeout: Option<u32>) -> Entry {
    let client = SocketAddr::from(([198, 51, 100, 2], 1000 + id as u16));
    Entry {
        protocol,
        original: Tuple { source: client, destination: at("198.51.100.1:80") },
        reply: Tuple { source: at("203.0.113.2:8080"), destination: client },
        status: Status(status),
        timeout,
        tcp_state,
        zone: 0,
        id,
        sent: None,
        received: None,
        start: None,
    }
}

fn tcp(id: u32, state: TcpState, status: u32, timeout: u32) -> Entry {
    flow(id, Protocol::Tcp, Some(state), status, Some(timeout))
}

fn established(id: u32) -> Entry {
    tcp(id, TcpState::Established, ANSWERED, FLOW)
}

/// The same flow to a port of target 1.
fn to(entry: Entry, port: u16, endpoint: &str) -> Entry {
    let original = Tuple { destination: SocketAddr::from(([198, 51, 100, 1], port)), ..entry.original };
    Entry { original, reply: Tuple { source: at(endpoint), ..entry.reply }, ..entry }
}

fn is_unused(report: &Report) -> bool {
    matches!(report, Report::Unused { .. })
}

/// The time since which target 0 is reported as unused, by the only report.
#[track_caller]
fn unused_since(reports: &[Report]) -> Option<Instant> {
    let [Report::Unused { target: T0, since, .. }] = reports else { panic!("{reports:?}") };
    *since
}
