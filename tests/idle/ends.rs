//! Each way in which a flow can end, with conntrack's events and without.

use std::time::{Duration, SystemTime};

use serde_json::json;
use socket2::SockRef;

use crate::moments::{LATE, assert_on_time, drained, draining, held, logged, serve, served};
use crate::support::setup::{SECOND, SOON, at, config, ctl, holds};
use crate::support::{Client, Daemon, Lab, http_get, nft, require_namespaces, udp_ask};

/// The sysctl that says whether conntrack tells of changes.
const EVENTS: &str = "netfilter/nf_conntrack_events";

/// How much later than it should a target may drain where the kernel is polled, of which a second is the kernel's own.
const POLLED: Duration = LATE.saturating_add(SECOND);

/// How long a client may wait before it acknowledges an answer.
const DELAYED: Duration = Duration::from_millis(50);

/// A client of a port of the gateway.
fn client(lab: &Lab, port: u16) -> Client {
    Client::connect(lab.client(), at(&format!("198.51.100.1:{port}")))
}

/// Runs `end`; returns what lies between.
fn during(end: impl FnOnce()) -> (SystemTime, SystemTime) {
    let before = SystemTime::now();
    end();
    (before, SystemTime::now())
}

fn plus((from, to): (SystemTime, SystemTime), time: Duration) -> (SystemTime, SystemTime) {
    (from + time, to + time)
}

#[track_caller]
fn every_end_counts_from_its_moment(events: &str, late: Duration) {
    let lab = Lab::new();
    lab.gateway.sysctl(EVENTS, events);
    let names = ["fin", "reset", "closed", "deleted", "silent", "datagram"];
    let ports = [81, 82, 83, 84, 85, 86];
    let _backend = serve(&lab, &ports);
    let mut targets: Vec<_> = names.iter().zip(ports).map(|(name, port)| served(name, port, "1s")).collect();
    targets.push(served("fresh", 87, "1s"));
    let long = |at: usize| held(ports[at], &format!("{}:t", names[at]), "60s");
    let frontends = [long(0), long(1), long(2), long(3), held(85, "silent:t", "2s"), held(86, "datagram:u", "2s")];
    let mut daemon = Daemon::start(&lab, &config(&targets, &frontends));
    let datagram = || {
        lab.client().run(|| udp_ask(at("198.51.100.1:86"), b"?", SOON)).expect("an answer");
    };
    // All are in use for longer than the idle time, and none has drained.
    let [fin, mut reset, mut closed, deleted, mut silent] = [81, 82, 83, 84, 85].map(|port| client(&lab, port));
    let mut ends = Vec::new();
    holds("they are in use", 3 * SECOND / 2, || {
        silent.ask();
        !daemon.log().contains("draining")
    });
    ends.push(("silent", plus(during(|| drop(silent.ask())), 2 * SECOND), DELAYED));
    ends.push(("datagram", plus(during(datagram), 2 * SECOND), Duration::ZERO));
    ends.push(("fin", during(|| drop(fin)), Duration::ZERO));
    SockRef::from(&*reset.stream()).set_linger(Some(Duration::ZERO)).expect("it resets");
    ends.push(("reset", during(|| drop(reset)), Duration::ZERO));
    let bye = during(|| {
        use std::io::{Read, Write};
        closed.stream().write_all(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n").expect("it is open");
        closed.stream().read_to_string(&mut String::new()).expect("an answer and the end");
        drop(closed);
    });
    ends.push(("closed", bye, Duration::ZERO));
    let delete = || drop(lab.gateway.sh("conntrack -D -p tcp --orig-port-dst 84 2>&1"));
    ends.push(("deleted", during(delete), Duration::ZERO));
    assert!(ctl(&daemon, &["warm", "fresh"]).status.success());
    let ready = logged(&daemon.process().await_line("target fresh: active", SOON));
    ends.push(("fresh", (ready, ready), Duration::ZERO));
    for (target, end, slack) in ends {
        let at = drained(&mut daemon, 0, target, SOON);
        assert_on_time(target, at, plus(end, SECOND), late + slack, &daemon.log());
    }
    drop(deleted);
    for target in names {
        daemon.process().await_line(&format!("target {target}: inactive"), SOON);
        assert_eq!(daemon.log().matches(&draining(target)).count(), 1, "{target}\n{}", daemon.log());
    }
    let warnings = daemon.log().matches("; polling instead").count();
    assert_eq!(warnings, usize::from(events == "0"), "{}", daemon.log());
}

#[test]
fn every_end_counts_from_its_moment_with_events() {
    if require_namespaces() {
        every_end_counts_from_its_moment("1", LATE);
    }
}

#[test]
fn every_end_counts_from_its_moment_without_events() {
    if require_namespaces() {
        every_end_counts_from_its_moment("0", POLLED);
    }
}

#[test]
fn events_that_are_turned_off_under_way_cost_nobody_the_target() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let _backend = serve(&lab, &[81, 82]);
    let targets = [served("busy", 81, "500ms"), served("held", 82, "500ms")];
    let frontends = [held(81, "busy:t", "60s"), held(82, "held:t", "60s")];
    let mut daemon = Daemon::start(&lab, &config(&targets, &frontends));
    let ask = || {
        let (status, _) = lab.client().run(|| http_get(at("198.51.100.1:81"), "/")).expect("an answer");
        status == 200
    };
    let known = client(&lab, 82);
    assert!(ask());
    lab.gateway.sysctl(EVENTS, "0");
    // Nobody hears of this one, nor of those that come and go.
    let unknown = client(&lab, 82);
    let lines = daemon.process().lines();
    drop(known);
    holds("it is used", 3 * SECOND, ask);
    let last = (SystemTime::now(), SystemTime::now());
    let log: Vec<String> = daemon.log().lines().skip(lines).map(str::to_owned).collect();
    assert!(!log.iter().any(|line| line.contains("draining")), "{log:#?}");
    let drain = drained(&mut daemon, lines, "busy", SOON);
    assert_on_time("busy", drain, plus((last.0 - SECOND / 10, last.1), SECOND / 2), POLLED, &daemon.log());
    let end = during(|| drop(unknown));
    let drain = drained(&mut daemon, lines, "held", SOON);
    assert_on_time("held", drain, plus(end, SECOND / 2), POLLED, &daemon.log());
    assert_eq!(daemon.log().matches("; polling instead").count(), 1, "{}", daemon.log());
    assert_eq!(daemon.target("held")["flows"], json!(0));
}

