//! Table of the flags and commands. The parser, the help and the test of the manual page read it.

use proxygw::plugins::ctl::methods;

/// Meaning of a flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlagId {
    /// Sets the configuration file.
    Config,
    /// Sets the socket.
    Socket,
    /// Sets the codec.
    Codec,
    /// Prints JSON.
    Json,
    /// Prints the help.
    Help,
    /// Prints the version.
    Version,
}

/// A flag.
#[derive(Debug)]
pub struct Flag {
    /// Meaning.
    pub id: FlagId,
    /// Name without dashes.
    pub long: &'static str,
    /// Short name.
    pub short: Option<char>,
    /// Name of its value, if it takes one.
    pub value: Option<&'static str>,
    /// Text of the help.
    pub help: &'static str,
}

/// A command.
#[derive(Debug)]
pub struct Command {
    /// Name.
    pub name: &'static str,
    /// Name of its argument, if it takes one.
    pub argument: Option<&'static str>,
    /// Method of its request.
    pub method: u16,
    /// Text of the help.
    pub help: &'static str,
}

/// Default configuration file.
pub const DEFAULT_CONFIG: &str = proxygw::config::DEFAULT_PATH;

/// All flags.
pub const FLAGS: &[Flag] = &[
    Flag {
        id: FlagId::Config,
        long: "config",
        short: Some('c'),
        value: Some("FILE"),
        help: "Read the socket and the codec from this file instead of /etc/proxygw.yaml.",
    },
    Flag {
        id: FlagId::Socket,
        long: "socket",
        short: Some('s'),
        value: Some("PATH"),
        help: "Use this socket, and do not read a file.",
    },
    Flag {
        id: FlagId::Codec,
        long: "codec",
        short: None,
        value: Some("json|cbor"),
        help: "Use this codec. With --socket, the default is json.",
    },
    Flag {
        id: FlagId::Json,
        long: "json",
        short: None,
        value: None,
        help: "Print JSON instead of sentences, with explain.",
    },
    Flag { id: FlagId::Help, long: "help", short: Some('h'), value: None, help: "Show this help." },
    Flag { id: FlagId::Version, long: "version", short: Some('V'), value: None, help: "Show the version." },
];

/// All commands.
pub const COMMANDS: &[Command] = &[
    Command { name: "status", argument: None, method: methods::STATUS, help: "Print the state of everything as JSON." },
    Command {
        name: "explain",
        argument: Some("TARGET"),
        method: methods::EXPLAIN_TARGET,
        help: "Print why a target is in its state, and when it drains.",
    },
    Command {
        name: "warm",
        argument: Some("NAME"),
        method: methods::WARM_TARGET,
        help: "Warm a target, as if a client had come.",
    },
    Command {
        name: "drain",
        argument: Some("NAME"),
        method: methods::DRAIN_TARGET,
        help: "Drain a target now, in use or not.",
    },
    Command { name: "start", argument: Some("FRONTEND"), method: methods::START_FRONTEND, help: "Start a frontend." },
    Command { name: "stop", argument: Some("FRONTEND"), method: methods::STOP_FRONTEND, help: "Stop a frontend." },
];

/// The text of `--help`.
pub fn help() -> String {
    let line = |left: String, help: &str| format!("  {left:<24} {help}\n");
    let mut text = String::from("proxygwctl queries and controls a running proxygw.\n\n");
    text += "Usage: proxygwctl [OPTIONS] COMMAND\n\nCommands:\n";
    for Command { name, argument, help, .. } in COMMANDS {
        text += &line(format!("{name} {}", argument.unwrap_or("")), help);
    }
    text += "\nOptions:\n";
    for Flag { long, short, value, help, .. } in FLAGS {
        let short = short.map_or("    ".to_owned(), |short| format!("-{short}, "));
        let value = value.map_or(String::new(), |value| format!(" {value}"));
        text += &line(format!("{short}--{long}{value}"), help);
    }
    text += "\nExit status: 0 success; 1 the daemon refuses or does not reply; 2 wrong usage or configuration.\n";
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The manual page without its markup.
    fn manual() -> String {
        let page = include_str!("../../../docs/proxygwctl.1");
        let words = page.lines().map(|line| match line.split_once(' ') {
            Some((request, rest)) if request.starts_with('.') => rest,
            _ => line,
        });
        let text = words.collect::<Vec<_>>().join(" ").replace("\\-", "-").replace("\\(bu", "").replace('"', "");
        let text = ["\\fB", "\\fI", "\\fR"].iter().fold(text, |text, font| text.replace(font, ""));
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_manual_page_has_every_flag_and_command() {
        let manual = manual();
        for Flag { long, short, value, help, .. } in FLAGS {
            let mut head = short.map_or(String::new(), |short| format!("-{short}, "));
            head += &format!("--{long}");
            head += &value.map_or(String::new(), |value| format!(" {value}"));
            assert!(manual.contains(&format!("{head} {help}")), "{head} {help}");
        }
        for Command { name, argument, help, .. } in COMMANDS {
            let head = format!("{name} {}", argument.unwrap_or("")).trim_end().to_owned();
            assert!(manual.contains(&format!("{head} {help}")), "{head} {help}");
        }
    }

    #[test]
    fn the_help_fits_a_terminal_and_names_the_default() {
        assert!(help().lines().all(|line| line.len() <= 110), "{}", help());
        assert!(help().contains(DEFAULT_CONFIG));
    }
}
