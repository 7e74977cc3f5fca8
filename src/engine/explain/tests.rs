//! Status and explanation of one target in each of its states.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use super::*;
use crate::Error;
use crate::config::{Access, Endpoint, FrontendSpec, Kind, Masquerade, Probe, Protocol, Readiness, TargetSpec};
use crate::dataplane::flows::{Report, Survey, TargetUse, Unresponsive, Use};
use crate::dataplane::hold::AllCounters;
use crate::engine::backend::{Target, TargetContext};
use crate::engine::core::{Core, Effect, Event, FrontendPlan, TargetPlan};
use crate::engine::inbox::Inbox;
use crate::engine::members::Frontend;
use crate::engine::runner::Runner;
use crate::engine::status::{FrontendState, Status};
use crate::engine::wall::Wall;
use crate::netlink::conntrack::{Counters, Entry, Status as Bits, TcpState, Tuple};

const SECOND: Duration = Duration::from_secs(1);
const TARGET: TargetId = TargetId::new(1);
const WEB: FrontendId = FrontendId::new(5);
const KEEPER: FrontendId = FrontendId::new(6);

/// A handler that is never started.
struct Unused;

impl Target for Unused {
    fn start(&mut self, _context: &TargetContext) -> Result<(), Error> {
        unreachable!()
    }

    fn stop(&mut self, _context: &TargetContext) -> Result<(), Error> {
        unreachable!()
    }
}

/// A core with a target and two frontends, one of which pins it once it is started, and a clock.
struct Scene {
    core: Core,
    targets: BTreeMap<TargetId, Runner>,
    frontends: BTreeMap<FrontendId, Frontend>,
    start: Instant,
    now: Instant,
    /// Time of the last query of the flows.
    asked: Instant,
    survey: Result<Survey, String>,
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

impl Scene {
    fn new(min_uptime: Duration, max_uptime: Option<Duration>) -> Scene {
        let now = Instant::now();
        let endpoint = Endpoint {
            name: "sql".to_owned(),
            protocol: Protocol::Tcp,
            addresses: vec!["203.0.113.2:5432".parse().expect("an address")],
        };
        let kind = |name: &str| Kind { namespace: "test".to_owned(), name: name.to_owned() };
        let spec = TargetSpec {
            name: "db".to_owned(),
            kind: kind("unused"),
            idle_timeout: 300 * SECOND,
            min_uptime,
            max_uptime,
            endpoints: vec![endpoint.clone()],
            readiness: Readiness { probe: Probe::Auto, deadline: 60 * SECOND },
        };
        let mut core = Core::default();
        let plan = TargetPlan {
            name: spec.name.clone(),
            idle_timeout: spec.idle_timeout,
            ready_deadline: spec.readiness.deadline,
            min_uptime,
            max_uptime,
            external: false,
            unwatched: true,
        };
        core.add_target(now, TARGET, plan);
        let frontend = |name: &str, port: u16| FrontendSpec {
            name: name.to_owned(),
            kind: kind("drop"),
            protocol: Protocol::Tcp,
            listen: vec![format!("192.0.2.1:{port}").parse().expect("an address")],
            flow_timeout: 60 * SECOND,
            target: "db".to_owned(),
            endpoint: endpoint.clone(),
            access: Access::default(),
            masquerade: Masquerade::Never,
        };
        let mut frontends = BTreeMap::new();
        for (id, name, port) in [(WEB, "web", 80), (KEEPER, "keeper", 81)] {
            let keeps_warm = id == KEEPER;
            core.add_frontend(id, FrontendPlan { name: name.to_owned(), target: TARGET, keeps_warm, refuses: false });
            frontends.insert(id, Frontend { spec: frontend(name, port), has_handler: false });
        }
        let runner = Runner::new(TARGET, spec, Box::new(Unused), Inbox::new(1, 2).0);
        let targets = [(TARGET, runner)].into();
        let survey = Err("conntrack is unavailable".to_owned());
        let mut scene = Scene { core, targets, frontends, start: now, now, asked: now, survey };
        scene.set_flows(0, None, None, Vec::new());
        scene.run(WEB);
        scene
    }

