//! `proxygwctl explain` and the keys of `status` that say why a target is in its state.

use serde_json::{Value, json};

use crate::moments::{held, serve, served};
use crate::support::setup::{SECOND, SOON, always, at, command, config, ctl, with};
use crate::support::{Client, Daemon, Lab, backend_command, eventually, require_namespaces, udp_ask};

/// What `explain` says of a target, in words and as data.
#[track_caller]
fn explain(daemon: &Daemon, target: &str) -> (String, Value) {
    let [text, data] = [&["explain", target][..], &["explain", "--json", target]].map(|words| {
        let output = ctl(daemon, words);
        assert!(output.status.success(), "{}\n{}", String::from_utf8_lossy(&output.stderr), daemon.log());
        String::from_utf8(output.stdout).expect("UTF-8")
    });
    let data: Value = serde_json::from_str(&data).expect("JSON");
    assert_eq!(data["name"], target);
    (text, data)
}

#[track_caller]
fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is missing:\n{text}");
    }
}

fn lab_with_counters() -> Lab {
    let lab = Lab::new();
    lab.gateway.sysctl("netfilter/nf_conntrack_acct", "1");
    lab
}

#[test]
fn a_target_with_flows_is_explained_by_them() {
    if !require_namespaces() {
        return;
    }
    let lab = lab_with_counters();
    let _backend = serve(&lab, &[81, 82]);
    let targets = [served("used", 81, "1s"), served("kept", 82, "1s"), served("never", 83, "1s")];
    let kept = always("kept", "tcp/198.51.100.1:82", "kept:t");
    let frontends = [held(81, "used:t", "60s"), held(81, "used:u", "60s"), kept, held(83, "never:t", "60s")];
    let mut daemon = Daemon::start(&lab, &config(&targets, &frontends));

    let (text, data) = explain(&daemon, "never");
    assert_says(&text, &["never is inactive", "It has not been woken yet.", "The next wake starts it at once."]);
    let keys = ["woken_by", "drained_because", "pid", "drains_in", "last_error", "retry_in"];
    keys.iter().for_each(|key| assert!(data.get(*key).is_none(), "{key}: {data:#}"));
    assert_eq!((&data["state"], &data["flows"], &data["flow_list"]), (&json!("inactive"), &json!(0), &json!([])));

    let client = Client::connect(lab.client(), at("198.51.100.1:81"));
    lab.client().run(|| udp_ask(at("198.51.100.1:81"), b"?", SOON)).expect("an answer");
    let (text, data) = explain(&daemon, "used");
    assert_says(&text, &["used is active", "woken by frontend used-t for the client 198.51.100.2:"]);
    assert_says(
        &text,
        &["2 flows keep it in use:", "tcp 198.51.100.2:", " to 198.51.100.1:81, ESTABLISHED (frontend used-t"],
    );
    assert_says(&text, &["endpoint 203.0.113.2:81", "sent ", " bytes and received ", "if no further packet comes"]);
    let flows = data["flow_list"].as_array().expect("a list");
    assert_eq!((flows.len(), &data["flows"]), (2, &json!(2)), "{data:#}");
    for flow in flows {
        assert!(flow["source"].as_str().is_some_and(|source| source.starts_with("198.51.100.2:")), "{flow}");
        assert_eq!((&flow["destination"], &flow["counts"]), (&json!("198.51.100.1:81"), &json!(true)), "{flow}");
        let count = |way: &str, what: &str| flow[way][what].as_u64().expect("a counter");
        assert!(count("sent", "packets") >= 1 && count("received", "packets") >= 1, "{flow}");
        assert!(count("sent", "bytes") >= 29 && count("received", "bytes") > 60, "{flow}");
        assert!(flow["left_seconds"].as_u64().is_some_and(|left| (50..=60).contains(&left)), "{flow}");
    }
    assert!(data["drains_in"].as_u64().is_some_and(|seconds| (50..=61).contains(&seconds)), "{data:#}");
    let status = daemon.target("used");
    assert_eq!((&status["flows"], status.get("drains_in")), (&json!(2), None), "{status:#}");
    for frontend in ["used-t", "used-u"] {
        assert_eq!(daemon.frontend(frontend)["flows"], json!(1), "{frontend}");
    }
    drop(client);
    lab.gateway.sh("conntrack -D -p udp 2>&1");
    eventually("it is out of use", SOON, || daemon.target("used")["flows"] == json!(0));
    assert_eq!(daemon.target("used")["drains_in"], json!(1));

    let (text, data) = explain(&daemon, "kept");
    assert_says(&text, &["kept is active", "It is kept warm by kept, and does not drain on its own."]);
    assert_eq!((&data["kept_warm_by"], data.get("drains_in")), (&json!(["kept"]), None), "{data:#}");
    assert_eq!(daemon.target("kept").get("drains_in"), None);

    daemon.process().await_line("target used: inactive", SOON);
    let (text, data) = explain(&daemon, "used");
    assert_says(&text, &["used is inactive", "It was last woken by", "It has drained because no flow had used it"]);
    assert_eq!((&data["state"], &data["drained_because"]), (&json!("inactive"), &json!("idle")), "{data:#}");
    let error = ctl(&daemon, &["explain", "nobody"]);
    assert!(
        !error.status.success() && String::from_utf8_lossy(&error.stderr).contains("there is no target \"nobody\"")
    );
}

