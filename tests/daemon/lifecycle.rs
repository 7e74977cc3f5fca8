//! Starting, living and ending: of targets, and of the daemon itself.

use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::setup::{
    PAGE, SECOND, SOON, active, always, assert_answers, assert_nothing_left, command, config, holds, page, processes,
    warm, with,
};
use crate::support::{
    Daemon, DaemonOptions, GATEWAY_V4, Lab, backend_command, eventually, http_get, nft_ruleset, require_namespaces,
};

fn get(lab: &Lab, port: u16) -> String {
    lab.client().run(|| http_get((GATEWAY_V4, port).into(), "/")).expect("an answer").1
}

/// The process id that the backend's answer names.
#[track_caller]
fn backend_pid(lab: &Lab) -> Pid {
    let answer: Value = serde_json::from_str(&get(lab, 80)).expect("the backend's answer");
    answer["pid"].as_i64().and_then(|pid| Pid::from_raw(pid as i32)).expect("a process id")
}

/// One command behind a page on port 80.
fn one(options: &str) -> String {
    let backend = backend_command(&format!("--tcp 127.0.0.1:8080 {options}"));
    config(&[command("b", &["e=tcp/127.0.0.1:8080"], &backend)], &[page("f", "0.0.0.0:80", "b:e")])
}

#[test]
fn a_backend_that_dies_is_noticed_at_once_and_started_again_by_the_next_wake() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let daemon = Daemon::start(&lab, &one(""));
    warm(&daemon, "b");
    let first = backend_pid(&lab);
    assert_ne!(active(&lab.gateway), "");
    kill_process(first, Signal::KILL).expect("it runs");
    let took = daemon.await_target("b", "inactive", SOON);
    assert!(took < 3 * SECOND, "{took:?}");
    assert_eq!(active(&lab.gateway), "");
    let error = daemon.target("b")["last_error"].clone();
    assert!(error.as_str().is_some_and(|error| error.contains("killed by signal 9")), "{error}");
    assert_eq!(get(&lab, 80), PAGE, "the next client is not refused");
    daemon.await_target("b", "active", SOON);
    assert_ne!(backend_pid(&lab), first);
    assert_eq!(daemon.target("b")["last_error"], Value::Null);
}

#[test]
fn an_always_frontend_starts_a_backend_that_died_again_by_itself() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let target = command("b", &["e=tcp/127.0.0.1:8080"], &backend_command("--tcp 127.0.0.1:8080"));
    let daemon = Daemon::start(&lab, &config(&[target], &[always("f", "tcp/0.0.0.0:80", "b:e")]));
    daemon.await_target("b", "active", SOON);
    let first = backend_pid(&lab);
    kill_process(first, Signal::KILL).expect("it runs");
    eventually("it is warmed again", SOON, || daemon.log().matches("target b: warming").count() == 2);
    // A client that comes meanwhile waits, and is not refused.
    assert_ne!(backend_pid(&lab), first);
    // Its idle time does not matter while the frontend runs.
    daemon.request(10, json!({"name": "b"}));
    eventually("it has been started again", SOON, || daemon.log().matches("target b: active").count() >= 3);
}

#[test]
fn after_kill_9_the_next_start_has_removed_every_process_and_works() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let tcp = "--tcp 127.0.0.1:8080";
    let commands = [
        backend_command(&format!("{tcp} --fork 2 --stray --ignore-sigint --ignore-sigterm")),
        // The first process goes; what remains has left the group and the session.
        format!("({}) & sleep 1000", backend_command("--tcp 127.0.0.1:8081 --daemonize --ignore-sigint")),
    ];
    let targets =
        [command("b", &["e=tcp/127.0.0.1:8080"], &commands[0]), command("c", &["e=tcp/127.0.0.1:8081"], &commands[1])];
    let frontends = [page("f", "0.0.0.0:80", "b:e"), page("g", "0.0.0.0:81", "c:e")];
    let mut daemon = Daemon::start(&lab, &config(&targets, &frontends));
    warm(&daemon, "b");
    warm(&daemon, "c");
    let mut old: Vec<i32> = lab.gateway.processes().into_iter().map(|(pid, _)| pid).collect();
    assert!(old.len() >= 7, "{:?}", processes(&lab));
    daemon.kill9();
    old.retain(|pid| *pid != daemon.pid());
    assert_ne!(active(&lab.gateway), "", "a crash leaves the rules");
    daemon.restart();
    let left: Vec<String> = processes(&lab);
    assert!(
        !left.iter().any(|line| old.iter().any(|pid| line.starts_with(&format!("{pid} ")))),
        "{left:?}\n{}",
        daemon.log()
    );
    assert_eq!(active(&lab.gateway), "", "the table has been replaced");
    assert_eq!(get(&lab, 80), PAGE);
    daemon.await_target("b", "active", SOON);
    assert!(get(&lab, 80).contains("backend"));
    assert_eq!(daemon.terminate().code(), Some(0), "{}", daemon.log());
    assert_nothing_left(&lab, &daemon);
}

#[test]
fn sigterm_and_sigint_leave_nothing() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let mut daemon = Daemon::start(&lab, &one("--fork 2 --stray"));
    for signal in [Signal::TERM, Signal::INT] {
        warm(&daemon, "b");
        assert!(processes(&lab).len() >= 5 && nft_ruleset(&lab.gateway).is_some());
        daemon.signal(signal);
        assert_eq!(daemon.process().wait(SOON).code(), Some(0), "{}", daemon.log());
        assert_nothing_left(&lab, &daemon);
        daemon.restart();
    }
    // While a target is warming, too.
    daemon.terminate();
    let mut daemon = Daemon::start(&lab, &one("--never-listen"));
    daemon.request(8, json!({"name": "b"}));
    daemon.await_target("b", "warming", SOON);
    assert_eq!(daemon.terminate().code(), Some(0), "{}", daemon.log());
    assert_nothing_left(&lab, &daemon);
}

