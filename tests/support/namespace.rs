//! One network namespace, and how to act inside it.

use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Where iproute2 keeps named namespaces.
pub(super) const FOLDER: &str = "/run/netns";

/// A named network namespace. Removed, with every process in it, on drop.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    /// The `nft` that acts in it; one namespace, one version (KERNEL.md: 1.0.6 crashes on what 1.1.3 wrote).
    pub(super) nft: PathBuf,
}

impl Namespace {
    /// Takes over the existing namespace of this name.
    pub(super) fn adopt(name: String, nft: &Path) -> Namespace {
        Namespace { name, nft: nft.to_owned() }
    }

    /// Its name, as `ip netns` shows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for it.
    pub(super) fn path(&self) -> PathBuf {
        Path::new(FOLDER).join(&self.name)
    }

    /// Runs `task` in a thread that has entered the namespace: sockets that it opens, and processes that it starts,
    /// belong there. A panic of the task is the caller's.
    pub fn run<T: Send>(&self, task: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            self.enter();
            task()
        };
        std::thread::scope(|scope| scope.spawn(inside).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Moves the calling thread into the namespace, for good.
    pub(super) fn enter(&self) {
        let path = self.path();
        let file = File::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
            .unwrap_or_else(|error| panic!("entering {}: {error}", path.display()));
    }

    /// A command that runs inside the namespace. nsenter becomes the program, so the process id is the program's own.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        command_in(&self.path(), program.as_ref())
    }

    /// Runs a shell command inside the namespace and returns what it printed.
    ///
    /// # Panics
    /// If it fails, with what it said.
    #[track_caller]
    pub fn sh(&self, script: &str) -> String {
        let output = self.command("/bin/sh").args(["-ec", script]).stdin(Stdio::null()).output().expect("nsenter");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{script:?} in {}: {} {stderr}", self.name, output.status);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// `PATH`, with the folder of the namespace's own nft first.
    pub fn path_of_programs(&self) -> OsString {
        let nft = self.nft.parent().filter(|folder| folder.is_absolute()).map(Path::to_owned);
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::join_paths(nft.into_iter().chain(std::env::split_paths(&path))).expect("folders of PATH")
    }

    /// The processes inside the namespace, each with its command line. Threads that have entered it do not count.
    pub fn processes(&self) -> Vec<(i32, String)> {
        let Ok(own) = std::fs::metadata(self.path()) else { return Vec::new() };
        let Ok(folder) = std::fs::read_dir("/proc") else { return Vec::new() };
        let mut found = Vec::new();
        for entry in folder.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
            let of = std::fs::metadata(entry.path().join("ns/net"));
            if of.is_ok_and(|of| (of.dev(), of.ino()) == (own.dev(), own.ino())) {
                let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
                let words = line.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect::<Vec<_>>().join(" ");
                found.push((pid, words.trim_end().to_owned()));
            }
        }
        found
    }

    /// Sets a variable of the namespace's own `/proc/sys/net`, by its path below that.
    pub fn sysctl(&self, name: &str, value: &str) {
        self.run(|| {
            let path = Path::new("/proc/sys/net").join(name);
            std::fs::write(&path, value).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        });
    }

    /// Reads a variable of the namespace's own `/proc/sys/net`.
    pub fn read_sysctl(&self, name: &str) -> String {
        let path = Path::new("/proc/sys/net").join(name);
        let read = self.run(|| std::fs::read_to_string(&path));
        read.unwrap_or_else(|error| panic!("{}: {error}", path.display())).trim_end().to_owned()
    }

    /// Runs a batch of `ip` commands inside the namespace.
    #[track_caller]
    pub fn ip(&self, batch: &str) {
        ip(&["-n", &self.name], batch).unwrap_or_else(|error| panic!("ip in {}: {error}\n{batch}", self.name));
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        for (pid, _) in self.processes() {
            if let Some(pid) = Pid::from_raw(pid) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        let _ = ip(&[], &format!("netns del {}\n", self.name));
    }
}

/// A command that runs inside the namespace that a file stands for.
pub(super) fn command_in(namespace: &Path, program: &Path) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", namespace.display())).arg("--").arg(program);
    command
}

/// Runs one `ip` process with a batch of commands; the error is what it said.
pub(super) fn ip(options: &[&str], batch: &str) -> Result<(), String> {
    let mut child = Command::new("ip")
        .args(options)
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("ip: {error}"))?;
    let mut stdin = child.stdin.take().expect("piped");
    // A batch is smaller than a pipe; if ip ends early, its own words say more than the broken pipe.
    let _ = stdin.write_all(batch.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().map_err(|error| format!("ip: {error}"))?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()) }
}
