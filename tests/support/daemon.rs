//! The real daemon, inside a lab's gateway.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use super::namespace::command_in;
use super::{Lab, Namespace, Process, Temporary, binary, control};

/// How long the daemon may take until it is ready.
const START: Duration = Duration::from_secs(10);

/// How long the daemon may take to exit, targets included.
const EXIT: Duration = Duration::from_secs(20);

/// How the daemon is started.
#[derive(Debug, Clone)]
pub struct DaemonOptions {
    /// `log.level`.
    pub level: &'static str,
    /// `log.output`. With another than `stderr`, [`Daemon::log`] is empty.
    pub output: String,
    /// `plugins.ctl.codec`. With `cbor`, [`Daemon::status`] and all that builds on it cannot be used.
    pub codec: &'static str,
    /// The daemon's program, if it is another than the workspace's own.
    pub program: Option<PathBuf>,
    /// Sections of `plugins` beside `ctl`: a mapping.
    pub plugins: Value,
    /// More arguments.
    pub arguments: Vec<OsString>,
    /// More environment variables.
    pub environment: Vec<(&'static str, OsString)>,
}

impl Default for DaemonOptions {
    fn default() -> Self {
        DaemonOptions {
            level: "DEBUG",
            output: "stderr".to_owned(),
            codec: "json",
            program: None,
            plugins: json!({}),
            arguments: Vec::new(),
            environment: Vec::new(),
        }
    }
}

/// A running daemon. On drop it is killed; its targets' processes go with the lab at the latest, and its rules too.
#[derive(Debug)]
pub struct Daemon {
    // Dropped in this order: the folder last.
    process: Process,
    launch: Launch,
    socket: PathBuf,
    _folder: Temporary,
}

impl Daemon {
    /// Starts the daemon in the lab's gateway and waits until it is ready. `config` holds `targets` and `frontends`;
    /// the rest is put before it.
    ///
    /// # Panics
    /// If it is not ready within 10 s, with its log.
    #[track_caller]
    pub fn start(lab: &Lab, config: &str) -> Daemon {
        Daemon::start_with(lab, config, DaemonOptions::default())
    }

    /// [`Daemon::start`] with options.
    #[track_caller]
    pub fn start_with(lab: &Lab, config: &str, options: DaemonOptions) -> Daemon {
        let mut daemon = Daemon::spawn(&lab.gateway, config, options);
        daemon.await_ready();
        daemon
    }

    /// Starts the daemon in any namespace and does not wait, for tests of starts that fail.
    #[track_caller]
    pub fn spawn(namespace: &Namespace, config: &str, options: DaemonOptions) -> Daemon {
        let folder = Temporary::new();
        let socket = folder.path().join("proxygw.sock");
        let mut head = json!({
            "version": "v1",
            "log": {"output": options.output, "level": options.level},
            "plugins": {"ctl": {"socket": socket, "codec": options.codec}},
        });
        if let (Some(all), Some(more)) = (head["plugins"].as_object_mut(), options.plugins.as_object()) {
            all.extend(more.clone());
        }
        // JSON values are YAML values, and each of these fits on one line.
        let head: String = ["version", "log", "plugins"].iter().map(|key| format!("{key}: {}\n", head[key])).collect();
        let config = folder.write("proxygw.yaml", &format!("{head}{config}"));
        let launch = Launch::new(namespace, config, options);
        Daemon { process: launch.start(), launch, socket, _folder: folder }
    }

    /// Starts the same daemon again after it has ended, with the same configuration, and waits until it is ready.
    #[track_caller]
    pub fn restart(&mut self) {
        assert!(self.process.try_wait().is_some(), "the daemon still runs");
        self.process = self.launch.start();
        self.await_ready();
    }

