//! The control client of proxygw.
//!
//! Exit status: 0 if all is well, 1 if the daemon answered with an error or does not answer, 2 for a wrong command line or
//! configuration.

mod cli;
mod client;

use std::io::{self, Write};
use std::process::ExitCode;

use cli::{Action, Invocation};
use proxygw::config;
use proxygw::plugins::ctl::settings::Settings;

/// Why there is nothing to print.
pub(crate) enum Failure {
    /// The command line or the configuration is wrong: exit status 2.
    Usage(String),
    /// The daemon answered with an error, or does not answer: exit status 1.
    Daemon(String),
}

fn main() -> ExitCode {
    match run() {
        Ok(text) => match io::stdout().write_all(text.as_bytes()) {
            // Whoever reads it has had enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("proxygwctl: cannot write the answer: {error}");
                ExitCode::FAILURE
            }
            Ok(()) => ExitCode::SUCCESS,
        },
        Err(Failure::Usage(message)) => {
            eprintln!("proxygwctl: {message}");
            ExitCode::from(2)
        }
        Err(Failure::Daemon(message)) => {
            eprintln!("proxygwctl: {message}");
            ExitCode::FAILURE
        }
    }
}

/// What to print.
fn run() -> Result<String, Failure> {
    let invocation = match cli::parse(std::env::args_os().skip(1))? {
        Action::Print(text) => return Ok(text),
        Action::Ask(invocation) => invocation,
    };
    let (socket, codec) = place(&invocation)?;
    let answer = client::ask(&socket, codec, invocation.method, invocation.name.as_deref())
        .map_err(|error| Failure::Daemon(format!("{}: {error}", socket.display())))?;
    if invocation.prints {
        let text = serde_json::to_string_pretty(&answer).map_err(|error| Failure::Daemon(error.to_string()))?;
        Ok(text + "\n")
    } else {
        Ok(String::new())
    }
}

/// Where the daemon listens, and what it speaks. The configuration is read only if the command line does not say it.
fn place(invocation: &Invocation) -> Result<(std::path::PathBuf, proxygw::plugins::ctl::wire::Codec), Failure> {
    use proxygw::plugins::ctl::wire::Codec;
    if let Some(socket) = &invocation.socket {
        return Ok((socket.clone(), invocation.codec.unwrap_or(Codec::Json)));
    }
    let settings = config::with_plugin_section(&invocation.config, "ctl", Settings::read)
        .map_err(|error| Failure::Usage(error.to_string()))?;
    let settings =
        settings.ok_or_else(|| Failure::Usage("the configuration of the control socket is wrong".to_owned()))?;
    Ok((settings.socket, invocation.codec.unwrap_or(settings.codec)))
}
