//! Clients that use up the descriptors: the daemon keeps what it needs itself.

use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use crate::setup::{PAGE, SOON, active, assert_nothing_left, command, config, ctl, holds, page};
use crate::support::{
    Daemon, DaemonOptions, GATEWAY_V4, Lab, Temporary, backend_command, binary, eventually, http_get,
    require_namespaces,
};

/// Lowers the soft limit of a running daemon.
fn limit_files(daemon: &Daemon, files: u64) {
    let pid = Pid::from_raw(daemon.pid()).expect("a process");
    // The daemon has inherited it from here.
    let limit = Rlimit { current: Some(files), maximum: getrlimit(Resource::Nofile).maximum };
    prlimit(Some(pid), Resource::Nofile, limit).expect("a lower limit");
}

fn open_files(daemon: &Daemon) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).expect("a process").count()
}

fn count(daemon: &Daemon, text: &str) -> usize {
    daemon.log().lines().filter(|line| line.contains(text)).count()
}

/// Connects and sends nothing.
fn crowd(lab: &Lab, port: u16, count: usize) -> Vec<TcpStream> {
    let connect = || TcpStream::connect_timeout(&(GATEWAY_V4, port).into(), SOON).expect("it listens");
    lab.client().run(|| (0..count).map(|_| connect()).collect())
}

#[test]
fn the_daemon_works_when_clients_use_all_other_descriptors() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let target = |name, port| {
        let at = format!("127.0.0.1:{port}");
        command(name, &[&format!("e=tcp/{at}")], &backend_command(&format!("--tcp {at} --fork 2")))
    };
    let targets = [target("a", 8080), target("b", 8081)];
    let frontends = [page("f", "0.0.0.0:80", "a:e"), page("g", "0.0.0.0:81", "b:e")];
    let mut daemon = Daemon::start(&lab, &config(&targets, &frontends));
    let before = open_files(&daemon);
    let files = before + 72;
    let pid = Pid::from_raw(daemon.pid()).expect("a process");
    let limit = Some(files as u64);
    prlimit(Some(pid), Resource::Nofile, Rlimit { current: limit, maximum: limit }).expect("a lower limit");

    // Idle connections end after ten seconds, so this is done again before each step.
    let mut kept = Vec::new();
    let mut fill = || {
        let control: Vec<_> = (0..100).map(|_| UnixStream::connect(daemon.socket()).expect("it listens")).collect();
        kept.push((control, [crowd(&lab, 80, 150), crowd(&lab, 81, 150)]));
        // 34 are for the daemon's own work, two targets and two frontends, 12 for control clients.
        eventually("they use what they may", SOON, || open_files(&daemon) + 34 + 12 + 2 >= files);
    };
    let get = |port| lab.client().run(move || http_get((GATEWAY_V4, port).into(), "/")).expect("an answer").1;
    for (name, port) in [("a", 80), ("b", 81)] {
        fill();
        assert_eq!(get(port), PAGE);
        daemon.await_target(name, "active", SOON);
        assert!(get(port).contains("198.51.100.2"));
    }
    fill();
    assert!(ctl(&daemon, &["drain", "a"]).status.success());
    daemon.await_target("a", "inactive", SOON);
    assert!(!active(&lab.gateway).contains("frontend-0"));
    fill();
    for listener in ["ctl", "static:http on 0.0.0.0:80", "static:http on 0.0.0.0:81"] {
        let logged = count(&daemon, &format!("{listener}: cannot accept"));
        assert!(logged <= 1, "{logged} times: {}", daemon.log());
    }
    assert!(count(&daemon, "cannot accept") >= 1, "{}", daemon.log());
    assert_eq!(daemon.terminate().code(), Some(0), "{}", daemon.log());
    assert_nothing_left(&lab, &daemon);
    drop(kept);
}

#[test]
fn a_shortage_is_logged_once_and_passes() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let target = command("b", &["e=tcp/127.0.0.1:8080"], &backend_command("--tcp 127.0.0.1:8080"));
    let daemon = Daemon::start(&lab, &config(&[target], &[page("f", "0.0.0.0:80", "b:e")]));
    // Not one is left: accept(2) itself fails.
    limit_files(&daemon, 3);
    let control = UnixStream::connect(daemon.socket()).expect("it listens");
    let clients = crowd(&lab, 80, 50);
    eventually("it is short of descriptors", SOON, || count(&daemon, "cannot accept") == 2);
    // More than one retry of either.
    holds("a shortage is logged once", Duration::from_millis(2500), || count(&daemon, "cannot accept") == 2);
    limit_files(&daemon, 1024);
    daemon.await_target("b", "inactive", SOON);
    assert_eq!(lab.client().run(|| http_get((GATEWAY_V4, 80).into(), "/")).expect("an answer").1, PAGE);
    daemon.await_target("b", "active", SOON);
    drop((control, clients));
}

#[test]
fn a_limit_that_is_too_low_is_reported_at_the_start() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let target = command("b", &["e=tcp/127.0.0.1:8080"], &backend_command("--tcp 127.0.0.1:8080"));
    let text = config(&[target], &[page("f", "0.0.0.0:80", "b:e")]);
    for (files, expected) in [(48, true), (4096, false)] {
        let folder = Temporary::new();
        let script = format!("#!/bin/sh\nulimit -n {files}\nexec {} \"$@\"\n", binary("proxygw").display());
        let program = folder.write("limited", &script);
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).expect("the script is ours");
        let options = DaemonOptions { program: Some(program), ..DaemonOptions::default() };
        let mut daemon = Daemon::start_with(&lab, &text, options);
        assert_eq!(daemon.log().contains("limit of open files: 48 is less than the 65"), expected, "{}", daemon.log());
        daemon.terminate();
    }
}