#[test]
fn a_target_on_its_way_up_or_down_or_failing_is_explained() {
    if !require_namespaces() {
        return;
    }
    let lab = lab_with_counters();
    let never = command("warming", &["t=tcp/127.0.0.1:8081"], "exec sleep 1000");
    let broken = command("broken", &["t=tcp/127.0.0.1:8082"], "exit 3");
    let deaf = backend_command("--tcp 127.0.0.1:8083 --ignore-sigint --ignore-sigterm");
    let deaf = with(command("slow", &["t=tcp/127.0.0.1:8083"], &deaf), json!({"options": {"stop_grace": "3s"}}));
    let frontends = [held(81, "warming:t", "60s"), held(82, "broken:t", "60s"), held(83, "slow:t", "60s")];
    let mut daemon = Daemon::start(&lab, &config(&[never, broken, deaf], &frontends));
    for target in ["warming", "broken", "slow"] {
        assert!(ctl(&daemon, &["warm", target]).status.success());
    }
    let (text, data) = explain(&daemon, "warming");
    assert_says(&text, &["warming is warming", "woken by an operator", "Its process is "]);
    assert!(data["pid"].is_u64() && data["pid"] == daemon.target("warming")["pid"], "{data:#}");
    assert!(data["woken_by"].get("frontend").is_none() && data["woken_by"]["at"].is_string(), "{data:#}");
    // It is probed at once, but its thread may not have come to that.
    let missing = "endpoint t (tcp 127.0.0.1:8081): no socket is bound to it";
    eventually("what is missing is named", SOON, || daemon.target("warming")["waiting_for"] == missing);
    let (text, data) = explain(&daemon, "warming");
    assert_says(&text, &[&format!("It is waiting for {missing} (for ")]);
    assert_eq!(data["waiting_for"], missing, "{data:#}");
    let since = data["waiting_since"].as_str().map(humantime::parse_rfc3339).expect("a text").expect("a time");
    assert!(since.elapsed().is_ok_and(|time| time < 2 * SOON), "{data:#}");

    // It fails again and again, each time backing off for longer.
    eventually("it backs off", SOON, || {
        assert!(ctl(&daemon, &["warm", "broken"]).status.success());
        let target = daemon.target("broken");
        target["state"] == "inactive" && target["retry_in"].as_u64() >= Some(2)
    });
    let (text, data) = explain(&daemon, "broken");
    assert_says(&text, &["broken is inactive", "Its last error: ", "It has failed and is needed: it starts again in "]);
    assert_eq!(data["drained_because"], "died", "{data:#}");
    assert!(data["retry_in"].is_u64() && data["last_error"].is_string() && data.get("pid").is_none(), "{data:#}");

    daemon.await_target("slow", "active", SOON);
    assert!(ctl(&daemon, &["drain", "slow"]).status.success());
    daemon.await_target("slow", "draining", SOON);
    let (text, data) = explain(&daemon, "slow");
    assert_says(&text, &["slow is draining", "It drains because a drain was requested."]);
    assert_eq!((&data["state"], &data["drained_because"]), (&json!("draining"), &json!("asked")), "{data:#}");
    let since = data["since"].as_str().map(humantime::parse_rfc3339).expect("a text").expect("a time");
    assert!(since.elapsed().is_ok_and(|time| time < 5 * SECOND), "{data:#}");
    daemon.process().await_line("target slow: inactive", SOON);
    assert_says(&explain(&daemon, "slow").0, &["It has drained because a drain was requested."]);
}

#[test]
fn what_comes_first_of_silence_and_max_uptime_is_told_and_older_flows_keep_nothing_in_use() {
    if !require_namespaces() {
        return;
    }
    let lab = lab_with_counters();
    let _backend = serve(&lab, &[81, 82]);
    let most = |target, most: &str| with(target, json!({"max_uptime": most}));
    let targets = [most(served("silent", 81, "5s"), "1h"), most(served("old", 82, "1h"), "50s")];
    let frontends = [held(81, "silent:t", "60s"), held(81, "silent:u", "60s"), held(82, "old:t", "60s")];
    let mut daemon = Daemon::start(&lab, &config(&targets, &frontends));
    let drains_in = |data: &Value| data["drains_in"].as_u64().expect("seconds");

    lab.client().run(|| udp_ask(at("198.51.100.1:81"), b"?", SOON)).expect("an answer");
    let (text, data) = explain(&daemon, "silent");
    assert_says(
        &text,
        &["if no further packet comes: its idle_timeout is 5s, its max_uptime 1h.", "sent 1 packet with 29 bytes"],
    );
    assert!((50..=65).contains(&drains_in(&data)), "{data:#}");
    let _client = Client::connect(lab.client(), at("198.51.100.1:82"));
    let (text, data) = explain(&daemon, "old");
    assert_says(&text, &["1 flow keeps it in use:", ", in use or not: its max_uptime is 50s."]);
    assert!((40..=50).contains(&drains_in(&data)), "{data:#}");

    daemon.kill9();
    daemon.restart();
    let (text, data) = explain(&daemon, "old");
    assert_says(&text, &["old is inactive", "1 flow is open:"]);
    assert_eq!((&data["flows"], data.get("drains_in")), (&json!(1), None), "{data:#}");
}
