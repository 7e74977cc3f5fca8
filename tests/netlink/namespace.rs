//! Network namespaces that are gone when the test is, however it ends.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

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
        let output = Command::new("ip").args(["netns", "add", &name]).output();
        let failed = match &output {
            Ok(output) if output.status.success() => None,
            Ok(output) => Some(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
            Err(error) => Some(error.to_string()),
        };
        if let Some(reason) = failed {
            assert!(std::env::var_os("PROXYGW_REQUIRE_ALL").is_none_or(|value| value != "1"), "no namespace: {reason}");
            // Straight to the file, for the test harness keeps what eprintln! says of a test that passes.
            let _ = writeln!(std::io::stderr(), "skipped: no network namespace can be made: {reason}");
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
        let _ = Command::new("ip").args(["netns", "del", &self.name]).output();
    }
}

/// Runs a program in the calling thread's namespace; panics with its words if it fails.
pub fn command(program: &str, arguments: &[&str]) {
    check(program, arguments, Command::new(program).args(arguments).output());
}

/// Loads rules in nft's own language.
pub fn nft(rules: &str) {
    command("nft", &[rules]);
}

fn check(program: &str, arguments: &[&str], output: std::io::Result<Output>) {
    let output = output.expect(program);
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}
