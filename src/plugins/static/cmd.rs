//! `static:cmd`: a backend that is a shell command.
//!
//! The command is a process group of its own. It ends when its first process does. A stop ends all of its processes, also
//! those that have left the group. [`processes`] finds them, also after a crash of the daemon.

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

/// Default time of a command to end after SIGINT.
const GRACE: Duration = Duration::from_secs(5);

/// Maximum grace time: the daemon's exit waits for it.
const MAX_GRACE: Duration = Duration::from_secs(600);

/// Grace time of the other processes when a command's first one has ended on its own: the backend is dead, and its next
/// start waits for them.
const GRACE_OF_REST: Duration = Duration::from_millis(500);

/// Time of a stop beyond its grace time, for SIGKILL to take effect.
const KILLED: Duration = Duration::from_secs(5);

/// Number of the daemon's next run. On 32 bits it wraps after 2³² runs, when no process of a number's first use is left.
static RUN: AtomicUsize = AtomicUsize::new(1);

/// Reads the options `command` and `stop_grace`.
pub(super) fn target(_spec: &TargetSpec, options: &mut Section<'_>) -> Option<Box<dyn Target>> {
    let command: Option<String> = options.required("command");
    let grace: Option<Duration> = options.optional("stop_grace");
    let grace = grace.unwrap_or(GRACE);
    if grace > MAX_GRACE {
        options.problem("stop_grace", format_args!("{grace:?} is too long: at most {MAX_GRACE:?}"));
    }
    let command = command?;
    if command.trim().is_empty() {
        options.problem("command", "it is empty: write a command for /bin/sh");
    }
    if command.contains('\0') {
        options.problem("command", "it contains a null character");
    }
    (!options.failed()).then(|| Box::new(Cmd { command, grace, run: None }) as Box<dyn Target>)
}

struct Cmd {
    command: String,
    grace: Duration,
    run: Option<Run>,
}

/// A command that was started and not reaped, so no other process can have its process id.
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
        // The service manager's variables are for the daemon only.
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
            run.output.read(&context.name);
        }
        if ready[0] {
            run.output.read(&context.name);
            return Err(run.end_message()?.into());
        }
        Ok(())
    }

    fn stop(&mut self, context: &TargetContext) -> Result<(), Error> {
        let Some(mut run) = self.run.take() else { return Ok(()) };
        let grace = if run.leads()? { self.grace } else { self.grace.min(GRACE_OF_REST) };
        let stopped = run.stop(context, grace);
        // Only now may another process get its process id.
        children::wait(&mut run.child)?;
        run.output.end(&context.name);
        stopped
    }

    fn stop_grace(&self) -> Duration {
        self.grace + KILLED
    }
}

