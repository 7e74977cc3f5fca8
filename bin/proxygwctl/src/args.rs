//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use lexopt::Arg;
use proxygw::plugins::ctl::settings;
use proxygw::plugins::ctl::wire::Codec;

use crate::table::{COMMANDS, Command, DEFAULT_CONFIG, FLAGS, Flag, FlagId};

/// A parsed command line.
#[derive(Debug)]
pub enum Args {
    /// Print the help.
    Help,
    /// Print the version.
    Version,
    /// Send a request to the daemon.
    Request(Request),
}

/// Format of an explanation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Sentences.
    Text,
    /// JSON.
    Json,
}

/// A request to the daemon.
#[derive(Debug)]
pub struct Request {
    /// Configuration file.
    pub config: PathBuf,
    /// Socket to use instead of the configuration's.
    pub socket: Option<PathBuf>,
    /// Codec to use instead of the configuration's.
    pub codec: Option<Codec>,
    /// Format of an explanation.
    pub format: Format,
    /// The command.
    pub command: &'static Command,
    /// Name of a target or frontend, for commands that take one.
    pub name: Option<String>,
}

/// Parses a command line without the program's name.
///
/// # Errors
/// A message about the first mistake.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Args, String> {
    let mut parser = lexopt::Parser::from_args(args);
    let (mut config, mut socket, mut codec) = (PathBuf::from(DEFAULT_CONFIG), None, None);
    let mut words = Vec::new();
    let mut format = Format::Text;
    while let Some(arg) = parser.next().map_err(|error| error.to_string())? {
        let flag = match &arg {
            Arg::Value(word) => {
                words.push(word.to_str().ok_or_else(|| format!("{word:?} is not UTF-8"))?.to_owned());
                continue;
            }
            Arg::Long(name) => FLAGS.iter().find(|flag| flag.long == *name),
            Arg::Short(letter) => FLAGS.iter().find(|flag| flag.short == Some(*letter)),
        };
        let Some(&Flag { id, long, .. }) = flag else { return Err(arg.unexpected().to_string()) };
        let mut value = || parser.value().map_err(|error| error.to_string());
        match id {
            FlagId::Help => return Ok(Args::Help),
            FlagId::Version => return Ok(Args::Version),
            FlagId::Json => format = Format::Json,
            FlagId::Config => config = value()?.into(),
            FlagId::Socket => {
                let path = PathBuf::from(value()?);
                settings::check_path(&path).map_err(|message| format!("--{long}: {message}"))?;
                socket = Some(path);
            }
            FlagId::Codec => {
                let name = value()?;
                let known = name.to_str().and_then(Codec::named);
                codec = Some(known.ok_or_else(|| format!("--{long}: unknown codec {name:?}: use json or cbor"))?);
            }
        }
    }
    let (command, name) = command(words)?;
    Ok(Args::Request(Request { config, socket, codec, format, command, name }))
}

fn command(words: Vec<String>) -> Result<(&'static Command, Option<String>), String> {
    let mut words = words.into_iter();
    let Some(word) = words.next() else {
        return Err("a command is missing, such as status".to_owned());
    };
    let Some(command) = COMMANDS.iter().find(|command| command.name == word) else {
        let known: Vec<&str> = COMMANDS.iter().map(|command| command.name).collect();
        return Err(format!("unknown command {word:?}; the commands are {}", known.join(", ")));
    };
    let name = match (command.argument, words.next()) {
        (Some(argument), None) => return Err(format!("{word} needs a {argument}")),
        (Some(_), name) => name,
        (None, None) => None,
        (None, Some(extra)) => return Err(format!("{word} takes no argument; unexpected {extra:?}")),
    };
    match words.next() {
        Some(extra) => Err(format!("{word} takes one argument; unexpected {extra:?}")),
        None => Ok((command, name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Args, String> {
        parse(line.split_whitespace().map(OsString::from))
    }

    fn request(line: &str) -> Request {
        match parsed(line) {
            Ok(Args::Request(request)) => request,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn flags_may_come_before_and_after_the_command() {
        for line in ["-c f --socket=/s --codec cbor warm web", "warm --codec=cbor web --config f -s /s"] {
            let request = request(line);
            assert_eq!(request.config, PathBuf::from("f"));
            assert_eq!(request.socket, Some(PathBuf::from("/s")));
            assert_eq!(request.codec, Some(Codec::Cbor));
            assert_eq!((request.command.name, request.name.as_deref()), ("warm", Some("web")));
        }
        let plain = request("status");
        assert_eq!(
            (plain.config, plain.socket, plain.codec, plain.name),
            (PathBuf::from(DEFAULT_CONFIG), None, None, None)
        );
        assert_eq!(request("drain -- -x").name.as_deref(), Some("-x"));
        assert_eq!((plain.format, request("explain --json b").format), (Format::Text, Format::Json));
    }

    #[test]
    fn help_and_version_need_no_command() {
        assert!(matches!(parsed("--help"), Ok(Args::Help)));
        assert!(matches!(parsed("status -h"), Ok(Args::Help)));
        assert!(matches!(parsed("--version"), Ok(Args::Version)));
        assert!(matches!(parsed("-V"), Ok(Args::Version)));
    }

    #[test]
    fn mistakes_are_named() {
        for (line, part) in [
            ("", "a command is missing"),
            ("stats", "the commands are status, explain, warm, drain, start, stop"),
            ("status x", "takes no argument"),
            ("warm", "warm needs a NAME"),
            ("start", "start needs a FRONTEND"),
            ("warm a b", "\"b\""),
            ("--codec xml status", "\"xml\""),
            ("--codec", "--codec"),
            ("--what status", "--what"),
            ("-x status", "-x"),
            ("--socket= status", "empty"),
        ] {
            match parsed(line) {
                Err(message) => assert!(message.contains(part), "{line}: {message}"),
                Ok(args) => panic!("{line}: {args:?}"),
            }
        }
        let long = format!("--socket=/{} status", "x".repeat(107));
        assert!(parsed(&long).is_err());
    }
}