#[test]
fn a_second_sigterm_ends_at_once_and_leaves_nothing() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let backend = backend_command("--tcp 127.0.0.1:8080 --ignore-sigint --ignore-sigterm --fork 1 --stray");
    let target = with(command("b", &["e=tcp/127.0.0.1:8080"], &backend), json!({"options": {"stop_grace": "60s"}}));
    let mut daemon = Daemon::start(&lab, &config(&[target], &[page("f", "0.0.0.0:80", "b:e")]));
    warm(&daemon, "b");
    daemon.signal(Signal::TERM);
    daemon.process().await_line("shutting down", SOON);
    holds("it waits for the command", SECOND, || daemon.process().try_wait().is_none());
    let second = Instant::now();
    daemon.signal(Signal::TERM);
    daemon.process().wait(SOON);
    assert!(second.elapsed() < 3 * SECOND, "{:?}", second.elapsed());
    assert_nothing_left(&lab, &daemon);
}

#[test]
fn a_second_daemon_in_the_namespace_fails_and_leaves_the_first_alone() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let daemon = Daemon::start(&lab, &one(""));
    warm(&daemon, "b");
    let rules = nft_ruleset(&lab.gateway);
    let backend = backend_pid(&lab);
    let mut second = Daemon::spawn(&lab.gateway, &one(""), DaemonOptions::default());
    assert_eq!(second.process().wait(SOON).code(), Some(1));
    second.process().await_line("another proxygw runs in this network namespace", SOON);
    assert_eq!(nft_ruleset(&lab.gateway), rules);
    assert_eq!(backend_pid(&lab), backend);
    assert_answers(&daemon);
}

/// The same configuration as the daemon's, started in another namespace of the lab.
fn elsewhere(lab: &Lab, daemon: &Daemon) -> std::process::Output {
    let mut command: Command = lab.client().command(crate::support::binary("proxygw"));
    command.arg("--config").arg(daemon.config()).stdin(Stdio::null()).output().expect("proxygw")
}

#[test]
fn a_control_socket_is_replaced_only_if_nobody_listens_there() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let mut daemon = Daemon::start(&lab, &one(""));
    let output = elsewhere(&lab, &daemon);
    let words = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{words}");
    assert!(words.contains("another program listens there") && words.contains("proxygw.sock"), "{words}");
    assert_answers(&daemon);
    daemon.kill9();
    assert!(daemon.socket().exists(), "kill -9 leaves it");
    daemon.restart();
    assert_answers(&daemon);
    daemon.terminate();

    // What is not a socket is refused, and left alone.
    std::fs::write(daemon.socket(), "precious").expect("a file");
    let output = elsewhere(&lab, &daemon);
    let words = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{words}");
    assert!(words.contains("not a socket"), "{words}");
    assert_eq!(std::fs::read_to_string(daemon.socket()).expect("it is there"), "precious");
    assert_eq!(nft_ruleset(lab.client()), None);

    // The socket of somebody else, who took the path meanwhile, survives our end.
    std::fs::remove_file(daemon.socket()).expect("it is there");
    daemon.restart();
    std::fs::remove_file(daemon.socket()).expect("it is there");
    let _other = UnixListener::bind(daemon.socket()).expect("a socket");
    assert_eq!(daemon.terminate().code(), Some(0));
    assert!(daemon.socket().exists());
}

#[test]
fn a_thousand_wakes_at_once_are_one_warm() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let mut daemon = Daemon::start(&lab, &one("--delay 1"));
    lab.client().run(|| {
        std::thread::scope(|scope| {
            for _ in 0..20 {
                scope.spawn(|| {
                    // What is not answered by the page, since the backend is there already, is as good.
                    (0..50).for_each(|_| drop(http_get((GATEWAY_V4, 80).into(), "/").expect("an answer")));
                });
            }
        });
    });
    daemon.process().await_line("target b: active after", SOON);
    daemon.process().await_line("started pid", SOON);
    let log = daemon.log();
    assert_eq!(log.matches("target b: warming").count(), 1, "{log}");
    assert_eq!(log.matches("target b: active after").count(), 1, "{log}");
    assert_eq!(log.matches("started pid").count(), 1, "{log}");
}

/// How often the daemon's threads have been run, so far.
fn context_switches(daemon: &Daemon) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", daemon.pid())).expect("it runs");
    let count = |status: String| -> u64 {
        let lines = status.lines().filter(|line| line.contains("ctxt_switches"));
        lines.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).sum()
    };
    tasks.flatten().filter_map(|task| std::fs::read_to_string(task.path().join("status")).ok()).map(count).sum()
}

#[test]
fn an_idle_daemon_makes_no_wake_ups() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let daemon = Daemon::start(&lab, &one(""));
    assert_still(&daemon, "before any wake");
    warm(&daemon, "b");
    daemon.request(10, json!({"name": "b"}));
    daemon.await_target("b", "inactive", SOON);
    assert_still(&daemon, "after a drain");
    // An active target is looked at once in its idle time (5 minutes) at most.
    warm(&daemon, "b");
    assert_still(&daemon, "while a target is active");
}

/// No thread of the daemon runs for three seconds.
#[track_caller]
fn assert_still(daemon: &Daemon, when: &str) {
    let mut before = context_switches(daemon);
    let mut since = Instant::now();
    // What the last request has set off may take a moment to end.
    eventually(&format!("no wake-ups for three seconds {when}"), Duration::from_secs(10), || {
        let now = context_switches(daemon);
        if now != before {
            (before, since) = (now, Instant::now());
        }
        since.elapsed() >= 3 * SECOND
    });
}