#[test]
fn flows_that_came_while_no_daemon_was_there_count_until_they_end() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    // What comes while nobody listens never tells of its changes.
    lab.gateway.sysctl(EVENTS, "2");
    let _backend = serve(&lab, &[81]);
    let mut daemon = Daemon::start(&lab, &config(&[served("b", 81, "1s")], &[held(81, "b:t", "60s")]));
    let before = client(&lab, 81);
    daemon.kill9();
    let mut between = client(&lab, 81);
    daemon.restart();
    assert!(ctl(&daemon, &["warm", "b"]).status.success());
    daemon.await_target("b", "active", SOON);
    assert_eq!(daemon.target("b")["flows"], json!(2), "{}", daemon.log());
    drop(before);
    holds("one is open", 5 * SECOND / 2, || {
        between.ask();
        !daemon.log().contains("draining")
    });
    let end = during(|| drop(between));
    let drain = drained(&mut daemon, 0, "b", SOON);
    assert_on_time("b", drain, plus(end, SECOND), POLLED, &daemon.log());
}

#[test]
fn a_flow_that_has_lost_its_policy_with_the_table_does_not_live_for_the_kernels_five_days() {
    if !require_namespaces() {
        return;
    }
    for events in ["1", "0"] {
        let lab = Lab::new();
        lab.gateway.sysctl(EVENTS, events);
        let _backend = serve(&lab, &[81]);
        let mut daemon = Daemon::start(&lab, &config(&[served("b", 81, "500ms")], &[held(81, "b:t", "2s")]));
        let mut silent = client(&lab, 81);
        let lines = daemon.process().lines();
        nft(&lab.gateway, "delete table inet proxygw");
        daemon.process().await_line_after(lines, "rules: 1 active", SOON);
        let mut last = (SystemTime::now(), SystemTime::now());
        holds("it is used", 5 * SECOND, || {
            last = during(|| _ = silent.ask());
            !daemon.log().contains("draining")
        });
        let drain = drained(&mut daemon, lines, "b", SOON);
        // From the last packet, or from when the kernel was asked after it.
        let (first, last) = (last.0 + 5 * SECOND / 2, last.1 + 9 * SECOND / 2);
        assert_on_time("b", drain, (first, last), POLLED, &daemon.log());
    }
}
