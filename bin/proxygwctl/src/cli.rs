//! The command line. One table of flags and one of commands feed the parser and the help; a test holds the manual page
//! against them.

use std::ffi::OsString;
use std::path::PathBuf;

use lexopt::prelude::{Long, Short, Value, ValueExt as _};
use proxygw::daemon::DEFAULT_CONFIG;
use proxygw::plugins::ctl::wire::{Codec, method};

use crate::Failure;

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Print this, and nothing else.
    Print(String),
    /// Ask the daemon.
    Ask(Invocation),
}

/// A question or an order to the daemon.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Invocation {
    pub config: PathBuf,
    pub socket: Option<PathBuf>,
    pub codec: Option<Codec>,
    pub method: u16,
    pub name: Option<String>,
    /// Whether the answer is printed.
    pub prints: bool,
}

/// The flags: how they are written, and what they do.
const FLAGS: [(&str, &str); 5] = [
    ("-c, --config FILE", "find the control socket in the configuration FILE (default /etc/proxygw.yaml)"),
    ("-s, --socket PATH", "use the control socket at PATH, and read no configuration"),
    ("    --codec CODEC", "speak json or cbor, whatever the configuration says (default json)"),
    ("-h, --help", "say this"),
    ("-V, --version", "say which version this is"),
];

/// A command: its name, what it names, what it does, its method, and whether its answer is printed.
struct Command {
    name: &'static str,
    argument: Option<&'static str>,
    what: &'static str,
    method: u16,
    prints: bool,
}

const COMMANDS: [Command; 5] = [
    Command {
        name: "status",
        argument: None,
        what: "print the state of everything as JSON",
        method: method::STATUS,
        prints: true,
    },
    Command {
        name: "warm",
        argument: Some("TARGET"),
        what: "warm a target, as if a client had come",
        method: method::WARM_TARGET,
        prints: false,
    },
    Command {
        name: "drain",
        argument: Some("TARGET"),
        what: "drain a target now, in use or not",
        method: method::DRAIN_TARGET,
        prints: false,
    },
    Command {
        name: "start",
        argument: Some("FRONTEND"),
        what: "start a frontend",
        method: method::START_FRONTEND,
        prints: false,
    },
    Command {
        name: "stop",
        argument: Some("FRONTEND"),
        what: "stop a frontend",
        method: method::STOP_FRONTEND,
        prints: false,
    },
];

pub(crate) fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Action, Failure> {
    let wrong = |error: lexopt::Error| usage(&error.to_string());
    let mut parser = lexopt::Parser::from_args(arguments);
    let (mut config, mut socket, mut codec) = (PathBuf::from(DEFAULT_CONFIG), None, None);
    let mut words: Vec<String> = Vec::new();
    while let Some(argument) = parser.next().map_err(wrong)? {
        match argument {
            Short('c') | Long("config") => config = parser.value().map_err(wrong)?.into(),
            Short('s') | Long("socket") => socket = Some(PathBuf::from(parser.value().map_err(wrong)?)),
            Long("codec") => {
                let name: String = parser.value().and_then(|value| value.parse()).map_err(wrong)?;
                codec = Some(Codec::from_name(&name).ok_or_else(|| usage(&format!("{name:?} is not a codec")))?);
            }
            Short('h') | Long("help") => return Ok(Action::Print(help())),
            Short('V') | Long("version") => {
                return Ok(Action::Print(format!("proxygwctl {}\n", env!("CARGO_PKG_VERSION"))));
            }
            Value(word) => words.push(word.parse().map_err(wrong)?),
            other => return Err(wrong(other.unexpected())),
        }
    }
    let mut words = words.into_iter();
    let word = words.next().ok_or_else(|| usage("a command is missing"))?;
    let command = COMMANDS.iter().find(|command| command.name == word);
    let command = command.ok_or_else(|| usage(&format!("{word:?} is not a command")))?;
    let name = match command.argument {
        Some(what) => Some(words.next().ok_or_else(|| usage(&format!("{word} needs a {what}")))?),
        None => None,
    };
    if let Some(more) = words.next() {
        return Err(usage(&format!("{more:?} is too much")));
    }
    Ok(Action::Ask(Invocation { config, socket, codec, method: command.method, name, prints: command.prints }))
}

fn usage(message: &str) -> Failure {
    Failure::Usage(format!("{message}\n\n{}", help()))
}

fn help() -> String {
    let mut text = "Asks a running proxygw.\n\nUsage: proxygwctl [FLAGS] COMMAND\n\n".to_owned();
    for Command { name, argument, what, .. } in COMMANDS {
        text.push_str(&format!("  {:<20}  {what}\n", format!("{name} {}", argument.unwrap_or_default())));
    }
    text.push('\n');
    for (flag, what) in FLAGS {
        text.push_str(&format!("  {flag:<20}  {what}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(line: &str) -> Result<Action, String> {
        parse(line.split_whitespace().map(OsString::from)).map_err(|failure| match failure {
            Failure::Usage(text) => text.lines().next().unwrap_or_default().to_owned(),
            Failure::Daemon(text) => panic!("{text}"),
        })
    }

    #[test]
    fn reads_what_people_write() {
        let Ok(Action::Ask(status)) = asked("--config /x.yaml status") else { panic!("a question") };
        assert_eq!((status.config, status.method, status.prints), (PathBuf::from("/x.yaml"), method::STATUS, true));
        let Ok(Action::Ask(warm)) = asked("warm -s /run/s --codec=cbor backend") else { panic!("an order") };
        assert_eq!(
            (warm.socket, warm.codec, warm.name),
            (Some("/run/s".into()), Some(Codec::Cbor), Some("backend".into()))
        );
    }

    #[test]
    fn says_what_is_wrong() {
        let cases = [
            ("", "a command is missing"),
            ("stat", "\"stat\" is not a command"),
            ("warm", "warm needs a TARGET"),
            ("status now", "\"now\" is too much"),
            ("--codec xml status", "\"xml\" is not a codec"),
            ("--conf x status", "invalid option '--conf'"),
        ];
        for (line, message) in cases {
            assert_eq!(asked(line), Err(message.to_owned()), "{line}");
        }
    }

    #[test]
    fn the_manual_page_has_every_flag_and_command() {
        let page =
            include_str!("../../../docs/proxygwctl.1").replace("\\-", "-").replace("\\fR", "").replace("\\fI", "");
        let page = page.replace("\\fB", "");
        for (flag, what) in FLAGS {
            assert!(page.contains(flag.trim()) && page.contains(what), "{flag}: {what}");
        }
        for Command { name, argument, what, .. } in COMMANDS {
            let command = format!("{name} {}", argument.unwrap_or_default());
            assert!(page.contains(command.trim()) && page.contains(what), "{command}: {what}");
        }
    }
}
