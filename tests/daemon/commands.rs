//! `static:cmd` with commands that misbehave.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::setup::{
    PAGE, SECOND, SOON, active, assert_answers, assert_nothing_left, command, config, memory, page, processes, warm,
    with,
};
use crate::support::{Daemon, GATEWAY_V4, GATEWAY_V6, Lab, backend_command, eventually, http_get, require_namespaces};

fn get(lab: &Lab) -> String {
    lab.client().run(|| http_get((GATEWAY_V4, 80).into(), "/")).expect("an answer").1
}

/// A daemon with one command behind a page on port 80.
fn start(lab: &Lab, text: &str, changes: Value) -> Daemon {
    let target = with(command("b", &["e=tcp/127.0.0.1:8080"], text), changes);
    Daemon::start(lab, &config(&[target], &[page("f", "0.0.0.0:80", "b:e")]))
}

#[track_caller]
fn last_error(daemon: &Daemon) -> String {
    eventually("it has failed", SOON, || daemon.target("b")["last_error"].is_string());
    daemon.target("b")["last_error"].as_str().expect("a text").to_owned()
}

/// Drains the target, checks that only the daemon's process is left, and returns the time that it took.
#[track_caller]
fn drain(lab: &Lab, daemon: &Daemon) -> Duration {
    daemon.request(10, json!({"name": "b"}));
    let took = daemon.await_target("b", "inactive", SOON);
    let left = processes(lab);
    assert_eq!(left.len(), 1, "{left:?}\n{}", daemon.log());
    assert_eq!(active(&lab.gateway), "");
    took
}

#[test]
fn command_that_ignores_sigint_is_killed_after_stop_grace() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let text = backend_command("--tcp 127.0.0.1:8080 --ignore-sigint --fork 1");
    let mut daemon = start(&lab, &text, json!({"options": {"stop_grace": "2s"}}));
    warm(&daemon, "b");
    let took = drain(&lab, &daemon);
    assert!((2 * SECOND..4 * SECOND).contains(&took), "{took:?}");
    warm(&daemon, "b");
    assert_eq!(daemon.terminate().code(), Some(0));
    assert_nothing_left(&lab, &daemon);
}

#[test]
fn command_that_obeys_sigint_stops_early() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let text = backend_command("--tcp 127.0.0.1:8080 --fork 3");
    let daemon = start(&lab, &text, json!({"options": {"stop_grace": "9s"}}));
    warm(&daemon, "b");
    assert!(get(&lab).contains("backend"));
    let took = drain(&lab, &daemon);
    assert!(took < 4 * SECOND, "{took:?}");
}

#[test]
fn all_processes_of_a_command_end_with_it() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let daemonized = backend_command("--tcp 127.0.0.1:8080 --daemonize");
    for text in [
        backend_command("--tcp 127.0.0.1:8080 --fork 5 --stray --ignore-sigint"),
        format!("({daemonized}) & exec sleep 1000"),
    ] {
        let mut daemon = start(&lab, &text, json!({}));
        warm(&daemon, "b");
        assert!(get(&lab).contains("backend"));
        assert!(processes(&lab).len() >= 3);
        drain(&lab, &daemon);
        // The same after the command has died on its own.
        warm(&daemon, "b");
        let children = format!("pkill -KILL -P {}", daemon.pid());
        lab.gateway.sh(&children);
        assert!(last_error(&daemon).contains("killed by signal 9"));
        daemon.await_target("b", "inactive", SOON);
        assert_eq!(processes(&lab).len(), 1, "{:?}", processes(&lab));
        assert!(daemon.terminate().success());
    }
}

#[test]
fn command_in_the_background_counts_as_ended() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let daemon = start(&lab, &backend_command("--tcp 127.0.0.1:8080 --delay 1 --daemonize"), json!({}));
    assert_eq!(get(&lab), PAGE);
    let error = last_error(&daemon);
    assert!(error.contains("status 0") && error.contains("foreground"), "{error}");
    eventually("nothing of it is left", SOON, || processes(&lab).len() == 1);
}

#[test]
fn command_that_never_listens_misses_its_deadline() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    // The third start listens.
    let folder = crate::support::Temporary::new();
    let tries = folder.path().join("tries");
    let text = format!(
        "echo x >> {0}; [ $(wc -l < {0}) -ge 3 ] || exec sleep 1000; {1}",
        tries.display(),
        backend_command("--tcp 127.0.0.1:8080")
    );
    let daemon = start(&lab, &text, json!({"readiness": {"deadline": "1s"}}));
    assert_eq!(get(&lab), PAGE);
    let began = Instant::now();
    last_error(&daemon);
    assert!(began.elapsed() < 4 * SECOND, "{:?}", began.elapsed());
    daemon.await_target("b", "inactive", SOON);
    // The missing part is reported after the command has been stopped.
    let error = last_error(&daemon);
    assert_eq!(error, "not ready within 1s: endpoint e (tcp 127.0.0.1:8080): no socket is bound to it");
    assert_eq!(processes(&lab).len(), 1, "{:?}", processes(&lab));
    // A wake during the backoff is remembered.
    assert_eq!(get(&lab), PAGE);
    eventually("it is tried again", SOON, || daemon.target("b")["state"] == "warming");
    eventually("it has failed again", SOON, || daemon.target("b")["state"] == "inactive");
    assert_eq!(get(&lab), PAGE);
    daemon.await_target("b", "active", SOON);
    assert_eq!(daemon.target("b")["last_error"], Value::Null);
    assert!(get(&lab).contains("backend"));
}

