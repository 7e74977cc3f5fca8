//! The thread's decisions against a kernel that fails on demand, loses events and shows odd entries.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use rustix::io::Errno;

use super::kernel::Kernel;
use super::seen::OFFLOADED;
use super::thread::{Flows, RETRY};
use super::{FlowOrder, Report, Reports, Scope, Survey, Use};
use crate::config::{Access, Endpoint, FrontendSpec, Kind, Masquerade, Probe, Protocol, Readiness, TargetSpec};
use crate::dataplane::plan::ColdPath;
use crate::dataplane::plan::{Plan, Rules};
use crate::ids::{FrontendId, TargetId};
use crate::netlink::conntrack::{self, Entry, Key, Status, TcpState, Tuple};
use crate::system::Waker;

const TARGET: TargetId = TargetId::new(0);
const SECOND: Duration = Duration::from_secs(1);
const IDLE: Duration = Duration::from_secs(5);
/// The `flow_timeout` of all frontends, in seconds.
const FLOW: u32 = 60;
const ANSWERED: u32 = Status::DST_NAT | Status::SEEN_REPLY | Status::ASSURED;

/// A kernel whose table and failures the test sets. Clones are the same kernel.
#[derive(Clone)]
struct Fake(Rc<Inner>);

struct Inner {
    now: Cell<Instant>,
    table: RefCell<Vec<Entry>>,
    events: RefCell<VecDeque<io::Result<conntrack::Event>>>,
    /// Error of every query of the table, while it is set.
    broken: Cell<Option<Errno>>,
    /// Errors of deletions, by the entry's id.
    undeletable: RefCell<BTreeMap<u32, Errno>>,
    reports: Cell<bool>,
    dumps: Cell<u32>,
    look_ups: Cell<u32>,
    deleted: RefCell<Vec<u32>>,
    shortened: RefCell<Vec<(u32, u32)>>,
}

impl Fake {
    fn query(&self, count: &Cell<u32>) -> io::Result<()> {
        count.set(count.get() + 1);
        self.0.broken.get().map_or(Ok(()), |errno| Err(errno.into()))
    }
}

impl Kernel for Fake {
    fn now(&self) -> Instant {
        self.0.now.get()
    }

    fn dump_dnat(&mut self, each: &mut dyn FnMut(&Entry)) -> io::Result<()> {
        self.query(&self.0.dumps)?;
        self.0.table.borrow().iter().filter(|entry| entry.status.dnat()).for_each(each);
        Ok(())
    }

    fn dump_to(&mut self, protocol: Protocol, port: Option<u16>, each: &mut dyn FnMut(&Entry)) -> io::Result<()> {
        self.query(&self.0.dumps)?;
        let table = self.0.table.borrow();
        let of_port = |entry: &&Entry| port.is_none_or(|port| entry.original.destination.port() == port);
        table.iter().filter(|entry| entry.protocol == protocol).filter(of_port).for_each(each);
        Ok(())
    }

    fn look_up(&mut self, key: &Key, id: u32) -> io::Result<Option<Entry>> {
        self.query(&self.0.look_ups)?;
        Ok(self.0.table.borrow().iter().find(|entry| entry.key() == *key && entry.id == id).copied())
    }

    fn set_timeout(&mut self, entry: &Entry, seconds: u32) -> io::Result<bool> {
        self.0.shortened.borrow_mut().push((entry.id, seconds));
        Ok(true)
    }

    fn delete(&mut self, entry: &Entry) -> io::Result<bool> {
        if let Some(errno) = self.0.undeletable.borrow().get(&entry.id) {
            return Err((*errno).into());
        }
        self.0.deleted.borrow_mut().push(entry.id);
        self.0.table.borrow_mut().retain(|other| other.id != entry.id);
        Ok(true)
    }

    fn subscribe(&mut self, _: bool) -> io::Result<()> {
        Ok(())
    }

    fn receive(&mut self) -> io::Result<Option<conntrack::Event>> {
        self.0.events.borrow_mut().pop_front().transpose()
    }

    fn reports_changes(&self) -> bool {
        self.0.reports.get()
    }