    fn give(&mut self, event: Event) {
        let mut effects = Vec::new();
        self.core.handle(self.now, event, &mut effects);
        for effect in effects {
            if let Effect::WatchFlows { asked, .. } | Effect::CheckFlows { asked, .. } = effect {
                self.asked = asked;
            }
        }
    }

    /// Loads the rules.
    fn apply(&mut self) {
        let revision = self.core.rules_due(self.now).expect("rules are due");
        self.give(Event::Applied(revision));
    }

    fn run(&mut self, frontend: FrontendId) {
        self.give(Event::StartFrontend(frontend));
        self.give(Event::FrontendStarted(frontend));
        self.apply();
    }

    /// Active, as woken by a client.
    fn warm(&mut self) {
        self.give(Event::Wake { frontend: WEB, source: Some(address("198.51.100.1:4000")) });
        self.ready();
    }

    fn ready(&mut self) {
        self.give(Event::TargetReady(TARGET));
        self.apply();
    }

    fn pass(&mut self, seconds: u32) {
        self.now += seconds * SECOND;
        self.give(Event::Tick);
    }

    fn set_flows(&mut self, flows: u32, ended: Option<Instant>, until: Option<Instant>, details: Vec<FlowDetail>) {
        let used = TargetUse { flows, ended, until };
        self.survey =
            Ok(Survey { targets: [(TARGET, used)].into(), frontends: [(WEB, flows), (KEEPER, 0)].into(), details });
    }