#[test]
fn failing_command_shows_its_status_and_backs_off() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let daemon = start(&lab, "echo 'no such thing as a config' >&2; exit 3", json!({}));
    assert_eq!(get(&lab), PAGE);
    let error = last_error(&daemon);
    assert!(error.contains("status 3") && error.contains("no such thing as a config"), "{error}");
    // A client that keeps trying causes few starts: the backoff is 0.5 s, 1 s, 2 s.
    let until = Instant::now() + 3 * SECOND;
    while Instant::now() < until {
        assert_eq!(get(&lab), PAGE);
    }
    let starts = daemon.log().matches("target b: warming").count();
    assert!((2..=4).contains(&starts), "{starts}\n{}", daemon.log());
}

#[test]
fn missing_command_is_named() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let daemon = start(&lab, "exec /no/such/program --really", json!({}));
    assert_eq!(get(&lab), PAGE);
    let error = last_error(&daemon);
    assert!(error.contains("127") && error.contains("/no/such/program"), "{error}");
}

#[test]
fn output_is_logged_by_line_with_the_target_name() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let text = format!("echo first; printf 'sec'; printf 'ond\\n' >&2; {}", backend_command("--tcp 127.0.0.1:8080"));
    let mut daemon = start(&lab, &text, json!({}));
    warm(&daemon, "b");
    for line in ["target b: | first", "target b: | second", "target b: | backend backend: listening"] {
        daemon.process().await_line(line, SOON);
    }
}

#[test]
fn flood_of_output_is_bounded() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    // Endless lines, and one endless line.
    for text in ["--tcp 127.0.0.1:8080 --flood 0", "--tcp 127.0.0.1:8080; tr '\\0' x < /dev/zero"] {
        let text = match text.split_once(';') {
            Some((options, rest)) => {
                format!("({}) &{rest}", backend_command(options))
            }
            None => backend_command(text),
        };
        let mut daemon = start(&lab, &text, json!({}));
        let before = memory(&daemon);
        warm(&daemon, "b");
        let began = Instant::now();
        let lines = daemon.process().lines();
        while began.elapsed() < 4 * SECOND {
            assert_answers(&daemon);
            assert!(get(&lab).contains("backend"));
        }
        // Most of these are the tests' own requests.
        let lines = daemon.process().lines() - lines;
        assert!(lines < 500 + 4 * 300, "{lines} lines");
        assert!(memory(&daemon) < before + 16 * 1024, "{before} KiB before, {} KiB now", memory(&daemon));
        drain(&lab, &daemon);
        daemon.signal(Signal::TERM);
        assert!(daemon.process().wait(SOON).success());
    }
}

#[test]
fn command_may_run_in_another_network_namespace() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let backend = backend_command("--tcp [2001:db8:2::2]:8080 --fork 1 --stray").replacen("exec ", "", 1);
    let text = format!("exec nsenter --net=/run/netns/{} {backend}", lab.backend.name());
    let target = command("b", &["e=tcp/[2001:db8:2::2]:8080"], &text);
    let mut daemon = Daemon::start(&lab, &config(&[target], &[page("f", "[::]:80", "b:e")]));
    let get = || lab.client().run(|| http_get((GATEWAY_V6, 80).into(), "/")).expect("an answer").1;
    let remote = || lab.backend.processes().len();
    assert_eq!(get(), PAGE);
    daemon.await_target("b", "active", SOON);
    assert!(get().contains("[2001:db8:1::2]:"), "the client's own address");
    eventually("the child and the stray have settled", SOON, || remote() == 3);
    daemon.request(10, json!({"name": "b"}));
    daemon.await_target("b", "inactive", SOON);
    assert_eq!(remote(), 0, "{:?}", lab.backend.processes());
    warm(&daemon, "b");
    daemon.kill9();
    daemon.restart();
    assert_eq!(remote(), 0, "{:?}", lab.backend.processes());
    assert_eq!(get(), PAGE);
    daemon.await_target("b", "active", SOON);
    assert!(daemon.terminate().success());
    assert_eq!(remote(), 0, "{:?}", lab.backend.processes());
}
