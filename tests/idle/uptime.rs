//! `min_uptime` and `max_uptime`.

use std::io::Read;
use std::time::{Duration, SystemTime};

use serde_json::json;

use crate::moments::{LATE, assert_on_time, drained, held, logged, serve, served};
use crate::support::setup::{SECOND, SOON, always, at, command, config, ctl, with};
use crate::support::{Client, Daemon, Lab, backend_command, eventually, http_get, require_namespaces};

#[test]
fn a_target_stays_for_its_min_uptime_and_drains_as_usual_afterwards() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let _backend = serve(&lab, &[81, 82]);
    let least = |target| with(target, json!({"min_uptime": "2s"}));
    let targets = [least(served("unused", 81, "300ms")), least(served("used", 82, "1500ms"))];
    let frontends = [held(81, "unused:t", "60s"), held(82, "used:t", "60s")];
    let mut daemon = Daemon::start(&lab, &config(&targets, &frontends));
    assert!(ctl(&daemon, &["warm", "unused"]).status.success());
    let client = Client::connect(lab.client(), at("198.51.100.1:82"));
    let drains_in = daemon.target("unused")["drains_in"].as_u64();
    assert!(matches!(drains_in, Some(1..=2)), "{drains_in:?}");
    let unused = logged(&daemon.process().await_line("target unused: active", SOON));
    let used = logged(&daemon.process().await_line("target used: active", SOON));
    eventually("it has been used for a while", SOON, || used.elapsed().is_ok_and(|time| time > SECOND));
    let before = SystemTime::now();
    drop(client);
    let after = SystemTime::now();
    let drain = drained(&mut daemon, 0, "unused", SOON);
    assert_on_time("unused", drain, (unused + 2 * SECOND, unused + 2 * SECOND), LATE, &daemon.log());
    let drain = drained(&mut daemon, 0, "used", SOON);
    let due = |ended: SystemTime| (ended + 3 * SECOND / 2).max(used + 2 * SECOND);
    assert_on_time("used", drain, (due(before), due(after)), LATE, &daemon.log());
}

#[test]
fn a_target_is_drained_in_use_after_its_max_uptime_and_a_kept_one_is_renewed() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let backend = |name: &str, port: u16| {
        let place = format!("127.0.0.1:{port}");
        let target = command(name, &[&format!("t=tcp/{place}")], &backend_command(&format!("--tcp {place}")));
        with(target, json!({"idle_timeout": "300ms", "max_uptime": "1500ms"}))
    };
    let kept = with(always("kept", "tcp/198.51.100.1:82", "kept:t"), json!({"flow_timeout": "60s"}));
    let frontends = [held(81, "used:t", "60s"), kept];
    let daemon = Daemon::start(&lab, &config(&[backend("used", 8081), backend("kept", 8082)], &frontends));
    daemon.await_target("kept", "active", SOON);
    let first = daemon.target("kept")["pid"].clone();
    assert!(first.is_u64(), "{first}");

    let mut client = Client::connect(lab.client(), at("198.51.100.1:81"));
    let log = || daemon.log();
    let old = "draining because it has been up for its max_uptime";
    eventually("it is too old", SOON, || {
        if !log().contains(&format!("target used: {old}")) {
            client.ask_if_open();
        }
        log().contains(&format!("target used: {old}"))
    });
    let line = |what: &str| log().lines().find(|line| line.contains(what)).map(logged).expect(what);
    let (active, drain) = (line("target used: active"), line(&format!("target used: {old}")));
    let due = active + Duration::from_millis(1500);
    assert_on_time("used", drain, (due, due), LATE, &log());
    // Its client is told, and the next one is served by a new backend.
    assert!(matches!(client.stream().read(&mut [0; 4096]), Ok(0) | Err(_)));
    assert_eq!(lab.client().run(|| http_get(at("198.51.100.1:81"), "/")).expect("an answer").0, 200);

    eventually("it is renewed", SOON, || {
        let target = daemon.target("kept");
        target["state"] == "active" && target["pid"] != first
    });
    assert!(log().contains(&format!("target kept: {old}")), "{}", log());
    assert!(!log().contains("target kept: draining because it is idle"), "{}", log());
    assert_eq!(lab.client().run(|| http_get(at("198.51.100.1:82"), "/")).expect("an answer").0, 200);
}
