//! Network namespaces that are gone when the test is, however it ends.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A named network namespace with its loopback interface up.
pub struct Namespace {
    pub name: String,
}

impl Namespace {
    /// Makes one. Without the rights to, says so and returns `None`, or panics if `PROXYGW_REQUIRE_ALL=1`.
    pub fn new() -> Option<Namespace> {
        let name = format!("pgw-nl-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let output = output("ip", &["netns", "add", &name]);
        let failed = match &output {
            Ok(output) if output.status.success() => None,
            Ok(output) => Some(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
            Err(error) => Some(error.to_string()),
        };
        if let Some(reason) = failed {
            assert!(std::env::var_os("PROXYGW_REQUIRE_ALL").is_none_or(|value| value != "1"), "no namespace: {reason}");
            // Straight to the file, for the test harness keeps what eprintln! says of a test that passes.
            let _ = writeln!(io::stderr(), "skipped: no network namespace can be made: {reason}");
            return None;
        }
        let namespace = Namespace { name };
        namespace.run(|| command("ip", &["link", "set", "lo", "up"]));
        Some(namespace)
    }

    /// Runs `task` in a thread of the namespace.
    pub fn run<T: Send>(&self, task: impl FnOnce() -> T + Send) -> T {
        let run = || {
            let file = File::open(format!("/run/netns/{}", self.name)).expect("the namespace's file");
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).expect("entered");
            task()
        };
        std::thread::scope(|scope| match scope.spawn(run).join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = output("ip", &["netns", "del", &self.name]);
    }
}

/// Runs a program in the calling thread's namespace; panics with its words if it fails.
pub fn command(program: &str, arguments: &[&str]) {
    let output = output(program, arguments).expect(program);
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Loads rules in nft's own language.
pub fn nft(rules: &str) {
    command("nft", &[rules]);
}

fn output(program: &str, arguments: &[&str]) -> io::Result<Output> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    spawn(&mut command)?.wait_with_output()
}

static SPAWNING: Mutex<()> = Mutex::new(());

/// Starts a program. All that tests start must be started here: see [`settle`].
pub fn spawn(command: &mut Command) -> io::Result<Child> {
    let _guard = SPAWNING.lock().unwrap_or_else(PoisonError::into_inner);
    command.spawn()
}

/// Returns when what was closed before is closed for good: until its `exec`, a child that another test has just started
/// has copies of all our file descriptors.
pub fn settle() {
    drop(SPAWNING.lock().unwrap_or_else(PoisonError::into_inner));
}
