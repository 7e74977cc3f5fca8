//! `static:cmd`: a backend that is a shell command.
//!
//! The command is a process group of its own. It ends when its first process does; a stop means all of its processes,
//! also those that have left the group. See [`processes`] for how they are found, also after a crash of ours.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process_group, pidfd_open, pidfd_send_signal, waitid,
};

use super::output::Output;
use crate::config::{Section, TargetSpec};
use crate::plugin::{Error, Target, TargetContext};
use crate::system::processes::{self, Mark};
use crate::system::{PASSED_VARIABLES, bind_to_us, children, original_limit, wait_readable};

/// How long a command has to end after SIGINT, if nothing else is said.
const GRACE: Duration = Duration::from_secs(5);

/// The longest grace time: the daemon's own end waits for it.
const LONGEST_GRACE: Duration = Duration::from_secs(600);

/// How long the other processes of a command have when its first one has ended by itself: the backend is dead, and its next
/// start waits for them.
const GRACE_OF_REST: Duration = Duration::from_millis(500);

/// How much longer than its grace time a stop may take: for SIGKILL to work.
const KILLED: Duration = Duration::from_secs(5);

/// Number of the next run of this daemon. On 32 bits it wraps after 2³² runs, and a number is used again when no process
/// of its first use is left.
static RUN: AtomicUsize = AtomicUsize::new(1);

/// Reads the options `command` and `stop_grace`.
pub(super) fn target(_spec: &TargetSpec, options: &mut Section<'_>) -> Option<Box<dyn Target>> {
    let command: Option<String> = options.required("command");
    let grace: Option<Duration> = options.optional("stop_grace");
    let grace = grace.unwrap_or(GRACE);
    if grace > LONGEST_GRACE {
        options.problem("stop_grace", format_args!("{grace:?} is too long: at most {LONGEST_GRACE:?}"));
    }
    let command = command?;
    if command.trim().is_empty() {
        options.problem("command", "it is empty: write what /bin/sh is to run");
    }
    if command.contains('\0') {
        options.problem("command", "it contains a NUL character");
    }
    (!options.failed()).then(|| Box::new(Cmd { command, grace, run: None }) as Box<dyn Target>)
}

struct Cmd {
    command: String,
    grace: Duration,
    run: Option<Run>,
}

/// A command that has been started, and not reaped: its process id cannot be anybody else's.
struct Run {
    child: Child,
    pid: Pid,
    pidfd: OwnedFd,
    mark: Mark,
    output: Output,
}

impl Target for Cmd {
    fn start(&mut self, context: &TargetContext) -> Result<(), Error> {
        let mark = Mark::of_namespace()?.of_run(RUN.fetch_add(1, Ordering::Relaxed) as u64);
        let (read, write) = io::pipe()?;
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(&self.command).env(processes::VARIABLE, mark.text()).process_group(0);
        // What the service manager has told the daemon is not meant for the command.
        for variable in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"].iter().chain(&PASSED_VARIABLES) {
            command.env_remove(variable);
        }
        command.stdin(Stdio::null()).stdout(write.try_clone()?).stderr(write);
        bind_to_us(&mut command, original_limit());
        let mut child = children::spawn(&mut command).map_err(|error| format!("cannot run /bin/sh: {error}"))?;
        let pid = Pid::from_child(&child);
        match pidfd_open(pid, PidfdFlags::empty())
            .map_err(io::Error::from)
            .and_then(|pidfd| Ok((pidfd, Output::new(read)?)))
        {
            Ok((pidfd, output)) => {
                log::debug!("target {}: started as process {}", context.name, child.id());
                context.set_pid(child.id());
                self.run = Some(Run { child, pid, pidfd, mark, output });
                Ok(())
            }
            Err(error) => {
                kill_process_group(pid, Signal::KILL)?;
                children::wait(&mut child)?;
                Err(error.into())
            }
        }
    }

    fn wait(&mut self, context: &TargetContext, until: Option<Instant>) -> Result<(), Error> {
        let run = self.run.as_mut().ok_or("it has not been started")?;
        let output = run.output.readable();
        let fds: Vec<BorrowedFd<'_>> = std::iter::once(run.pidfd.as_fd()).chain(output).collect();
        let until = until.into_iter().chain(run.output.resumes()).min();
        let ready = context.wait(&fds, until)?;
        if ready.get(1) == Some(&true) {
            run.output.take(&context.name);
        }
        if ready[0] {
            run.output.take(&context.name);
            return Err(run.last_words()?.into());
        }
        Ok(())
    }

    fn stop(&mut self, context: &TargetContext) -> Result<(), Error> {
        let Some(mut run) = self.run.take() else { return Ok(()) };
        let grace = if run.leads()? { self.grace } else { self.grace.min(GRACE_OF_REST) };
        let stopped = run.stop(context, grace);
        // Only now may its process id become somebody else's.
        children::wait(&mut run.child)?;
        run.output.end(&context.name);
        stopped
    }

    fn stop_grace(&self) -> Duration {
        self.grace + KILLED
    }
}