    fn is_local(&mut self, _: IpAddr) -> bool {
        false
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

/// A thread with one target and one frontend per protocol, on 198.51.100.1:80.
struct Bench {
    flows: Flows<Fake>,
    kernel: Fake,
    orders: Sender<FlowOrder>,
    reports: Receiver<Sent>,
}

fn at(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn endpoint(protocol: Protocol) -> Endpoint {
    Endpoint { name: protocol.to_string(), protocol, addresses: vec!["203.0.113.2:8080".parse().expect("an address")] }
}

fn frontend(protocol: Protocol) -> FrontendSpec {
    FrontendSpec {
        name: protocol.to_string(),
        kind: Kind { namespace: "static".to_owned(), name: "always".to_owned() },
        protocol,
        listen: vec!["198.51.100.1:80".parse().expect("an address")],
        flow_timeout: FLOW * SECOND,
        target: "b".to_owned(),
        endpoint: endpoint(protocol),
        access: Access::default(),
        masquerade: Masquerade::Never,
    }
}

impl Bench {
    fn new(reports: bool) -> Bench {
        let target = TargetSpec {
            name: "b".to_owned(),
            kind: Kind { namespace: "static".to_owned(), name: "none".to_owned() },
            idle_timeout: IDLE,
            min_uptime: Duration::ZERO,
            max_uptime: None,
            endpoints: vec![endpoint(Protocol::Tcp), endpoint(Protocol::Udp)],
            readiness: Readiness { probe: Probe::None, deadline: SECOND },
        };
        let frontends = [frontend(Protocol::Tcp), frontend(Protocol::Udp)];
        let rules = frontends.iter().map(|spec| Rules::new(spec, TARGET, ColdPath::Drop));
        let plan = Plan { frontends: (0..).map(FrontendId::new).zip(rules).collect() };
        let kernel = Fake(Rc::new(Inner {
            // Far enough from the machine's start for the kernel's longest timeout.
            now: Cell::new(Instant::now() + 10_000 * SECOND),
            table: RefCell::default(),
            events: RefCell::default(),
            broken: Cell::new(None),
            undeletable: RefCell::default(),
            reports: Cell::new(reports),
            dumps: Cell::new(0),
            look_ups: Cell::new(0),
            deleted: RefCell::default(),
            shortened: RefCell::default(),
        }));
        let (orders, receiver) = crossbeam_channel::bounded(64);
        let (sender, reports) = crossbeam_channel::unbounded();
        let waker = Waker::new().expect("a descriptor");
        let mut flows =
            Flows::new(&[(TARGET, &target)].into(), &plan, Box::new(sender), receiver, waker, kernel.clone());
        flows.subscribe();
        Bench { flows, kernel, orders, reports }
    }

    fn order(&mut self, order: FlowOrder) {
        self.orders.send(order).expect("there is room");
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

    /// Time of an order that is given now: before the thread takes it in.
    fn asked(&self) -> Instant {
        self.kernel.now() - SECOND
    }

    fn turn(&mut self) {
        assert!(self.flows.turn());
    }

    /// Runs the thread for so long, each time at its own deadline.
    fn pass(&mut self, time: Duration) {
        let end = self.kernel.now() + time;
        for _ in 0..100_000 {
            match self.flows.deadline() {
                Some(next) if next <= end => {
                    self.kernel.0.now.set(next.max(self.kernel.now()));
                    self.turn();
                }
                _ => return self.kernel.0.now.set(end),
            }
        }
        panic!("it spins");
    }

    fn event(&mut self, event: conntrack::Event) {
        self.kernel.0.events.borrow_mut().push_back(Ok(event));
    }

    fn events(&self) -> Vec<Report> {
        let report = |sent| match sent {
            Sent::Report(report) => Some(report),
            Sent::Survey(_) => None,
        };
        self.reports.try_iter().filter_map(report).collect()
    }

    fn queries(&self) -> u32 {
        self.kernel.0.dumps.get() + self.kernel.0.look_ups.get()
    }
}

/// A flow of a client to the frontend, in this state.
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

fn established(id: u32) -> Entry {
    flow(id, Protocol::Tcp, Some(TcpState::Established), ANSWERED, Some(FLOW))
}

fn is_unused(event: &Report) -> bool {
    matches!(event, Report::Unused { .. })
}

#[test]
fn a_failed_query_is_repeated_after_a_pause_and_is_never_taken_for_unused() {
    for reports in [true, false] {
        let mut bench = Bench::new(reports);
        bench.kernel.0.broken.set(Some(Errno::NOMEM));
        bench.watch(TARGET);
        let before = bench.queries();
        bench.pass(100 * RETRY);
        let tries = bench.queries() - before;
        assert!((90..=101).contains(&tries), "every two seconds, events: {reports}: {tries}");
        assert_eq!(bench.events(), [], "events: {reports}");
        // It recovers on its own.
        bench.kernel.0.broken.set(None);
        bench.pass(RETRY + 2 * IDLE);
        assert!(bench.events().iter().any(is_unused), "events: {reports}");
    }
}

#[test]
fn a_flow_that_cannot_be_looked_up_keeps_its_target() {
    let mut bench = Bench::new(true);
    bench.watch(TARGET);
    assert!(bench.events().iter().all(is_unused));
    bench.kernel.0.table.borrow_mut().push(established(1));
    bench.event(conntrack::Event::Update(established(1)));
    bench.turn();
    bench.watch(TARGET);
    assert_eq!(bench.events(), []);
    // Its time is over, and it is gone, but the kernel does not answer.
    bench.kernel.0.table.borrow_mut().clear();
    bench.kernel.0.broken.set(Some(Errno::TIMEDOUT));
    bench.pass(3 * FLOW * SECOND);
    assert_eq!(bench.events(), []);
    bench.kernel.0.broken.set(None);
    let fixed = bench.kernel.now();
    bench.pass(RETRY);
    let events = bench.events();
    let [Report::Unused { target: TARGET, since: Some(since), .. }] = events[..] else { panic!("{events:?}") };
    assert!(since >= fixed, "the end of use is not known any better");
}

#[test]
fn a_drain_is_called_off_by_a_check_that_fails() {
    for reports in [true, false] {
        let mut bench = Bench::new(reports);
        bench.turn();
        bench.kernel.0.broken.set(Some(Errno::NOBUFS));
        bench.check(TARGET);
        let used = Report::Checked { target: TARGET, asked: bench.asked(), result: Use::InUse };
        assert_eq!(bench.events(), std::slice::from_ref(&used), "events: {reports}");
        // While the pause lasts, a check waits for the next try, and has that answer.
        bench.check(TARGET);
        assert_eq!(bench.events(), []);
        bench.pass(RETRY);
        assert_eq!(bench.events(), [used], "events: {reports}");
        bench.kernel.0.broken.set(None);
        bench.pass(RETRY);
        bench.check(TARGET);
        assert!(matches!(
            bench.events()[..],
            [Report::Checked { target: TARGET, result: Use::Unused { since: None }, .. }]
        ));
    }
}

#[test]
fn a_failed_deletion_does_not_hold_up_a_drain() {
    let mut bench = Bench::new(true);
    bench.turn();
    bench.kernel.0.broken.set(Some(Errno::NOMEM));
    bench.order(FlowOrder::Flush { target: TARGET, scope: Scope::All });
    assert_eq!(bench.events(), [Report::Flushed(TARGET)]);
    bench.order(FlowOrder::DeleteStale(vec![FrontendId::new(0), FrontendId::new(1)]));
    bench.order(FlowOrder::Survey(Some(TARGET)));
    let surveyed = bench.reports.try_iter().any(|sent| matches!(sent, Sent::Survey(Err(_))));
    assert!(surveyed, "the error is reported");
}

#[test]
fn any_number_of_overruns_leads_to_one_dump() {
    let mut bench = Bench::new(true);
    bench.watch(TARGET);
    bench.pass(SECOND);
    let (dumps, _) = (bench.kernel.0.dumps.get(), bench.events());
    bench.kernel.0.table.borrow_mut().push(established(1));
    for _ in 0..50 {
        bench.event(conntrack::Event::Overrun);
    }
    bench.turn();
    assert_eq!(bench.kernel.0.dumps.get(), dumps + 1);
    bench.watch(TARGET);
    assert_eq!(bench.events(), [], "the flow whose event was lost is known");
    bench.pass(10 * SECOND);
    assert_eq!(bench.kernel.0.dumps.get(), dumps + 1);
}

#[test]
fn a_dump_after_an_overrun_that_fails_is_repeated_before_anything_is_unused() {
    let mut bench = Bench::new(true);
    bench.turn();
    bench.event(conntrack::Event::Overrun);
    bench.kernel.0.broken.set(Some(Errno::INTR));
    bench.watch(TARGET);
    bench.pass(10 * SECOND);
    assert_eq!(bench.events(), []);
    bench.kernel.0.table.borrow_mut().push(established(1));
    bench.kernel.0.broken.set(None);
    bench.pass(RETRY);
    assert_eq!(bench.events(), []);
    bench.kernel.0.table.borrow_mut().clear();
    bench.event(conntrack::Event::Destroy(established(1)));
    bench.turn();
    assert!(matches!(bench.events()[..], [Report::Unused { target: TARGET, since: Some(_), .. }]));
}

#[test]
fn an_event_socket_that_fails_is_replaced_by_polling() {
    let mut bench = Bench::new(true);
    bench.kernel.0.table.borrow_mut().push(established(1));
    bench.watch(TARGET);
    bench.kernel.0.events.borrow_mut().push_back(Err(Errno::NOTCONN.into()));
    bench.turn();
    let mut unreadable = conntrack::Event::Update(established(2));
    if let conntrack::Event::Update(entry) = &mut unreadable {
        entry.original.destination = at("198.51.100.1:81");
    }
    bench.event(unreadable);
    bench.pass(20 * IDLE);
    assert_eq!(bench.events(), [], "it is in use");
    assert_eq!(bench.kernel.0.events.borrow().len(), 1, "events are not read any more");
    bench.kernel.0.table.borrow_mut().clear();
    bench.pass(30 * IDLE);
    assert!(bench.events().iter().any(is_unused));
}

#[test]
fn an_event_that_cannot_be_read_is_passed_over() {
    let mut bench = Bench::new(true);
    bench.turn();
    bench.kernel.0.events.borrow_mut().push_back(Err(io::ErrorKind::InvalidData.into()));
    bench.event(conntrack::Event::Update(established(1)));
    bench.kernel.0.table.borrow_mut().push(established(1));
    bench.watch(TARGET);
    assert_eq!(bench.events(), []);
    assert!(bench.flows.subscribed);
}

#[test]
fn a_flow_in_a_flowtable_is_in_use_until_the_kernel_hands_it_back() {
    for reports in [true, false] {
        for bit in [Status::OFFLOAD, Status::OFFLOAD | Status::HW_OFFLOAD] {
            let mut bench = Bench::new(reports);
            // As 6.1 and 6.12 show it: neither timeout nor state.
            bench.kernel.0.table.borrow_mut().push(flow(1, Protocol::Tcp, None, ANSWERED | bit, None));
            bench.watch(TARGET);
            bench.pass(10 * FLOW * SECOND);
            assert_eq!(bench.events(), [], "events: {reports}");
            bench.check(TARGET);
            assert!(matches!(bench.events()[..], [Report::Checked { target: TARGET, result: Use::InUse, .. }]));
            let before = bench.queries();
            bench.pass(600 * SECOND);
            let queries = bench.queries() - before;
            assert!(queries <= 600 / OFFLOADED.as_secs() as u32 + 2, "{queries} queries");
            assert!(bench.kernel.0.shortened.borrow().is_empty(), "its lifetime is the flowtable's");
            // It became idle, and is handed back with the kernel's own timeout of a day.
            let handed_back = bench.kernel.now();
            bench.kernel.0.table.borrow_mut()[0] =
                flow(1, Protocol::Tcp, Some(TcpState::Established), ANSWERED, Some(86_370));
            bench.pass(2 * IDLE);
            assert!(bench.kernel.0.shortened.borrow().contains(&(1, FLOW)), "events: {reports}");
            bench.pass(Duration::from_secs(FLOW.into()) - 2 * IDLE);
            bench.kernel.0.table.borrow_mut().clear();
            bench.pass(4 * IDLE);
            let events = bench.events();
            let [Report::Unused { since: Some(since), .. }] = events[..] else { panic!("{events:?}, {reports}") };
            assert!(since >= handed_back + Duration::from_secs(u64::from(FLOW)), "not early");
        }
    }
}

#[test]
fn many_flows_in_a_flowtable_cost_few_look_ups_and_no_dumps() {
    let mut bench = Bench::new(true);
    let offloaded = |id| flow(id, Protocol::Tcp, None, ANSWERED | Status::OFFLOAD, None);
    bench.kernel.0.table.borrow_mut().extend((1..=1000).map(offloaded));
    bench.watch(TARGET);
    let (dumps, look_ups) = (bench.kernel.0.dumps.get(), bench.kernel.0.look_ups.get());
    bench.pass(100 * OFFLOADED);
    assert_eq!(bench.kernel.0.dumps.get(), dumps);
    let look_ups = bench.kernel.0.look_ups.get() - look_ups;
    assert!(look_ups <= 101 * super::thread::FEW as u32, "{look_ups}");
    assert_eq!(bench.events(), []);
    bench.kernel.0.table.borrow_mut().clear();
    bench.pass(2 * OFFLOADED);
    assert!(matches!(bench.events()[..], [Report::Unused { .. }]), "all are gone");
}

#[test]
fn an_entry_that_the_kernel_will_not_delete_keeps_no_other() {
    let mut bench = Bench::new(true);
    bench.turn();
    bench.kernel.0.table.borrow_mut().extend((1..=4).map(established));
    bench.kernel.0.undeletable.borrow_mut().insert(2, Errno::BUSY);
    bench.order(FlowOrder::Flush { target: TARGET, scope: Scope::All });
    assert_eq!(*bench.kernel.0.deleted.borrow(), [1, 3, 4]);
    assert_eq!(bench.events(), [Report::Flushed(TARGET)]);
}

#[test]
fn stale_udp_flows_are_those_that_bypass_the_rules_of_the_frontends_that_were_named() {
    let mut bench = Bench::new(true);
    let right = flow(1, Protocol::Udp, None, ANSWERED, Some(30));
    let reply_from = |id, source: &str| {
        let entry = flow(id, Protocol::Udp, None, 0, Some(30));
        Entry { reply: Tuple { source: at(source), ..entry.reply }, ..entry }
    };
    let untranslated = reply_from(2, "198.51.100.1:80");
    let elsewhere = reply_from(3, "203.0.113.3:8080");
    let mut unrelated = reply_from(4, "198.51.100.9:80");
    unrelated.original.destination = at("198.51.100.9:80");
    let tcp = Entry { protocol: Protocol::Tcp, ..reply_from(5, "198.51.100.1:80") };
    bench.kernel.0.table.borrow_mut().extend([right, untranslated, elsewhere, unrelated, tcp]);
    bench.order(FlowOrder::DeleteStale(vec![FrontendId::new(0)]));
    assert!(bench.kernel.0.deleted.borrow().is_empty(), "another frontend's");
    bench.order(FlowOrder::DeleteStale(vec![FrontendId::new(1)]));
    bench.order(FlowOrder::DeleteStale(vec![FrontendId::new(0), FrontendId::new(1)]));
    assert_eq!(*bench.kernel.0.deleted.borrow(), [2, 3]);
}

#[test]
fn odd_entries_are_neither_use_nor_a_panic() {
    let mut bench = Bench::new(true);
    bench.turn();
    let states = [None, Some(TcpState::None), Some(TcpState::SynSent2), Some(TcpState::Close)];
    let mut id = 0;
    for status in [0, u32::MAX, Status::DST_NAT, ANSWERED & !Status::DST_NAT] {
        for state in states {
            for timeout in [None, Some(0), Some(u32::MAX)] {
                id += 1;
                let entry = flow(id, Protocol::Tcp, state, status, timeout);
                bench.kernel.0.table.borrow_mut().push(entry);
                bench.event(conntrack::Event::New(entry));
                bench.event(conntrack::Event::Update(entry));
            }
        }
    }
    bench.turn();
    bench.order(FlowOrder::Survey(Some(TARGET)));
    bench.kernel.0.table.borrow_mut().clear();
    bench.watch(TARGET);
    bench.pass(30 * SECOND);
    assert!(bench.events().iter().any(is_unused));
}
