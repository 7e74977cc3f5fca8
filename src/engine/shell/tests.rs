//! The engine's thread between channels of the test's own: a backend that obeys, an nft that fails on demand, and a test in the
//! places of the reactor and of the flows thread.

use std::io;
use std::sync::{Arc, Mutex};

use mio::{Poll, Token, Waker};

use super::*;
use crate::Error;
use crate::config::{Access, Endpoint, FrontendSpec, Kind, Masquerade, Readiness, TargetSpec};
use crate::dataplane::apply::{Language, NftError};
use crate::dataplane::flows::{Report, Reports as _, Scope, Use};
use crate::dataplane::localnet::Localnet;
use crate::dataplane::render::samples;
use crate::dataplane::rules::Ruleset;
use crate::engine::backend::{Target, TargetContext};
use crate::ids::{Change, HandlerId, RequestId};
use crate::netlink::nftables::Listing;

/// How long anything here may take.
const SOON: Duration = Duration::from_secs(10);

const TARGET: TargetId = TargetId::new(7);
const TCP: FrontendId = FrontendId::new(3);
const UDP: FrontendId = FrontendId::new(4);

/// nft, as far as the engine sees it.
#[derive(Debug, Default)]
struct Kernel {
    /// Successful transactions.
    loaded: Vec<String>,
    /// While set, every run fails.
    broken: bool,
    deleted: bool,
}

#[derive(Debug, Clone, Default)]
struct Nft(Arc<Mutex<Kernel>>);

impl Nft {
    fn kernel(&self) -> std::sync::MutexGuard<'_, Kernel> {
        self.0.lock().expect("no panic")
    }
}

impl Ruleset for Nft {
    fn run(&mut self, _: Language, transaction: &str, _: &mut dyn FnMut(u32)) -> Result<(), NftError> {
        let mut kernel = self.kernel();
        if kernel.broken {
            return Err(NftError::Failed("no memory".to_owned()));
        }
        kernel.loaded.push(transaction.to_owned());
        Ok(())
    }

    fn generation(&mut self) -> Option<u32> {
        None
    }

    fn list(&mut self) -> io::Result<Option<Listing>> {
        Ok(None)
    }

    fn delete(&mut self) -> io::Result<()> {
        self.kernel().deleted = true;
        Ok(())
    }
}