    /// Waits until the control socket answers.
    ///
    /// # Panics
    /// If the daemon ends, or does not answer within 10 s; with its log.
    #[track_caller]
    pub fn await_ready(&mut self) {
        let until = Instant::now() + START;
        loop {
            let error = match control::request(&self.socket, control::STATUS, json!({})) {
                Ok(_) => return,
                Err(error) => error,
            };
            if let Some(status) = self.process.try_wait() {
                panic!("the daemon ended before it was ready: {status}\n{}", self.log());
            }
            assert!(Instant::now() < until, "the daemon is not ready within {START:?}: {error}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The body of a status response.
    #[track_caller]
    pub fn status(&self) -> Value {
        self.request(control::STATUS, json!({}))
    }

    /// Sends any request over the control socket; returns the response's body.
    ///
    /// # Panics
    /// If the response is an error, with the daemon's log.
    #[track_caller]
    pub fn request(&self, method: u16, body: Value) -> Value {
        control::request(&self.socket, method, body)
            .unwrap_or_else(|error| panic!("request {method}: {error}\n{}", self.log()))
    }

    /// A target's part of the status.
    #[track_caller]
    pub fn target(&self, name: &str) -> Value {
        self.find("targets", name)
    }

    /// A frontend's part of the status.
    #[track_caller]
    pub fn frontend(&self, name: &str) -> Value {
        self.find("frontends", name)
    }

    #[track_caller]
    fn find(&self, list: &str, name: &str) -> Value {
        let status = self.status();
        let found = status[list].as_array().and_then(|list| list.iter().find(|element| element["name"] == name));
        found.unwrap_or_else(|| panic!("no {name:?} in {list}: {status:#}")).clone()
    }

    /// Waits until a target is in a state; returns how long that took.
    ///
    /// # Panics
    /// If it is not within `timeout`, with the status and the daemon's log.
    #[track_caller]
    pub fn await_target(&self, name: &str, state: &str, timeout: Duration) -> Duration {
        self.await_state("targets", name, state, timeout)
    }

    /// [`Daemon::await_target`] for a frontend.
    #[track_caller]
    pub fn await_frontend(&self, name: &str, state: &str, timeout: Duration) -> Duration {
        self.await_state("frontends", name, state, timeout)
    }

    #[track_caller]
    fn await_state(&self, list: &str, name: &str, state: &str, timeout: Duration) -> Duration {
        let began = Instant::now();
        loop {
            let found = self.find(list, name);
            if found["state"] == state {
                return began.elapsed();
            }
            assert!(began.elapsed() < timeout, "{name} is not {state} within {timeout:?}: {found:#}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Asks the daemon to exit (SIGTERM) and waits for that.
    ///
    /// # Panics
    /// If it has not within 20 s, with its log.
    #[track_caller]
    pub fn terminate(&mut self) -> ExitStatus {
        self.process.signal(Signal::TERM);
        self.process.wait(EXIT)
    }

    /// Kills the daemon itself as `kill -9` would, and waits for it.
    #[track_caller]
    pub fn kill9(&mut self) -> ExitStatus {
        self.process.signal(Signal::KILL);
        self.process.wait(EXIT)
    }

    /// Sends the daemon a signal.
    pub fn signal(&mut self, signal: Signal) {
        self.process.signal(signal);
    }

    /// The daemon's process id.
    pub fn pid(&self) -> i32 {
        self.process.pid()
    }

    /// What the daemon has printed so far.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// The process, to await lines of its log or its end.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// The control socket's path.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The configuration file's path.
    pub fn config(&self) -> &Path {
        &self.launch.config
    }
}

/// All that a start of the daemon needs.
#[derive(Debug)]
struct Launch {
    /// The namespace's file.
    namespace: PathBuf,
    /// `PATH`, by which the daemon finds nft.
    path: OsString,
    config: PathBuf,
    options: DaemonOptions,
}

impl Launch {
    fn new(namespace: &Namespace, config: PathBuf, options: DaemonOptions) -> Launch {
        Launch { namespace: namespace.path(), path: namespace.path_of_programs(), config, options }
    }

    fn start(&self) -> Process {
        let program = self.options.program.clone().unwrap_or_else(|| binary("proxygw"));
        let mut command = command_in(&self.namespace, &program);
        command.arg("--config").arg(&self.config).args(&self.options.arguments).env("PATH", &self.path);
        command.envs(self.options.environment.iter().map(|(name, value)| (name, value)));
        Process::start(command)
    }
}
