//! The log when its output takes nothing, has no reader, or comes and goes: the daemon never waits for it.

mod support;

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::process::Signal;
use serde_json::json;
use support::setup::{SECOND, always, command, config, external};
use support::{
    Daemon, DaemonOptions, GATEWAY_V4, Lab, Temporary, backend_command, binary, eventually, http_get,
    require_namespaces,
};

/// Makes a FIFO.
fn fifo(folder: &Temporary, name: &str) -> PathBuf {
    let path = folder.path().join(name);
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, Mode::from_raw_mode(0o600)).expect("a FIFO");
    path
}

/// Opens a FIFO for both, so that there is a reader, which reads only on request.
fn hold_open(path: &Path) -> File {
    let nonblock = OFlags::NONBLOCK.bits() as i32;
    OpenOptions::new().read(true).write(true).custom_flags(nonblock).open(path).expect("a FIFO")
}

/// Fills a FIFO until it takes not a byte more.
fn fill(mut fifo: &File) {
    // `write_all` ends with what fits; a single byte shows that none fits any more.
    for part in [&[b'\n'; 4096][..], b"\n"] {
        let error = loop {
            if let Err(error) = fifo.write_all(part) {
                break error;
            }
        };
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
    }
}

/// Reads what is there, until nothing has come for a while.
fn drain(fifo: &mut File) -> String {
    let mut all = Vec::new();
    let mut last = Instant::now();
    let mut part = [0; 65536];
    while last.elapsed() < Duration::from_millis(500) {
        match fifo.read(&mut part) {
            Ok(length) => {
                all.extend_from_slice(&part[..length]);
                last = Instant::now();
            }
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
    String::from_utf8(all).expect("UTF-8")
}

/// A program that runs the daemon with its standard error in a file or FIFO.
fn with_stderr(folder: &Temporary, to: &Path) -> PathBuf {
    let script = format!("#!/bin/sh\nexec {} \"$@\" 2>>{}\n", binary("proxygw").display(), to.display());
    let path = folder.write("proxygw.sh", &script);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("its permissions");
    path
}

fn gateway(port: u16) -> SocketAddr {
    (GATEWAY_V4, port).into()
}

/// A target that a client of port 80 wakes, and one whose command prints 500 lines of 1,000 bytes at once, twice what the
/// queue takes, and then makes the file `printed`.
fn two_targets(printed: &Path) -> String {
    let serve = backend_command("--tcp 127.0.0.1:8080");
    let print =
        format!("head -c 499500 /dev/zero | tr '\\000' x | fold -w 999; touch {}; exec sleep 1000", printed.display());
    let frontend = json!({"name": "f", "kind": "packet:hold", "protocol": "tcp", "listen": "0.0.0.0:80",
        "flow_timeout": "1m", "target": "b:http"});
    let noisy = always("n", "tcp/0.0.0.0:81", "noisy:t");
    let mut talker = command("noisy", &["t=tcp/127.0.0.1:9"], &print);
    talker["readiness"] = json!({"probe": "none"});
    config(&[command("b", &["http=tcp/127.0.0.1:8080"], &serve), talker], &[frontend, noisy])
}

#[test]
fn a_full_pipe_that_no_process_reads_stops_nothing() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let folder = Temporary::new();
    let path = fifo(&folder, "stderr");
    let mut pipe = hold_open(&path);
    fill(&pipe);
    let options = DaemonOptions { program: Some(with_stderr(&folder, &path)), ..DaemonOptions::default() };
    let printed = folder.path().join("printed");
    let mut daemon = Daemon::start_with(&lab, &two_targets(&printed), options.clone());
    assert_eq!(lab.client().run(|| http_get(gateway(80), "/")).expect("it is served").0, 200);
    eventually("everything is printed", 10 * SECOND, || printed.exists());
    daemon.signal(Signal::HUP);
    assert_eq!(daemon.target("b")["state"], "active");
    let threads = std::fs::read_dir(format!("/proc/{}/task", daemon.pid())).expect("it runs").count();
    assert!(threads < 12, "{threads}");
    let began = Instant::now();
    assert!(daemon.terminate().success());
    assert!(began.elapsed() < 4 * SECOND, "{:?}", began.elapsed());
    // Nothing has come through, and nothing has gone wrong.
    assert_eq!(drain(&mut pipe).trim(), "");

    // The same with a reader that comes back: what was dropped is counted, and the last lines are there.
    fill(&pipe);
    std::fs::remove_file(&printed).expect("a file");
    let mut daemon = Daemon::start_with(&lab, &two_targets(&printed), options);
    eventually("everything is printed", 10 * SECOND, || printed.exists());
    let log = drain(&mut pipe);
    assert!(log.contains("ready after") && log.contains("log lines dropped: the output was blocked"), "{}", log.len());
    assert!(daemon.terminate().success());
    let log = drain(&mut pipe);
    assert!(log.trim_end().ends_with("ended"), "{log}");
}

#[test]
fn a_second_signal_ends_the_daemon_though_its_log_is_stuck() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let folder = Temporary::new();
    let path = fifo(&folder, "stderr");
    let pipe = hold_open(&path);
    fill(&pipe);
    let options = DaemonOptions { program: Some(with_stderr(&folder, &path)), ..DaemonOptions::default() };
    let mut stubborn = command("s", &["t=tcp/127.0.0.1:9"], "trap : INT TERM; while :; do sleep 0.1; done");
    stubborn["readiness"] = json!({"probe": "none"});
    stubborn["options"]["stop_grace"] = json!("1m");
    let mut daemon = Daemon::start_with(&lab, &config(&[stubborn], &[always("f", "tcp/0.0.0.0:80", "s:t")]), options);
    daemon.await_target("s", "active", 10 * SECOND);
    daemon.signal(Signal::TERM);
    eventually("it ends", 10 * SECOND, || daemon.status()["closed"] == true);
    let began = Instant::now();
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.process().wait(10 * SECOND).code(), Some(1));
    assert!(began.elapsed() < 3 * SECOND, "{:?}", began.elapsed());
}

