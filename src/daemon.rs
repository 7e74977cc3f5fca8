//! The daemon's main function: starts the modules, and stops them in order.
//!
//! The main thread runs the reactor. Everything that can fail does so before the first thread is started, or stops one
//! target or frontend alone.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use lexopt::prelude::{Long, Short, Value, ValueExt as _};

use crate::assemble::{self, Setup};
use crate::config::{self, Masquerade};
use crate::dataplane::apply::{self, Nft};
use crate::dataplane::flows;
use crate::dataplane::hold::{AllCounters, Holder};
use crate::dataplane::links::{self, Links, LoopbackRoutes};
use crate::dataplane::localnet::Localnet;
use crate::dataplane::render::TABLE;
use crate::dataplane::rules::Table;
use crate::dataplane::watch::{Notices, Watch};
use crate::doctor::{self, Caller, Scope};
use crate::engine::{Engine, Inbox};
use crate::logging;
use crate::netlink::instance_lock::InstanceLock;
use crate::netlink::loopback;
use crate::netlink::nftables::delete_table;
use crate::plugin::Registry;
use crate::reactor::{Monitored, Reactor, Service};
use crate::system::processes::{self, Mark};
use crate::system::{notify, raise_limit, take_passed};
use crate::vital::{self, Vital};

/// The flags, each with its argument and what it does. Help and the manual page say the same.
pub const FLAGS: [(&str, &str); 5] = [
    ("-c, --config FILE", "read the configuration from FILE instead of /etc/proxygw.yaml"),
    ("    --check", "check the configuration without touching the system, and exit with 0 or 2"),
    ("    --json", "with doctor: print the findings as JSON"),
    ("-h, --help", "print this help"),
    ("-V, --version", "print the version"),
];

/// The command that checks the host, and its line in the help.
pub const DOCTOR: (&str, &str) =
    ("doctor", "check this host for what keeps the configuration from working, and exit with 0, 1 or 2");

/// Reason why the daemon does not run.
#[derive(Debug)]
enum Failure {
    /// The command line or the configuration is wrong: exit status 2.
    Usage(String),
    /// The system is: exit status 1.
    System(String),
}

impl Failure {
    fn system(doing: &str) -> impl Fn(io::Error) -> Failure {
        move |error| Failure::System(format!("{doing}: {error}"))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Failure::Usage(text) | Failure::System(text)) = self;
        f.write_str(text)
    }
}

/// Command of the command line.
enum Command {
    Run(PathBuf),
    Check(PathBuf),
    Doctor { config: PathBuf, json: bool },
    Print(String),
}

/// Runs the daemon with the plugins that `register` adds, and returns its exit status: 0 after an ordered end, 1 after a
/// failure or a bad finding of the doctor, 2 for a wrong command line or configuration.
pub fn main(register: fn(&mut Registry)) -> ExitCode {
    main_with(std::env::args_os().skip(1), register)
}

/// [`main`] with arguments other than the process's own. They do not include the program's name.
pub fn main_with(arguments: impl Iterator<Item = OsString>, register: fn(&mut Registry)) -> ExitCode {
    let began = Instant::now();
    let result = parse(arguments).and_then(|command| match command {
        Command::Print(text) => {
            print!("{text}");
            Ok(ExitCode::SUCCESS)
        }
        Command::Check(path) => check(&path, register).map(|()| ExitCode::SUCCESS),
        Command::Doctor { config, json } => examine(&config, json, register),
        Command::Run(path) => run(&path, register, began).map(|()| ExitCode::SUCCESS),
    });
    let status = match result {
        Ok(status) => status,
        Err(failure) => {
            logging::report_failure(&failure);
            ExitCode::from(if matches!(failure, Failure::Usage(_)) { 2 } else { 1 })
        }
    };
    logging::flush();
    status
}

fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Command, Failure> {
    let wrong = |error: lexopt::Error| Failure::Usage(format!("{error}\n\n{}", help()));
    let mut parser = lexopt::Parser::from_args(arguments);
    let mut config = PathBuf::from(config::DEFAULT_PATH);
    let (mut check, mut doctor, mut json) = (false, false, false);
    while let Some(argument) = parser.next().map_err(wrong)? {
        match argument {
            Short('c') | Long("config") => config = parser.value().and_then(|value| value.parse()).map_err(wrong)?,
            Long("check") => check = true,
            Long("json") => json = true,
            Value(word) if word == DOCTOR.0 && !doctor => doctor = true,
            Short('h') | Long("help") => return Ok(Command::Print(help())),
            Short('V') | Long("version") => {
                return Ok(Command::Print(format!("proxygw {}\n", env!("CARGO_PKG_VERSION"))));
            }
            other => return Err(wrong(other.unexpected())),
        }
    }
    match (check, doctor, json) {
        (false, true, json) => Ok(Command::Doctor { config, json }),
        (true, true, _) => Err(wrong("--check is not for doctor".into())),
        (_, false, true) => Err(wrong("--json is for doctor only".into())),
        (true, false, false) => Ok(Command::Check(config)),
        (false, false, false) => Ok(Command::Run(config)),
    }
}

fn help() -> String {
    let mut text =
        "Warms backends on demand and routes traffic to them with nftables DNAT.\n\nUsage: proxygw [doctor] [FLAGS]\n\n"
            .to_owned();
    text.push_str(&format!("  {:<20}  {}\n\n", DOCTOR.0, DOCTOR.1));
    for (flag, what) in FLAGS {
        text.push_str(&format!("  {flag:<20}  {what}\n"));
    }
    text
}

fn load(path: &std::path::Path, register: fn(&mut Registry)) -> Result<(Setup, Registry), Failure> {
    let mut registry = Registry::default();
    register(&mut registry);
    let setup = assemble::load(path, &mut registry).map_err(|error| Failure::Usage(error.to_string()))?;
    Ok((setup, registry))
}

fn check(path: &std::path::Path, register: fn(&mut Registry)) -> Result<(), Failure> {
    let (setup, _) = load(path, register)?;
    let Setup { targets, frontends, warnings, .. } = setup;
    for warning in warnings {
        eprintln!("proxygw: warning: {warning}");
    }
    println!("{}: {} targets and {} frontends, no errors", path.display(), targets.len(), frontends.len());
    Ok(())
}

/// Checks the host, and prints the findings.
fn examine(path: &std::path::Path, json: bool, register: fn(&mut Registry)) -> Result<ExitCode, Failure> {
    let (setup, _) = load(path, register)?;
    let findings = doctor::examine(Scope::new(&setup), Caller::Operator);
    let text = if json { doctor::json(&findings) } else { doctor::text(&findings) };
    io::stdout().write_all(text.as_bytes()).map_err(Failure::system("cannot print the findings"))?;
    Ok(ExitCode::from(u8::from(doctor::is_broken(&findings))))
}

