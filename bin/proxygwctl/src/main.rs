//! The proxygw control client: one request to the daemon per run.
//!
//! `table` lists the flags and commands, `args` parses the command line, and the library exchanges the packets
//! ([`proxygw::plugins::ctl::client`]). Of the configuration only `plugins.ctl` is read, so that the client works with a file
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

use args::{Args, Format, Request};

/// Time for the whole exchange.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Reason for a failed run, which decides its exit status.
enum Failure {
    /// The daemon refuses or does not reply, or the output cannot be written.
    Daemon(String),
    /// The command line or the configuration is wrong.
    Usage(String),
}

fn main() -> ExitCode {
    let result = match args::parse(std::env::args_os().skip(1)) {
        Ok(Args::Help) => print(&table::help()),
        Ok(Args::Version) => print(&format!("proxygwctl {}\n", env!("CARGO_PKG_VERSION"))),
        Ok(Args::Request(request)) => run(&request),
        Err(message) => Err(Failure::Usage(format!("{message}; see proxygwctl --help"))),
    };
    let (message, status) = match result {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Daemon(message)) => (message, 1),
        Err(Failure::Usage(message)) => (message, 2),
    };
    for line in message.lines() {
        // An error of standard error cannot be reported anywhere.
        let _ = writeln!(io::stderr(), "proxygwctl: {}", printable(line));
    }
    ExitCode::from(status)
}

fn run(request: &Request) -> Result<(), Failure> {
    let (socket, codec) = endpoint(request)?;
    let body =
        exchange(&socket, codec, request.command.method, request.name.as_deref(), TIMEOUT).map_err(Failure::Daemon)?;
    match request.command.method {
        methods::EXPLAIN_TARGET if request.format == Format::Text => print(&sentences(&body)?),
        methods::STATUS | methods::EXPLAIN_TARGET => {
            let text = serde_json::to_string_pretty(&body)
                .map_err(|error| Failure::Daemon(format!("cannot print the reply as JSON: {error}")))?;
            print(&(text + "\n"))
        }
        _ => Ok(()),
    }
}

/// The sentences of an explanation, one per line.
fn sentences(body: &Value) -> Result<String, Failure> {
    let Some(Value::Array(sentences)) = get(body, "sentences") else {
        return Err(Failure::Daemon("the explanation has no sentences; use --json".to_owned()));
    };
    let line = |sentence: &Value| sentence.as_text().map(|text| printable(text) + "\n");
    Ok(sentences.iter().filter_map(line).collect())
}

/// A string without control characters: names and messages from outside must not control a terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// The daemon's socket and codec.
fn endpoint(request: &Request) -> Result<(PathBuf, Codec), Failure> {
    if let Some(socket) = &request.socket {
        return Ok((socket.clone(), request.codec.unwrap_or(Codec::Json)));
    }
    let settings = config::with_plugin_section(&request.config, "ctl", Settings::read)
        .map_err(|error| Failure::Usage(error.to_string()))?
        .ok_or_else(|| Failure::Usage(format!("{}: plugins.ctl is wrong", request.config.display())))?;
    Ok((settings.socket, request.codec.unwrap_or(settings.codec)))
}

/// Writes to standard output. A reader that stops early, such as `head`, is not an error.
fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::Daemon(format!("cannot write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(json: &str) -> Value {
        serde_json::from_str(json).expect("JSON")
    }

    #[test]
    fn sentences_are_printed_one_per_line_without_control_characters() {
        let text = sentences(&body(r#"{"sentences": ["one\u001b[31m", "two\nlines", 3], "name": "b"}"#));
        assert_eq!(text.ok().as_deref(), Some("one\u{fffd}[31m\ntwo\u{fffd}lines\n"));
        assert!(matches!(sentences(&body(r#"{"sentences": "one"}"#)), Err(Failure::Daemon(_))));
        assert!(matches!(sentences(&body("{}")), Err(Failure::Daemon(_))));
    }

    #[test]
    fn flags_override_the_configuration() {
        let request = |line: &str| match args::parse(line.split(' ').map(Into::into)) {
            Ok(Args::Request(request)) => request,
            other => panic!("{line}: {other:?}"),
        };
        let endpoint = |line: &str| endpoint(&request(line)).ok();
        assert_eq!(endpoint("-s /s status"), Some(("/s".into(), Codec::Json)));
        assert_eq!(endpoint("-s /s --codec cbor status"), Some(("/s".into(), Codec::Cbor)));
        let file = std::env::temp_dir().join(format!("proxygwctl-test-{}.yaml", std::process::id()));
        std::fs::write(&file, "version: v1\nplugins: {ctl: {socket: /c, codec: cbor}}\ntargets: broken\n")
            .expect("a file");
        let config = format!("-c {} status", file.display());
        assert_eq!(endpoint(&config), Some(("/c".into(), Codec::Cbor)));
        assert_eq!(endpoint(&format!("--codec json {config}")), Some(("/c".into(), Codec::Json)));
        std::fs::write(&file, "version: v1\nplugins: {ctl: {codec: xml}}\n").expect("a file");
        assert_eq!(endpoint(&config), None);
        std::fs::remove_file(&file).expect("it was written");
        assert_eq!(endpoint(&config), None);
    }
}
