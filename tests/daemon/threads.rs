//! Threads that the daemon cannot live without: one that dies ends the daemon in order.
//!
//! The daemon has no way to kill a thread of its own, so each test runs itself again, as a child in the gateway's namespace:
//! with the guard of such threads alone, or as a whole daemon with a plugin that panics on the engine's thread.

use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use proxygw::config::{Section, TargetSpec};
use proxygw::plugin::{Error, Namespace, Plugin, Registry, Target, TargetContext};
use proxygw::system::processes::{Mark, VARIABLE};
use proxygw::vital;
use serde_json::json;

use crate::setup::{SECOND, SOON, always, config, external, with};
use crate::support::{Lab, Process, Temporary, eventually, nft_ruleset, require_namespaces};

/// Set in a child, to what it works with.
const CHILD: &str = "PROXYGW_TEST_CHILD";

/// Starts this program again in the gateway, with one test only.
fn child(lab: &Lab, test: &str, input: &str) -> Process {
    let mut command = lab.gateway.command(std::env::current_exe().expect("a test program"));
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]).env(CHILD, input);
    command.env("PATH", lab.gateway.path_of_programs());
    Process::start(command)
}

/// Waits for the end after the line that reports the panic; returns its exit status and how long it took.
#[track_caller]
fn await_end(process: &mut Process) -> (ExitStatus, Duration) {
    process.await_line("about to die", SOON);
    let began = Instant::now();
    let status = process.wait(SOON);
    (status, began.elapsed())
}

/// A command of a daemon: its first process, and two that have left its process group.
fn start_command(mark: &Mark) -> Child {
    Command::new("/bin/sh")
        .args(["-c", "setsid sleep 1000 & setsid sleep 1000 & exec sleep 1000"])
        .env(VARIABLE, mark.of_run(1).text())
        .stdin(Stdio::null())
        .spawn()
        .expect("a command")
}

/// Whether this process is a child, and what it works with.
fn input() -> Option<String> {
    std::env::var(CHILD).ok()
}

/// A daemon whose engine thread ends while its main thread waits for something else for good.
fn run_thread(thread: fn()) {
    let mark = Mark::of_namespace().expect("a namespace");
    let mut command = start_command(&mark);
    eventually("the commands run", SOON, || {
        proxygw::system::processes::find(&mark, None).is_ok_and(|all| all.len() == 3)
    });
    vital::spawn("engine", move || {
        println!("about to die");
        std::io::stdout().flush().expect("printed");
        thread();
    })
    .expect("a thread")
    .join()
    .expect("the process ends before");
    println!("still alive");
    command.kill().and_then(|()| command.wait()).expect("a child");
}

#[test]
fn a_vital_thread_that_panics_ends_the_process_and_its_commands() {
    if input().is_some() {
        return run_thread(|| panic!("a thread dies"));
    }
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let mut process = child(&lab, "threads::a_vital_thread_that_panics_ends_the_process_and_its_commands", "");
    let (status, took) = await_end(&mut process);
    assert_eq!(status.code(), Some(1), "{}", process.log());
    assert!(took < SECOND, "{took:?}");
    assert!(!process.log().contains("still alive"), "{}", process.log());
    let left = lab.gateway.processes();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_vital_thread_that_returns_ends_nothing() {
    if input().is_some() {
        return run_thread(|| ());
    }
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let mut process = child(&lab, "threads::a_vital_thread_that_returns_ends_nothing", "");
    let (status, _) = await_end(&mut process);
    assert_eq!(status.code(), Some(0), "{}", process.log());
    assert!(process.log().contains("still alive"));
}

/// A plugin whose targets panic when the engine reads their grace time.
struct Deadly;

impl Plugin for Deadly {
    fn load(&mut self, _config: &mut Section<'_>, namespace: &mut Namespace) {
        namespace.target("panic", |_: &TargetSpec, _: &mut Section<'_>| Some(Box::new(Deadly) as Box<dyn Target>));
    }
}

impl Target for Deadly {
    fn start(&mut self, _context: &TargetContext) -> Result<(), Error> {
        Ok(())
    }

    fn stop(&mut self, _context: &TargetContext) -> Result<(), Error> {
        Ok(())
    }

    fn stop_grace(&self) -> Duration {
        println!("about to die");
        panic!("no grace\nat all")
    }
}

fn register(registry: &mut Registry) {
    registry.add("ctl", proxygw::plugins::ctl::plugin());
    registry.add("static", proxygw::plugins::r#static::plugin());
    registry.add("deadly", Box::new(Deadly));
}

#[test]
fn a_daemon_whose_engine_dies_exits_and_leaves_its_rules() {
    if let Some(config) = input() {
        let arguments = ["--config", &config].map(Into::into);
        let status = proxygw::daemon::main_with(arguments.into_iter(), register);
        panic!("it has returned {status:?}");
    }
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let folder = Temporary::new();
    let log = folder.path().join("log");
    let target = with(external("b", &["e=tcp/127.0.0.1:8080"]), json!({"kind": "deadly:panic"}));
    let head = json!({"output": log, "level": "INFO"});
    let ctl = json!({"ctl": {"socket": folder.path().join("socket")}});
    let text = config(&[target], &[always("f", "tcp/0.0.0.0:80", "b:e")]);
    let config = folder.write("proxygw.yaml", &format!("version: v1\nlog: {head}\nplugins: {ctl}\n{text}"));
    let mut process =
        child(&lab, "threads::a_daemon_whose_engine_dies_exits_and_leaves_its_rules", config.to_str().expect("a path"));
    let (status, took) = await_end(&mut process);
    let log = read(&log);
    assert_eq!(status.code(), Some(1), "{log}\n{}", process.log());
    assert!(took < SECOND, "{took:?}\n{log}");
    assert!(log.contains("thread \"engine\" panicked at tests/daemon/threads.rs:"), "{log}");
    assert!(log.contains(": no grace\\nat all"), "{log}");
    assert!(log.contains("thread engine has died"), "{log}");
    assert!(nft_ruleset(&lab.gateway).is_some_and(|rules| rules.contains("table inet proxygw")), "{log}");
    assert_ne!(lab.gateway.read_sysctl("ipv4/conf/all/route_localnet"), "0");
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).expect("a log")
}
