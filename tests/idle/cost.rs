//! What it costs to know: nothing while nothing can have changed.

use std::time::{Duration, Instant};

use socket2::{SockRef, TcpKeepalive};

use crate::moments::{LATE, assert_on_time, drained, held, serve, served};
use crate::support::setup::{SECOND, SOON, at, config};
use crate::support::{Client, Daemon, Lab, eventually, require_namespaces};

/// What the log says when the doctor has looked, which is a second after the start.
const DOCTOR: &str = "doctor: ";

/// How often the daemon's threads have waited for something.
#[track_caller]
fn waits(daemon: &Daemon) -> u64 {
    let of = |thread: std::fs::DirEntry| {
        let status = std::fs::read_to_string(thread.path().join("status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        line.and_then(|count| count.trim().parse::<u64>().ok()).unwrap_or(0)
    };
    threads(daemon).map(of).sum()
}

/// How long the daemon's threads have been on a processor: also one that spins, and waits for nothing.
#[track_caller]
fn processor_time(daemon: &Daemon) -> Duration {
    // `schedstat`: nanoseconds on a processor, nanoseconds that it waited for one, time slices.
    let of = |thread: std::fs::DirEntry| {
        let text = std::fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
        text.split(' ').next().and_then(|nanos| nanos.parse().ok()).map_or(Duration::ZERO, Duration::from_nanos)
    };
    let time = threads(daemon).map(of).sum();
    assert!(time > Duration::ZERO, "the kernel says nothing of processor time");
    time
}

#[track_caller]
fn threads(daemon: &Daemon) -> impl Iterator<Item = std::fs::DirEntry> {
    std::fs::read_dir(format!("/proc/{}/task", daemon.pid())).expect("the daemon runs").flatten()
}

/// Waits until no thread of the daemon has woken up for half a second.
#[track_caller]
fn comes_to_rest(daemon: &Daemon) {
    let (mut last, mut since) = (waits(daemon), Instant::now());
    eventually("it comes to rest", 2 * SOON, || {
        let now = waits(daemon);
        if now != last {
            (last, since) = (now, Instant::now());
        }
        since.elapsed() > SECOND / 2
    });
}

fn dumps(daemon: &Daemon) -> usize {
    daemon.log().matches(" dumped ").count()
}

#[test]
fn silent_connections_cost_nothing() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let _backend = serve(&lab, &[81]);
    let mut daemon = Daemon::start(&lab, &config(&[served("b", 81, "300ms")], &[held(81, "b:t", "60s")]));
    // Its thread is counted as long as it lives.
    daemon.process().await_line(DOCTOR, SOON);
    let clients: Vec<_> = (0..20).map(|_| Client::connect(lab.client(), at("198.51.100.1:81"))).collect();
    daemon.process().await_line("target b: active", SOON);
    comes_to_rest(&daemon);
    let cost = || (waits(&daemon), dumps(&daemon), processor_time(&daemon));
    let before = cost();
    // Ten times its idle time, in which nothing may happen: there is nothing to wait for.
    std::thread::sleep(3 * SECOND);
    let after = cost();
    assert!(after.0 <= before.0 + 2 && after.1 == before.1, "{before:?} {after:?}\n{}", daemon.log());
    assert!(after.2 - before.2 < SECOND / 20, "it spins: {before:?} {after:?}");
    drop(clients);
    drained(&mut daemon, 0, "b", SOON);
}

#[test]
fn connections_that_are_kept_alive_keep_their_targets_and_cost_little() {
    if !require_namespaces() {
        return;
    }
    const FLOW: u32 = 2;
    const TIMES: u32 = 4;
    let lab = Lab::new();
    let _backend = serve(&lab, &[81, 82]);
    let targets = [served("asks", 81, "300ms"), served("alive", 82, "300ms")];
    let frontends = [held(81, "asks:t", "2s"), held(82, "alive:t", "2s")];
    let mut daemon = Daemon::start(&lab, &config(&targets, &frontends));
    daemon.process().await_line(DOCTOR, SOON);
    let mut asks = Client::connect(lab.client(), at("198.51.100.1:81"));
    let mut alive = Client::connect(lab.client(), at("198.51.100.1:82"));
    let often = TcpKeepalive::new().with_time(SECOND).with_interval(SECOND);
    SockRef::from(&*alive.stream()).set_tcp_keepalive(&often).expect("keep-alives");
    let before = (waits(&daemon), dumps(&daemon));
    for _ in 0..FLOW * TIMES {
        // The client's own rhythm.
        std::thread::sleep(SECOND);
        asks.ask();
    }
    let log = daemon.log();
    assert!(!log.contains("draining"), "{log}");
    let cost = (waits(&daemon).saturating_sub(before.0), dumps(&daemon) - before.1);
    assert!(cost.1 <= 2 * TIMES as usize && cost.0 <= u64::from(2 * 10 * TIMES), "{cost:?}\n{log}");
    // Both fall silent.
    SockRef::from(&*alive.stream()).set_keepalive(false).expect("no keep-alives");
    asks.ask();
    let silent = std::time::SystemTime::now();
    let due = silent + FLOW * SECOND + 3 * SECOND / 10;
    let at = drained(&mut daemon, 0, "asks", SOON);
    assert_on_time("asks", at, (due - SECOND / 10, due), LATE + Duration::from_millis(50), &daemon.log());
    // The last keep-alive was at most a second before.
    let at = drained(&mut daemon, 0, "alive", SOON);
    assert_on_time("alive", at, (due - 11 * SECOND / 10, due), LATE, &daemon.log());
}

#[test]
fn targets_that_drain_at_once_share_their_dumps() {
    if !require_namespaces() {
        return;
    }
    const TARGETS: usize = 60;
    let lab = Lab::new();
    let _backend = serve(&lab, &[81]);
    let names: Vec<_> = (0..TARGETS).map(|n| format!("b{n}")).collect();
    let targets: Vec<_> = names.iter().map(|name| served(name, 81, "1s")).collect();
    let port = |n: usize| 1000 + n as u16;
    let frontends: Vec<_> =
        names.iter().enumerate().map(|(n, name)| held(port(n), &format!("{name}:t"), "60s")).collect();
    let daemon = Daemon::start(&lab, &config(&targets, &frontends));
    let connect = |n| Client::connect(lab.client(), at(&format!("198.51.100.1:{}", port(n))));
    let clients: Vec<_> = (0..TARGETS).map(connect).collect();
    let before = dumps(&daemon);
    drop(clients);
    let drained = || daemon.log().matches(": inactive after draining").count();
    eventually("all of them have drained", SOON, || drained() == TARGETS);
    let dumps = dumps(&daemon) - before;
    assert!(dumps < TARGETS / 2, "{dumps} dumps\n{}", daemon.log());
}