    fn view<R>(&self, read: impl FnOnce(&View<'_>) -> R) -> R {
        let holds = AllCounters::default();
        read(&View {
            now: self.now,
            wall: Wall::new(self.start, SystemTime::UNIX_EPOCH + 1_800_000_000 * SECOND),
            core: &self.core,
            targets: &self.targets,
            frontends: &self.frontends,
            holds: &holds,
            survey: self.survey.as_ref(),
        })
    }

    fn status(&self) -> Status {
        self.view(|view| view.status())
    }

    fn explain(&self) -> Explanation {
        self.view(|view| view.explain(TARGET))
    }

    /// Checks the sentences of the explanation.
    #[track_caller]
    fn says(&self, expected: &[&str]) {
        assert_eq!(self.explain().sentences, expected);
    }
}

fn tcp(port: u16, counts: bool) -> FlowDetail {
    let (client, server) = (address(&format!("198.51.100.1:{port}")), address("203.0.113.2:5432"));
    let entry = Entry {
        protocol: Protocol::Tcp,
        original: Tuple { source: client, destination: address("192.0.2.1:80") },
        reply: Tuple { source: server, destination: client },
        status: Bits(0),
        timeout: Some(48),
        tcp_state: Some(if counts { TcpState::Established } else { TcpState::SynSent }),
        zone: 0,
        id: 1,
        sent: None,
        received: None,
        start: None,
    };
    FlowDetail { frontend: WEB, entry, counts, age: counts.then_some(61 * SECOND) }
}

const STATE_INACTIVE: &str =
    "db is inactive: nothing of it runs. It has been in this state for 0s, since 2027-01-15T08:00:00.000Z.";
const WOKEN: &str = "It was woken by frontend web for the client 198.51.100.1:4000 at 2027-01-15T08:00:00.000Z.";

#[test]
fn an_inactive_target() {
    let scene = Scene::new(Duration::ZERO, None);
    scene.says(&[STATE_INACTIVE, "It has not been woken yet.", "The next wake starts it at once."]);
    let status = scene.status();
    assert!(!status.closed && status.hold.is_none());
    assert_eq!(status.frontends.iter().map(|f| f.name.as_str()).collect::<Vec<_>>(), ["keeper", "web"]);
    assert_eq!(
        status.frontends.iter().map(|f| f.state).collect::<Vec<_>>(),
        [FrontendState::Stopped, FrontendState::Running]
    );
    assert_eq!(status.frontends.iter().map(|f| f.flows).collect::<Vec<_>>(), [Some(0), Some(0)]);
    let target = &status.targets[0];
    assert_eq!((target.pid, target.flows, target.drains_in, target.retry_in), (None, Some(0), None, None));
    assert!(target.waiting_for.is_none() && target.endpoints[0].addresses.is_empty());
    let web = &status.frontends[1];
    assert_eq!((web.target_name.as_str(), web.endpoint_name.as_str()), ("db", "sql"));
    assert!(web.listens.is_empty() && web.proxy_addresses.is_empty());
}

#[test]
fn several_addresses_are_all_listed() {
    let mut scene = Scene::new(Duration::ZERO, None);
    let listen = &mut scene.frontends.get_mut(&WEB).expect("a frontend").spec.listen;
    listen.push("[2001:db8::1]:80".parse().expect("an address"));
    assert_eq!(scene.status().frontends[1].listens.len(), 2);
}

#[test]
fn a_warming_target_names_what_it_waits_for() {
    let mut scene = Scene::new(Duration::ZERO, None);
    scene.give(Event::Wake { frontend: WEB, source: None });
    let (waiting, pid) = scene.targets[&TARGET].reports();
    waiting.set(scene.now + SECOND, Some("endpoint sql: nothing listens"));
    pid.store(4711, Ordering::Relaxed);
    scene.pass(3);
    scene.says(&[
        "db is warming: it has been started and is not ready yet. It has been in this state for 3s, since \
         2027-01-15T08:00:00.000Z.",
        "It was woken by frontend web at 2027-01-15T08:00:00.000Z.",
        "It is waiting for endpoint sql: nothing listens (for 2s, since 2027-01-15T08:00:01.000Z).",
        "Its process is 4711.",
    ]);
    let explanation = scene.explain();
    assert_eq!(explanation.pid, Some(4711));
    assert_eq!(explanation.waiting_for.as_deref(), Some("endpoint sql: nothing listens"));
    assert_eq!(scene.status().targets[0].waiting_for, explanation.waiting_for);
}

#[test]
fn an_unused_target_counts_down() {
    let mut scene = Scene::new(400 * SECOND, Some(3600 * SECOND));
    scene.warm();
    scene.set_flows(0, Some(scene.now), None, Vec::new());
    scene.give(Event::Flows(Report::Unused { target: TARGET, asked: scene.asked, since: None }));
    scene.now += Duration::from_millis(1500);
    assert_eq!(scene.status().targets[0].drains_in, Some(399));
    scene.says(&[
        "db is active: it is ready, and clients are routed to it. It has been in this state for 1s, since \
         2027-01-15T08:00:00.000Z.",
        WOKEN,
        "No flow keeps it in use.",
        "It drains in 6m 39s if no client comes: its idle_timeout is 5m, its min_uptime 6m 40s, its max_uptime 1h.",
    ]);
}

#[test]
fn a_used_target_lists_its_flows() {
    let mut scene = Scene::new(Duration::ZERO, None);
    scene.warm();
    let mut counted = tcp(4000, true);
    counted.entry.sent = Some(Counters { packets: 1, bytes: 60 });
    counted.entry.received = Some(Counters { packets: 2, bytes: 100 });
    let details = vec![counted, tcp(4001, true), tcp(4002, false)];
    scene.set_flows(3, None, Some(scene.now + 50 * SECOND), details);
    let lines = [
        "db is active: it is ready, and clients are routed to it. It has been in this state for 0s, since \
         2027-01-15T08:00:00.000Z.",
        WOKEN,
        "3 flows keep it in use:",
        "  tcp 198.51.100.1:4000 to 192.0.2.1:80, ESTABLISHED (frontend web, endpoint 203.0.113.2:5432), open for 1m 1s, \
         ends in 48s if it stays idle, sent 1 packet with 60 bytes and received 2 with 100.",
        "  tcp 198.51.100.1:4001 to 192.0.2.1:80, ESTABLISHED (frontend web, endpoint 203.0.113.2:5432), open for 1m 1s, \
         ends in 48s if it stays idle.",
        "  and 1 more.",
        "Not answered, refused or half-open, so not counted as use:",
        "  tcp 198.51.100.1:4002 to 192.0.2.1:80, SYN_SENT (frontend web, endpoint 203.0.113.2:5432), ends in 48s if it \
         stays idle.",
        "It drains in 5m 50s if no further packet comes: its idle_timeout is 5m.",
    ];
    scene.says(&lines);
    assert_eq!(scene.status().frontends[1].flows, Some(3));
    // A target that is in use has no time at which it drains for want of clients.
    assert_eq!(scene.status().targets[0].drains_in, None);
    scene.set_flows(1, None, Some(scene.now), vec![tcp(4000, true)]);
    assert_eq!(scene.explain().sentences[2..4], ["1 flow keeps it in use:", lines[4].replace("4001", "4000").as_str()]);
    assert_eq!(scene.explain().drains_in, Some(300));
}

#[test]
fn a_survey_that_fails_is_not_an_unused_target() {
    let mut scene = Scene::new(Duration::ZERO, None);
    scene.warm();
    scene.survey = Err("conntrack is unavailable".to_owned());
    let explanation = scene.explain();
    assert_eq!(explanation.sentences[2..], ["Its flows are not known: conntrack is unavailable."]);
    assert_eq!((explanation.flows, explanation.drains_in), (None, None));
    assert_eq!(scene.status().frontends[1].flows, None);
}

#[test]
fn max_uptime_drains_a_used_target() {
    let mut scene = Scene::new(Duration::ZERO, Some(600 * SECOND));
    scene.warm();
    scene.pass(599);
    scene.set_flows(1, None, Some(scene.now + 50 * SECOND), Vec::new());
    let last = scene.explain().sentences.pop();
    assert_eq!(last.as_deref(), Some("It drains in 1s, in use or not: its max_uptime is 10m."));
    scene.pass(1);
    let sentences = scene.explain().sentences;
    assert_eq!(sentences[2], "It drains because it had been up for its max_uptime.");
    assert_eq!(scene.explain().drained_because, Some("max_uptime"));
    // Without a list, nothing is said of its flows.
    assert_eq!(sentences.len(), 3);
}

#[test]
fn a_pinned_target_does_not_drain() {
    for (max, expected) in [
        (None, "It is kept warm by keeper, and does not drain on its own."),
        (Some(60 * SECOND), "It is kept warm by keeper; it is renewed in 50s (max_uptime)."),
    ] {
        let mut scene = Scene::new(Duration::ZERO, max);
        scene.run(KEEPER);
        scene.ready();
        scene.pass(10);
        let explanation = scene.explain();
        assert_eq!(explanation.kept_warm_by, ["keeper"]);
        let woken = "It was woken by frontend keeper, which keeps it warm, at 2027-01-15T08:00:00.000Z.";
        assert_eq!(explanation.sentences[1..], [woken, "No flow keeps it in use.", expected]);
        // Its flows may be idle for as long as they like.
        scene.set_flows(1, None, Some(scene.now), Vec::new());
        assert_eq!(scene.explain().drains_in, max.map(|_| 50));
    }
}

#[test]
fn an_idle_drain_can_be_cancelled_until_it_is_verified() {
    let mut scene = Scene::new(Duration::ZERO, None);
    scene.warm();
    scene.pass(300);
    scene.give(Event::Flows(Report::Unused { target: TARGET, asked: scene.asked, since: None }));
    let draining = "db is draining: clients are no longer routed to it, and it is being stopped. It has been in this state \
                    for 0s, since 2027-01-15T08:05:00.000Z.";
    assert_eq!(scene.explain().sentences[0], draining);
    scene.apply();
    scene.set_flows(2, None, None, vec![tcp(4000, true)]);
    let sentences = scene.explain().sentences;
    assert!(
        sentences[0].starts_with("db is draining: new clients are no longer routed to it, and it is stopped unless")
    );
    assert_eq!(
        sentences[2..4],
        ["It drains because no flow had used it for its idle_timeout of 5m.", "2 flows are open:"]
    );
    scene.set_flows(1, None, None, vec![tcp(4000, true)]);
    assert_eq!(scene.explain().sentences[3], "1 flow is open:");
    scene.set_flows(0, None, None, vec![tcp(4000, false)]);
    assert_eq!(scene.explain().sentences[3], "None of its flows is in use.");
    let unused = Report::Checked { target: TARGET, asked: scene.asked, result: Use::Unused { since: None } };
    scene.give(Event::Flows(unused));
    assert_eq!(scene.explain().sentences[0], draining);
    scene.give(Event::TargetEnded(TARGET, None));
    scene.give(Event::Flows(Report::Flushed(TARGET)));
    scene.set_flows(0, None, None, Vec::new());
    scene.pass(7);
    scene.says(&[
        "db is inactive: nothing of it runs. It has been in this state for 7s, since 2027-01-15T08:05:00.000Z.",
        "It was last woken by frontend web for the client 198.51.100.1:4000 at 2027-01-15T08:00:00.000Z.",
        "It has drained because no flow had used it for its idle_timeout of 5m.",
        "The next wake starts it at once.",
    ]);
}

#[test]
fn a_failed_target_backs_off() {
    let mut scene = Scene::new(Duration::ZERO, None);
    scene.give(Event::WarmTarget(TARGET));
    scene.pass(60);
    assert_eq!(scene.explain().sentences[2], "It drains because it was not ready within 1m.");
    assert_eq!(scene.explain().drained_because, Some("not_ready"));
    scene.give(Event::TargetEnded(TARGET, None));
    scene.give(Event::Flows(Report::Flushed(TARGET)));
    scene.says(&[
        "db is inactive: nothing of it runs. It has been in this state for 0s, since 2027-01-15T08:01:00.000Z.",
        "It was last woken by an operator at 2027-01-15T08:00:00.000Z.",
        "It has drained because it was not ready within 1m.",
        "Its last error: not ready within 60s.",
        "It has failed: a wake can start it again in 1s.",
    ]);
    assert_eq!(scene.status().targets[0].retry_in, Some(1));
    scene.give(Event::WarmTarget(TARGET));
    let last = scene.explain().sentences.pop();
    assert_eq!(last.as_deref(), Some("It has failed and is needed: it starts again in 1s."));
}

#[test]
fn each_cause_of_a_drain_has_a_sentence() {
    let cause = |end: &dyn Fn(&mut Scene)| {
        let mut scene = Scene::new(Duration::ZERO, None);
        scene.warm();
        end(&mut scene);
        let explanation = scene.explain();
        (explanation.drained_because.unwrap_or_default(), explanation.sentences[2].clone())
    };
    let asked = cause(&|scene| scene.give(Event::DrainTarget(TARGET)));
    assert_eq!(asked, ("asked", "It drains because a drain was requested.".to_owned()));
    let died = cause(&|scene| scene.give(Event::TargetDied(TARGET, "exit status: 1".to_owned())));
    assert_eq!(died, ("died", "It drains because its backend had ended on its own.".to_owned()));
    let unresponsive = cause(&|scene| {
        let problem = "no answer".to_owned();
        scene.give(Event::Flows(Report::ClientsLost { frontend: WEB, problem, unresponsive: Unresponsive::Target }));
    });
    let sentence = "It drains because its backend answered neither its clients nor this gateway.".to_owned();
    assert_eq!(unresponsive, ("silent", sentence));
}

#[test]
fn a_closed_target() {
    let mut scene = Scene::new(Duration::ZERO, None);
    scene.give(Event::Shutdown);
    assert_eq!(scene.explain().sentences[0].split('.').next(), Some("db is closed: the daemon is shutting down"));
    assert!(scene.status().closed);
}
