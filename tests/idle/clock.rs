//! Somebody sets the clock. It is the machine's, so only the daemon sees it change: by a library that is loaded before its own.

use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::moments::{LATE, assert_on_time, draining, held, serve, served};
use crate::support::setup::{SECOND, SOON, at, config, holds};
use crate::support::{Client, Daemon, DaemonOptions, Lab, Temporary, require_namespaces};

/// `clock_gettime` with the seconds that a file holds added to the wall's clock.
const SHIM: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *at) {
    int (*real)(clockid_t, struct timespec *) = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, at);
    const char *path = getenv("CLOCK_OFFSET");
    if (clock != CLOCK_REALTIME || result != 0 || !path) return result;
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return result;
    char text[32] = {0};
    if (read(file, text, sizeof text - 1) > 0) at->tv_sec += atol(text);
    close(file);
    return result;
}
"#;

const DAY: i64 = 24 * 60 * 60;

/// The wall's clock as the daemon sees it.
fn shifted(offset: i64) -> SystemTime {
    let by = Duration::from_secs(offset.unsigned_abs());
    if offset < 0 { SystemTime::now() - by } else { SystemTime::now() + by }
}

#[test]
fn setting_the_clock_drains_nothing_early_or_late() {
    if !require_namespaces() {
        return;
    }
    let folder = Temporary::new();
    let (source, library) = (folder.write("clock.c", SHIM), folder.path().join("clock.so"));
    let built =
        Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).arg("-ldl").status();
    assert!(built.expect("cc").success());
    let set = |offset: i64| {
        let new = folder.write("new", &offset.to_string());
        std::fs::rename(new, folder.path().join("offset")).expect("the same folder");
    };
    set(0);
    let lab = Lab::new();
    let _backend = serve(&lab, &[81]);
    let environment = vec![("LD_PRELOAD", library.into()), ("CLOCK_OFFSET", folder.path().join("offset").into())];
    let options = DaemonOptions { environment, ..DaemonOptions::default() };
    let config = config(&[served("b", 81, "1s")], &[held(81, "b:t", "60s")]);
    let mut daemon = Daemon::start_with(&lab, &config, options);

    for [in_use, idle] in [[DAY, -DAY], [-DAY, DAY]] {
        let lines = daemon.process().lines();
        let mut client = Client::connect(lab.client(), at("198.51.100.1:81"));
        daemon.process().await_line_after(lines, "target b: active", SOON);
        let active = SystemTime::now();
        set(in_use);
        let drains = |daemon: &Daemon| daemon.log().lines().skip(lines).any(|line| line.contains(&draining("b")));
        holds("it is in use", 3 * SECOND / 2, || {
            client.ask();
            !drains(&daemon)
        });
        let since =
            daemon.target("b")["since"].as_str().map(humantime::parse_rfc3339).expect("a text").expect("a time");
        let (apart, elapsed) = (shifted(in_use).duration_since(since), active.elapsed().expect("ours stays"));
        let apart = apart.unwrap_or_default().as_secs_f64() - elapsed.as_secs_f64();
        assert!(apart.abs() < 1.0, "since {since:?}: {apart} s\n{}", daemon.log());
        let before = SystemTime::now();
        drop(client);
        let after = SystemTime::now();
        holds("its idle time runs", 2 * SECOND / 5, || !drains(&daemon));
        set(idle);
        // What its log says of the time is no use here.
        daemon.process().await_line_after(lines, &draining("b"), SOON);
        let drain = SystemTime::now();
        assert_on_time("b", drain, (before + SECOND, after + SECOND), LATE, &daemon.log());
        daemon.process().await_line_after(lines, "target b: inactive", SOON);
        set(0);
    }
}