impl Run {
    /// SIGINT to every process of the command, and SIGKILL to those that are left when the grace time is over. Its first
    /// process and its group are killed in any case, also where the others cannot be found.
    fn stop(&mut self, context: &TargetContext, grace: Duration) -> Result<(), Error> {
        let began = Instant::now();
        let interrupted = self.interrupt(context, began + grace);
        let killed = processes::kill_all(&self.mark, Some(self.pid));
        // It may have left its group. Errors mean that it has ended.
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
        let killed =
            killed.map_err(|error| format!("cannot find all processes of the command to kill them: {error}"))?;
        if killed > 0 {
            log::warn!(
                "target {}: killed {killed} processes that had not ended after {:.1?}",
                context.name,
                began.elapsed()
            );
        }
        Ok(interrupted?)
    }

    /// SIGINT to every process of the command. Returns when all have ended, or at the deadline.
    fn interrupt(&mut self, context: &TargetContext, deadline: Instant) -> io::Result<()> {
        // Where they cannot be counted there may be one.
        let mut alive = processes::signal(&self.mark, Some(self.pid), Signal::INT).unwrap_or(1);
        let mut pause = Duration::from_millis(2);
        while alive > 0 && Instant::now() < deadline {
            // The first process ends with an event; the others are looked for now and then.
            let leads = self.leads()?;
            let until = if leads { deadline } else { deadline.min(Instant::now() + pause) };
            let until = self.output.resumes().map_or(until, |resumes| resumes.min(until));
            let pidfd = leads.then(|| self.pidfd.as_fd());
            let fds: Vec<BorrowedFd<'_>> = self.output.readable().into_iter().chain(pidfd).collect();
            wait_readable(&fds, Some(until))?;
            self.output.take(&context.name);
            if !leads {
                pause = (pause * 2).min(Duration::from_millis(50));
            }
            if !self.leads()? {
                alive = processes::find(&self.mark, Some(self.pid)).map_or(1, |found| found.len());
            }
        }
        Ok(())
    }

    /// Whether the command's first process still lives.
    fn leads(&self) -> io::Result<bool> {
        Ok(waitid(WaitId::Pid(self.pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT)?
            .is_none())
    }

    /// How the command's first process has ended, for people.
    fn last_words(&self) -> io::Result<String> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let status = waitid(WaitId::Pid(self.pid), options)?;
        let how = match status.map(|status| (status.exit_status(), status.terminating_signal())) {
            Some((Some(0), _)) => "has exited with status 0 (it must stay in the foreground)".to_owned(),
            Some((Some(127), _)) => "has exited with status 127 (not found?)".to_owned(),
            Some((Some(code), _)) => format!("has exited with status {code}"),
            Some((_, Some(signal))) => format!("was killed by signal {signal}"),
            _ => "has ended".to_owned(),
        };
        Ok(match self.output.last_line() {
            Some(line) => format!("the command {how}; its last line: {line}"),
            None => format!("the command {how}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustix::process::{Resource, Rlimit, setrlimit, test_kill_process_group};

    use super::*;
    use crate::system::StopSignal;

    /// Set in a child that a test has made of itself: a limit is the whole process's.
    const CHILD: &str = "PROXYGW_TEST_CHILD";

    fn stop_without_descriptors() {
        let command = "trap '' INT; sleep 1000 & sleep 1000".to_owned();
        let mut target = Cmd { command, grace: Duration::from_millis(300), run: None };
        let stop = StopSignal::new().expect("a signal");
        let context = TargetContext { name: "b".to_owned(), stop, pid: Arc::default() };
        target.start(&context).expect("started");
        let group = target.run.as_ref().expect("it runs").pid;
        let none = Rlimit { current: Some(3), maximum: Some(3) };
        setrlimit(Resource::Nofile, none).expect("a lower limit");
        let error = target.stop(&context).expect_err("it cannot read /proc").to_string();
        assert!(error.contains("Too many open files"), "{error}");
        assert!(test_kill_process_group(group).is_err(), "some are left");
        println!("stopped");
    }

    #[test]
    fn a_stop_without_descriptors_kills_the_command() {
        if std::env::var_os(CHILD).is_some() {
            return stop_without_descriptors();
        }
        let mut command = Command::new(std::env::current_exe().expect("a test program"));
        let test = "plugins::r#static::cmd::tests::a_stop_without_descriptors_kills_the_command";
        command.args(["--exact", test, "--nocapture", "--test-threads=1"]);
        command.env(CHILD, "").stdin(Stdio::null()).stdout(Stdio::piped());
        let began = Instant::now();
        let output = command.spawn().and_then(Child::wait_with_output).expect("a test program");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("stopped"), "{text}");
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    }
}
