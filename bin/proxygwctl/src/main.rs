//! The proxygw control client: one question to the daemon per run.
//!
//! `table` lists the flags and commands, `args` reads the command line; the conversation is the library's
//! ([`proxygw::plugins::ctl::client`]). Of the configuration only `plugins.ctl` is looked at, so that the client works with a file
//! that names plugins it was not built with.

mod args;
mod table;

use std::io::{self, ErrorKind, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use proxygw::config;
use proxygw::plugins::ctl::client::exchange;
use proxygw::plugins::ctl::methods;
use proxygw::plugins::ctl::settings::Settings;
use proxygw::plugins::ctl::wire::{Codec, Value, get};

use args::{Args, Ask};

/// How long the daemon may take for its answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why the run has failed, which is also its exit status.
enum Failure {
    /// The daemon refuses, or is not there, or the output cannot be written.
    Daemon(String),
    /// The command line or the configuration is wrong.
    Usage(String),
}

fn main() -> ExitCode {
    let result = match args::parse(std::env::args_os().skip(1)) {
        Ok(Args::Help) => print(&table::help()),
        Ok(Args::Version) => print(&format!("proxygwctl {}\n", env!("CARGO_PKG_VERSION"))),
        Ok(Args::Ask(ask)) => run(&ask),
        Err(message) => Err(Failure::Usage(format!("{message}; see proxygwctl --help"))),
    };
    let (message, status) = match result {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Daemon(message)) => (message, 1),
        Err(Failure::Usage(message)) => (message, 2),
    };
    for line in message.lines() {
        // There is nowhere left to say that standard error cannot be written to.
        let _ = writeln!(io::stderr(), "proxygwctl: {}", harmless(line));
    }
    ExitCode::from(status)
}

fn run(ask: &Ask) -> Result<(), Failure> {
    let (socket, codec) = place(ask)?;
    let body = exchange(&socket, codec, ask.command.method, ask.name.as_deref(), PATIENCE)
        .map_err(|error| Failure::Daemon(error.to_string()))?;
    match ask.command.method {
        methods::EXPLAIN_TARGET if !ask.json => print(&sentences(&body)?),
        methods::STATUS | methods::EXPLAIN_TARGET => {
            let text = serde_json::to_string_pretty(&body)
                .map_err(|error| Failure::Daemon(format!("cannot show the answer as JSON: {error}")))?;
            print(&(text + "\n"))
        }
        _ => Ok(()),
    }
}

/// The sentences of an explanation, a line each.
fn sentences(body: &Value) -> Result<String, Failure> {
    let Some(Value::Array(sentences)) = get(body, "sentences") else {
        return Err(Failure::Daemon("the daemon's explanation has no sentences; --json shows what it has".to_owned()));
    };
    let line = |sentence: &Value| sentence.as_text().map(|text| harmless(text) + "\n");
    Ok(sentences.iter().filter_map(line).collect())
}

/// Names and messages come from elsewhere, and must not be able to command a terminal.
fn harmless(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// Where the daemon is, and what it speaks.
fn place(ask: &Ask) -> Result<(PathBuf, Codec), Failure> {
    if let Some(socket) = &ask.socket {
        return Ok((socket.clone(), ask.codec.unwrap_or(Codec::Json)));
    }
    let settings = config::with_plugin_section(&ask.config, "ctl", Settings::read)
        .map_err(|error| Failure::Usage(error.to_string()))?
        .ok_or_else(|| Failure::Usage(format!("{}: plugins.ctl is wrong", ask.config.display())))?;
    Ok((settings.socket, ask.codec.unwrap_or(settings.codec)))
}

/// Writes to standard output. A reader that has seen enough, such as `head`, is no failure.
fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::Daemon(format!("cannot write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}