impl Run {
    /// Sends SIGINT to every process of the command, and SIGKILL to those that are left after the grace time. Kills its first
    /// process and its group in any case, even if the others cannot be found.
    fn stop(&mut self, context: &TargetContext, grace: Duration) -> Result<(), Error> {
        let began = Instant::now();
        let interrupted = self.interrupt(context, began + grace);
        let killed = processes::kill_all(&self.mark, Some(self.pid));
        // It may have left its group. An error means that it has ended.
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

    /// Sends SIGINT to every process of the command. Returns when all have ended, or at the deadline.
    fn interrupt(&mut self, context: &TargetContext, deadline: Instant) -> io::Result<()> {
        // If they cannot be counted, one may be left.
        let mut alive = processes::signal(&self.mark, Some(self.pid), Signal::INT).unwrap_or(1);
        let mut pause = Duration::from_millis(2);
        while alive > 0 && Instant::now() < deadline {
            // The end of the first process is an event; the others are polled for.
            let leads = self.leads()?;
            let until = if leads { deadline } else { deadline.min(Instant::now() + pause) };
            let until = self.output.resumes().map_or(until, |resumes| resumes.min(until));
            let pidfd = leads.then(|| self.pidfd.as_fd());
            let fds: Vec<BorrowedFd<'_>> = self.output.readable().into_iter().chain(pidfd).collect();
            wait_readable(&fds, Some(until))?;
            self.output.read(&context.name);
            if !leads {
                pause = (pause * 2).min(Duration::from_millis(50));
            }
            if !self.leads()? {
                alive = processes::find(&self.mark, Some(self.pid)).map_or(1, |found| found.len());
            }
        }
        Ok(())
    }

    /// Returns true while the command's first process lives.
    fn leads(&self) -> io::Result<bool> {
        Ok(waitid(WaitId::Pid(self.pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT)?
            .is_none())
    }

    /// Message about the end of the command's first process.
    fn end_message(&self) -> io::Result<String> {
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

    /// Set in a child that a test has made of itself: a limit applies to the whole process.
    const CHILD: &str = "PROXYGW_TEST_CHILD";

    /// Time for which a test waits at most.
    const SOON: Duration = Duration::from_secs(10);

    fn start(command: &str, grace: Duration) -> (Cmd, TargetContext) {
        // Like the daemon, it handles SIGINT: a job of a shell's background ignores it, and so would the command.
        signal_hook::flag::register(signal_hook::consts::SIGINT, Arc::default()).expect("a handler");
        let mut target = Cmd { command: command.to_owned(), grace, run: None };
        let context = TargetContext::new("b", StopSignal::new().expect("a signal"));
        target.start(&context).expect("started");
        (target, context)
    }

    /// Waits for the end of the command; returns the error.
    fn end(target: &mut Cmd, context: &TargetContext) -> String {
        let until = Instant::now() + SOON;
        loop {
            match target.wait(context, Some(until)) {
                Err(error) => return error.to_string(),
                Ok(()) => assert!(Instant::now() < until, "it does not end"),
            }
        }
    }

    /// Waits for a line of output.
    fn await_line(target: &mut Cmd, context: &TargetContext, line: &str) {
        let until = Instant::now() + SOON;
        while target.run.as_ref().is_some_and(|run| run.output.last_line() != Some(line)) {
            target.wait(context, Some(until)).expect("it lives");
            assert!(Instant::now() < until, "it does not print {line:?}");
        }
    }

    /// Stops the command, checks that nothing of it lives, and returns the time that it took.
    fn stop(target: &mut Cmd, context: &TargetContext) -> Duration {
        let run = target.run.as_ref().expect("it runs");
        let (mark, group, began) = (run.mark.clone(), run.pid, Instant::now());
        target.stop(context).expect("stopped");
        let took = began.elapsed();
        assert_eq!(processes::find(&mark, Some(group)).expect("/proc"), []);
        took
    }

    #[test]
    fn the_end_of_a_command_is_reported_with_its_last_line() {
        for (command, expected) in [
            ("exit 0", "the command has exited with status 0 (it must stay in the foreground)"),
            ("exit 3", "the command has exited with status 3"),
            ("exit 127", "the command has exited with status 127 (not found?)"),
            ("kill -9 $$", "the command was killed by signal 9"),
            ("echo one; echo two >&2; exit 4", "the command has exited with status 4; its last line: two"),
        ] {
            let (mut target, context) = start(command, GRACE);
            assert_eq!(end(&mut target, &context), expected);
            stop(&mut target, &context);
        }
    }

    #[test]
    fn wait_returns_at_its_time_and_when_a_stop_is_requested() {
        let (mut target, context) = start("exec sleep 1000", GRACE);
        let pid = target.run.as_ref().expect("it runs").pid;
        assert_eq!(context.pid.load(Ordering::Relaxed), pid.as_raw_pid() as u32);
        let until = Instant::now() + Duration::from_millis(20);
        target.wait(&context, Some(until)).expect("it lives");
        assert!(Instant::now() >= until);
        context.stop.set();
        target.wait(&context, None).expect("it lives");
        assert!(stop(&mut target, &context) < GRACE, "SIGINT does not end it");
        target.stop(&context).expect("a second stop does nothing");
        assert!(target.wait(&context, None).is_err(), "it has not been started");
    }

    #[test]
    fn a_stop_lets_the_command_finish() {
        let command = "trap 'sleep 0.1; exit 0' INT; echo ready; while :; do sleep 0.01; done";
        let (mut target, context) = start(command, SOON);
        await_line(&mut target, &context, "ready");
        let took = stop(&mut target, &context);
        assert!((Duration::from_millis(100)..SOON).contains(&took), "{took:?}");
    }

    #[test]
    fn a_command_that_ignores_sigint_is_killed_after_its_grace_time() {
        let grace = Duration::from_millis(200);
        let (mut target, context) = start("trap '' INT; echo ready; while :; do sleep 0.01; done", grace);
        assert_eq!(target.stop_grace(), grace + KILLED);
        await_line(&mut target, &context, "ready");
        let took = stop(&mut target, &context);
        assert!((grace..SOON).contains(&took), "{took:?}");
    }

    #[test]
    fn processes_of_a_dead_command_get_a_short_grace_time() {
        let (mut target, context) = start("(trap '' INT; echo ready; exec sleep 1000) & wait", MAX_GRACE);
        await_line(&mut target, &context, "ready");
        let pid = target.run.as_ref().expect("it runs").pid;
        rustix::process::kill_process(pid, Signal::KILL).expect("it lives");
        assert!(end(&mut target, &context).contains("killed by signal 9"));
        let took = stop(&mut target, &context);
        assert!((GRACE_OF_REST..SOON).contains(&took), "{took:?}");
    }

    fn stop_without_descriptors() {
        let (mut target, context) = start("trap '' INT; sleep 1000 & sleep 1000", Duration::from_millis(300));
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
        assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    }
}