#[test]
fn a_fifo_without_a_reader_delays_no_start_and_loses_nothing() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let folder = Temporary::new();
    let path = fifo(&folder, "log");
    let configuration = config(&[external("t", &["t=tcp/127.0.0.1:9"])], &[always("f", "tcp/0.0.0.0:80", "t:t")]);
    let options = DaemonOptions { output: path.display().to_string(), ..DaemonOptions::default() };
    let mut daemon = Daemon::start_with(&lab, &configuration, options);
    daemon.process().await_line("log output: no reader yet", 5 * SECOND);
    // The reader finds all lines, and so does the next one.
    read_until(&open_reader(&path), "ready after");
    daemon.request(10, json!({"name": "t"}));
    let reader = open_reader(&path);
    read_until(&reader, "target t: ");
    assert!(daemon.terminate().success());
    read_until(&reader, "ended");
}

/// Whether the thread of this name waits for something.
fn sleeps(pid: i32, name: &str) -> bool {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it runs").flatten();
    let stat = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("stat")).ok());
    stat.into_iter().any(|stat| stat.contains(&format!("({name}) S ")))
}

/// Opens a FIFO for reading alone, without waiting for a writer.
fn open_reader(path: &Path) -> File {
    let nonblock = OFlags::NONBLOCK.bits() as i32;
    OpenOptions::new().read(true).custom_flags(nonblock).open(path).expect("a FIFO")
}

/// Reads until a text has come.
fn read_until(mut fifo: &File, text: &str) {
    let mut all = Vec::new();
    eventually(text, 10 * SECOND, || {
        let mut part = [0; 4096];
        if let Ok(length) = fifo.read(&mut part) {
            all.extend_from_slice(&part[..length]);
        }
        String::from_utf8_lossy(&all).contains(text)
    });
}

#[test]
fn lines_that_a_full_disk_refuses_are_counted() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let folder = Temporary::new();
    // A name that leads to a full device first, and to a file after logrotate's signal.
    let log = folder.path().join("log");
    std::os::unix::fs::symlink("/dev/full", &log).expect("a link");
    let configuration = config(&[external("t", &["t=tcp/127.0.0.1:9"])], &[always("f", "tcp/0.0.0.0:80", "t:t")]);
    let options = DaemonOptions { output: log.display().to_string(), ..DaemonOptions::default() };
    let mut daemon = Daemon::start_with(&lab, &configuration, options);
    eventually("the lines of the start are lost", 5 * SECOND, || sleeps(daemon.pid(), "log"));
    std::fs::remove_file(&log).expect("a link");
    daemon.signal(Signal::HUP);
    eventually("the file is there", 5 * SECOND, || log.exists());
    assert!(daemon.terminate().success());
    let text = std::fs::read_to_string(&log).expect("UTF-8");
    assert!(text.contains("log lines dropped") && text.contains("ended"), "{text}");
}

#[test]
fn a_failure_at_the_start_is_in_the_log_and_on_standard_error() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let folder = Temporary::new();
    let log = folder.path().join("log");
    let configuration = config(&[external("t", &["t=tcp/127.0.0.1:9"])], &[always("f", "tcp/0.0.0.0:80", "t:t")]);
    let _first = Daemon::start(&lab, &configuration);
    let options = DaemonOptions { output: log.display().to_string(), ..DaemonOptions::default() };
    let mut second = Daemon::spawn(&lab.gateway, &configuration, options);
    assert_eq!(second.process().wait(10 * SECOND).code(), Some(1));
    let text = std::fs::read_to_string(&log).expect("UTF-8");
    for text in [text, second.log()] {
        assert!(text.contains("another proxygw runs in this network namespace"), "{text}");
    }
}