fn run(path: &std::path::Path, register: fn(&mut Registry), began: Instant) -> Result<(), Failure> {
    let passed = take_passed();
    let (setup, mut registry) = load(path, register)?;
    let scope = Scope::new(&setup);
    let plan = setup.plan();
    let Setup { log, targets, frontends, handlers, services, warnings } = setup;
    logging::start(&log).map_err(Failure::system("cannot open the log file"))?;
    warnings.iter().for_each(|warning| log::warn!("{warning}"));
    let _lock = InstanceLock::claim().map_err(|error| Failure::System(error.to_string()))?;
    raise_limit(targets.len(), frontends.len());

    let nft = Nft::find();
    let localnet = Localnet::start(&plan, &nft, passed);
    let counts = (targets.len(), frontends.len());
    let (inbox, receiver) = Inbox::new(targets.len(), frontends.len());
    let notices = Arc::new(Notices::default());
    let watch = Watch::new(Arc::clone(&notices), localnet.clone());
    let mut own = vec![Service::new("table watch", Monitored(watch))];
    let mut holds = AllCounters::default();
    if let Some(holder) = Holder::new(&plan) {
        holds = holder.counters();
        own.push(Service::new("packet holder", Monitored(holder)));
    }
    let mut on_link = BTreeSet::new();
    let routes = if plan.needs_loopback_routes() { LoopbackRoutes::Added } else { LoopbackRoutes::Unused };
    own.push(Service::new("link watch", Monitored(Links::new(routes))));
    let services = services.into_iter().map(|(name, handler)| Service { name, handler }).chain(own).collect();
    let (mut reactor, orders) =
        Reactor::new(handlers, services, inbox.clone()).map_err(Failure::system("cannot set up the event loop"))?;
    reactor.start_services().map_err(|error| Failure::System(error.to_string()))?;

    // After the watch has begun, so that no change is missed.
    if plan.has_masquerade(Masquerade::Auto) {
        on_link = links::on_link().map_err(Failure::system("cannot query the interfaces' addresses"))?;
    }
    let mut table = Table::new(nft, plan, localnet.clone(), notices);
    let mark = Mark::of_namespace().map_err(Failure::system("cannot read /proc"))?;
    // Processes that a crashed daemon has left are killed while nft runs.
    std::thread::scope(|scope| {
        scope.spawn(|| sweep(&mark));
        table.load()
    })
    .map_err(|error| {
        Failure::System(format!(
            "cannot load the table inet {TABLE}: {error} (`proxygw doctor` names what the kernel lacks)"
        ))
    })?;

    let no_thread = Failure::system("cannot start a thread");
    let specs = targets.iter().map(|target| (target.id, &target.spec)).collect();
    let (flows, conntrack) = flows::spawn(&specs, table.plan(), Box::new(inbox.clone())).map_err(&no_thread)?;
    let ready = Box::new(move || {
        log::info!("ready after {:.1?}: {} targets, {} frontends", began.elapsed(), counts.0, counts.1);
        notify("READY=1");
        doctor::log_from_a_thread(scope);
    });
    let engine = Engine { targets, frontends, table, on_link, flows, orders, inbox, receiver, holds, ready }
        .spawn()
        .map_err(&no_thread)?;
    // Created last: it must be dropped before what undoes a setting.
    let _vital = Vital::new("main");
    if let Err(error) = reactor.run(|signal| exit_at_once(&mark, &localnet, signal)) {
        vital::end(format!("cannot wait for events: {error}"));
    }
    // A panic of theirs has ended the process.
    let panicked = |_| Failure::System("a thread has panicked".to_owned());
    let all_ended = engine.join().map_err(panicked)?;
    conntrack.join().map_err(panicked)?;
    if !all_ended {
        // Its thread ends with this process, and what it has started is ended here.
        sweep(&mark);
        return Err(Failure::System("a target has not ended in time".to_owned()));
    }
    registry.unload();
    log::info!("ended");
    Ok(())
}

/// Kills the processes of commands that a crashed daemon of this network namespace, or this one at its end, has left.
fn sweep(mark: &Mark) {
    match processes::kill_all(mark, None) {
        Ok(0) => {}
        Ok(count) => log::warn!("killed {count} leftover processes of commands"),
        Err(error) => log::error!("cannot kill leftover processes of commands: {error}"),
    }
}

/// Handles a second signal: waits for nothing, and leaves nothing behind.
fn exit_at_once(mark: &Mark, localnet: &Localnet, signal: crate::reactor::Signal) -> ! {
    log::warn!("received {signal} again, exiting at once");
    if let Err(error) = processes::kill_all(mark, None) {
        log::error!("{error}");
    }
    localnet.close();
    apply::stop();
    if let Err(error) = delete_table(TABLE) {
        log::error!("cannot remove the rules: {error}");
    }
    if let Err(error) = loopback::remove_all() {
        log::error!("cannot remove the routes of ::1: {error}");
    }
    logging::exit(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manual_page_has_every_flag() {
        let page = include_str!("../docs/proxygw.8").replace("\\-", "-");
        for (flag, what) in FLAGS {
            assert!(page.contains(flag.trim()) && page.contains(what), "{flag}: {what}");
        }
    }

    #[test]
    fn the_command_line_is_read() {
        let command = |line: &str| parse(line.split_whitespace().map(OsString::from));
        assert!(matches!(command(""), Ok(Command::Run(path)) if path.as_os_str() == config::DEFAULT_PATH));
        assert!(matches!(command("--check -c x"), Ok(Command::Check(path)) if path.as_os_str() == "x"));
        assert!(matches!(command("--config=x"), Ok(Command::Run(path)) if path.as_os_str() == "x"));
        assert!(matches!(command("doctor"), Ok(Command::Doctor { json: false, .. })));
        assert!(
            matches!(command("-c x doctor --json"), Ok(Command::Doctor { config, json: true }) if config.as_os_str() == "x")
        );
        assert!(matches!(command("--help --nonsense"), Ok(Command::Print(_))));
        for wrong in ["--config", "--nonsense", "word", "--check=yes", "--json", "doctor --check", "doctor doctor"] {
            assert!(matches!(command(wrong), Err(Failure::Usage(_))), "{wrong}");
        }
    }
}