/// A backend that is ready at once and reports its calls.
struct Obedient(crossbeam_channel::Sender<&'static str>);

impl Target for Obedient {
    fn start(&mut self, context: &TargetContext) -> Result<(), Error> {
        context.set_pid(4711);
        self.0.send("started")?;
        Ok(())
    }

    fn probe(&mut self, _context: &TargetContext) -> Option<Result<(), Error>> {
        Some(Ok(()))
    }

    fn stop(&mut self, _context: &TargetContext) -> Result<(), Error> {
        self.0.send("stopped")?;
        Ok(())
    }

    fn stop_grace(&self) -> Duration {
        Duration::ZERO
    }
}

/// The engine's surroundings.
struct Bench {
    inbox: Inbox,
    nft: Nft,
    calls: Receiver<&'static str>,
    flows: Receiver<FlowOrder>,
    orders: Receiver<Order>,
    ready: Receiver<()>,
    _poll: Poll,
}

/// The endpoint of the target.
fn endpoint() -> Endpoint {
    let addresses = vec!["127.0.0.1:8080".parse().expect("an address")];
    Endpoint { name: "e".to_owned(), protocol: Protocol::Tcp, addresses }
}

fn frontend(id: FrontendId, name: &str, protocol: Protocol, has_handler: bool) -> NewFrontend {
    let spec = FrontendSpec {
        name: name.to_owned(),
        kind: Kind { namespace: "test".to_owned(), name: "drop".to_owned() },
        protocol,
        listen: vec!["192.0.2.1:80".parse().expect("an address")],
        flow_timeout: Duration::from_secs(60),
        target: "db".to_owned(),
        endpoint: endpoint(),
        access: Access::default(),
        masquerade: Masquerade::Never,
    };
    NewFrontend { id, spec, target: TARGET, cold: ColdPath::Drop, keeps_warm: false, has_handler }
}

fn bench() -> (Shell, Bench) {
    let (inbox, receiver) = Inbox::new(1, 2);
    let (flows, flow_orders) = FlowOrders::channel();
    let poll = Poll::new().expect("a descriptor");
    let waker = Arc::new(Waker::new(poll.registry(), Token(0)).expect("a descriptor"));
    let (orders, reactor_orders) = Orders::channel(waker);
    let (calls, called) = crossbeam_channel::unbounded();
    let (ready, is_ready) = crossbeam_channel::bounded(1);
    let spec = TargetSpec {
        name: "db".to_owned(),
        kind: Kind { namespace: "test".to_owned(), name: "obedient".to_owned() },
        idle_timeout: Duration::from_secs(300),
        min_uptime: Duration::ZERO,
        max_uptime: None,
        endpoints: vec![endpoint()],
        readiness: Readiness { probe: Probe::Auto, deadline: SOON },
    };
    let rules = |protocol| samples::rules(protocol, &["192.0.2.1:80>127.0.0.1:8080"]);
    let mut plan = samples::plan([]);
    plan.frontends.extend([(TCP, rules(Protocol::Tcp)), (UDP, rules(Protocol::Udp))]);
    let nft = Nft::default();
    let engine = Engine {
        targets: vec![NewTarget { id: TARGET, spec, handler: Box::new(Obedient(calls)) }],
        frontends: vec![frontend(TCP, "tcp", Protocol::Tcp, true), frontend(UDP, "udp", Protocol::Udp, false)],
        table: Table::over(Box::new(nft.clone()), plan, Localnet::default()),
        on_link: BTreeSet::new(),
        flows,
        orders,
        inbox: inbox.clone(),
        receiver,
        holds: AllCounters::default(),
        ready: Box::new(move || ready.send(()).expect("the test waits")),
    };
    let bench =
        Bench { inbox, nft, calls: called, flows: flow_orders, orders: reactor_orders, ready: is_ready, _poll: poll };
    (Shell::new(engine), bench)
}

/// Runs the engine next to a test, which has to shut it down. Returns whether every target has ended.
fn run(test: impl FnOnce(&Bench)) -> bool {
    let (shell, bench) = bench();
    std::thread::scope(|scope| {
        let engine = scope.spawn(|| shell.run());
        /// Ends the engine also after a failed assertion.
        struct End(Inbox);
        impl Drop for End {
            fn drop(&mut self) {
                self.0.send(Message::Event(Event::Shutdown));
            }
        }
        let _end = End(bench.inbox.clone());
        test(&bench);
        engine.join().expect("no panic")
    })
}

impl Bench {
    fn order(&self) -> Order {
        self.orders.recv_timeout(SOON).expect("an order to the reactor")
    }

    fn flow_order(&self) -> FlowOrder {
        self.flows.recv_timeout(SOON).expect("an order to the flows thread")
    }

    fn call(&self) -> &'static str {
        self.calls.recv_timeout(SOON).expect("a call of the backend")
    }

    /// Opens the sockets of the frontend that has some.
    fn open(&self) {
        assert!(matches!(self.order(), Order::Start(TCP)));
        self.inbox.send(Message::Event(Event::FrontendStarted(TCP)));
        self.ready.recv_timeout(SOON).expect("everything has started");
        assert_eq!(self.flow_order(), FlowOrder::DeleteStale(vec![UDP]));
    }

    /// Wakes the target; returns the time of the order to watch its flows.
    fn warm(&self) -> Instant {
        self.inbox.wake(TCP, Some("198.51.100.1:4000".parse().expect("an address")));
        assert_eq!(self.call(), "started");
        for frontend in [TCP, UDP] {
            assert!(matches!(self.order(), Order::Notify { frontend: id, change: Change::Active } if id == frontend));
        }
        let FlowOrder::Watch { target: TARGET, asked } = self.flow_order() else { panic!("the flows are watched") };
        assert_eq!(self.flow_order(), FlowOrder::DeleteStale(vec![UDP]));
        asked
    }

    fn request(&self, tag: u64, request: Request) {
        assert!(self.inbox.try_send(Message::Request(RequestId { handler: HandlerId::Service(0), tag }, request)));
    }

    /// The next reply, which has to be to this tag.
    fn reply(&self, tag: u64) -> Reply {
        loop {
            match self.order() {
                Order::Reply(id, reply) => {
                    assert_eq!(id, RequestId { handler: HandlerId::Service(0), tag });
                    return reply;
                }
                Order::Notify { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// A reply and another order, in either order.
    fn order_and_reply(&self) -> (Order, Reply) {
        match (self.order(), self.order()) {
            (Order::Reply(_, reply), order) | (order, Order::Reply(_, reply)) => (order, reply),
            other => panic!("{other:?}"),
        }
    }

    fn refusal(&self, tag: u64) -> String {
        match self.reply(tag) {
            Reply::Refused(reason) => reason,
            other => panic!("{other:?}"),
        }
    }

    /// The state and the last error of the target, as the status shows them.
    fn target(&self, tag: u64) -> (String, Option<String>) {
        self.request(tag, Request::Status);
        while self.flow_order() != FlowOrder::Survey(None) {}
        self.inbox.surveyed(Err("conntrack is unavailable".to_owned()));
        let Reply::Status(status) = self.reply(tag) else { panic!("a status") };
        let target = status.targets.into_iter().next().expect("a target");
        (format!("{:?}", target.state).to_lowercase(), target.last_error)
    }

    /// Stops the engine, as the reactor and the flows thread see it.
    fn shut_down(&self) {
        self.inbox.send(Message::Event(Event::Shutdown));
        loop {
            match self.order() {
                Order::Stop(TCP) => self.inbox.send(Message::Event(Event::FrontendStopped(TCP))),
                Order::End => break,
                _ => {}
            }
        }
        assert!(self.nft.kernel().deleted);
    }

    /// Flushes the flows of the target, as the flows thread does.
    fn flush(&self) {
        while self.flow_order() != (FlowOrder::Flush { target: TARGET, scope: Scope::All }) {}
        self.inbox.report(Report::Flushed(TARGET));
    }
}

#[test]
fn a_wake_starts_the_target_and_ends_in_rules() {
    let all_ended = run(|bench| {
        bench.open();
        assert_eq!(bench.target(1), ("inactive".to_owned(), None));
        bench.warm();
        assert!(bench.nft.kernel().loaded.last().is_some_and(|rules| rules.contains("frontend-3")));
        assert_eq!(bench.target(2), ("active".to_owned(), None));
        std::thread::scope(|scope| {
            scope.spawn(|| bench.flush());
            bench.shut_down();
        });
        assert_eq!(bench.call(), "stopped");
    });
    assert!(all_ended);
}

#[test]
fn an_unused_target_drains_and_returns_its_handler() {
    run(|bench| {
        bench.open();
        for _ in 0..2 {
            let asked = bench.warm();
            bench.request(1, Request::DrainTarget("db".to_owned()));
            bench.inbox.report(Report::Unused { target: TARGET, asked, since: None });
            assert_eq!(bench.reply(1), Reply::Done);
            assert_eq!(bench.call(), "stopped");
            bench.flush();
            while bench.target(2).0 != "inactive" {}
        }
        bench.shut_down();
    });
}

#[test]
fn requests_are_refused_with_a_reason() {
    run(|bench| {
        bench.open();
        let named = |name: &str| name.to_owned();
        for (tag, request) in (0..).zip([Request::Explain, Request::WarmTarget, Request::DrainTarget]) {
            bench.request(tag, request(named("tcp")));
            assert_eq!(bench.refusal(tag), r#"there is no target "tcp""#);
        }
        for (tag, request) in (0..).zip([Request::StartFrontend, Request::StopFrontend, Request::WakeFrontend]) {
            bench.request(tag, request(named("db")));
            assert_eq!(bench.refusal(tag), r#"there is no frontend "db""#);
        }
        bench.inbox.send(Message::Event(Event::Shutdown));
        bench.request(9, Request::WakeFrontend(named("tcp")));
        let (order, reply) = bench.order_and_reply();
        assert_eq!(reply, Reply::Refused("the daemon is shutting down".to_owned()));
        assert!(matches!(order, Order::Stop(TCP)));
        bench.inbox.send(Message::Event(Event::FrontendStopped(TCP)));
        assert!(matches!(bench.order(), Order::End));
        assert_eq!(bench.flows.try_iter().last(), Some(FlowOrder::End));
    });
}

#[test]
fn requests_act_on_their_frontend() {
    run(|bench| {
        bench.open();
        bench.request(1, Request::StopFrontend("tcp".to_owned()));
        assert!(matches!(bench.order_and_reply(), (Order::Stop(TCP), Reply::Done)));
        bench.inbox.send(Message::Event(Event::FrontendStopped(TCP)));
        bench.request(2, Request::StartFrontend("tcp".to_owned()));
        assert!(matches!(bench.order_and_reply(), (Order::Start(TCP), Reply::Done)));
        bench.inbox.send(Message::Event(Event::FrontendStarted(TCP)));
        bench.request(3, Request::WakeFrontend("udp".to_owned()));
        assert_eq!(bench.reply(3), Reply::Done);
        assert_eq!(bench.call(), "started");
        std::thread::scope(|scope| {
            scope.spawn(|| bench.flush());
            bench.shut_down();
        });
    });
}

#[test]
fn an_explanation_waits_for_a_survey_with_the_targets_flows() {
    run(|bench| {
        bench.open();
        bench.request(1, Request::Explain("db".to_owned()));
        assert_eq!(bench.flow_order(), FlowOrder::Survey(Some(TARGET)));
        bench.inbox.surveyed(Err("conntrack is unavailable".to_owned()));
        let Reply::Explanation(explanation) = bench.reply(1) else { panic!("an explanation") };
        assert_eq!(explanation.name, "db");
        bench.shut_down();
    });
}

#[test]
fn a_failing_nft_delays_the_target_and_shows() {
    run(|bench| {
        bench.open();
        bench.nft.kernel().broken = true;
        bench.inbox.wake(UDP, None);
        assert_eq!(bench.call(), "started");
        let shown = loop {
            let (state, error) = bench.target(1);
            assert_eq!(state, "warming");
            if let Some(error) = error {
                break error;
            }
        };
        assert!(shown.contains("no memory"), "{shown}");
        bench.nft.kernel().broken = false;
        while bench.target(2) != ("active".to_owned(), None) {}
        std::thread::scope(|scope| {
            scope.spawn(|| bench.flush());
            bench.shut_down();
        });
    });
}

#[test]
fn a_used_target_stays_after_its_check() {
    let (mut shell, bench) = bench();
    let asked = Instant::now();
    let check = Report::Checked { target: TARGET, asked, result: Use::InUse };
    shell.dispatch(Event::Flows(check));
    assert!(bench.calls.is_empty() && bench.orders.is_empty());
}

#[test]
fn a_shutdown_that_times_out_leaves_targets_behind() {
    let (mut shell, bench) = bench();
    shell.dispatch(Event::Start);
    shell.dispatch(Event::WarmTarget(TARGET));
    assert_eq!(bench.call(), "started");
    let before = Instant::now();
    shell.dispatch(Event::Shutdown);
    let Shutdown::Until(until) = shell.shutdown else { panic!("{:?}", shell.shutdown) };
    assert!(until >= before + END_MARGIN && until <= Instant::now() + END_MARGIN);
    // A further signal does not prolong it.
    shell.dispatch(Event::Shutdown);
    assert_eq!(shell.shutdown, Shutdown::Until(until));
    shell.tick();
    assert_eq!(shell.shutdown, Shutdown::Until(until));
    shell.shutdown = Shutdown::Until(Instant::now());
    shell.tick();
    assert_eq!(shell.shutdown, Shutdown::TimedOut);
    assert!(!shell.run());
    assert!(bench.orders.try_iter().any(|order| matches!(order, Order::End)));
    assert_eq!(bench.call(), "stopped");
}

#[test]
fn a_changed_table_is_repaired_unless_the_daemon_ends() {
    for closing in [false, true] {
        let (mut shell, _bench) = bench();
        if closing {
            shell.dispatch(Event::Shutdown);
        }
        shell.handle(Message::RulesChanged);
        assert_eq!(shell.repair_due().is_some(), !closing);
    }
}
