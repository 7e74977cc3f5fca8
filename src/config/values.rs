//! Types that the file restricts: names, kinds, references, bounded durations.

use std::time::Duration;

use log::LevelFilter;

use super::from_node::text;
use super::suggest::quoted;
use super::{Address, FromNode, Kind, LogOutput, Masquerade, Node, Protocol, address, seconds_rounded_up};

/// Maximum bytes of a name.
const MAX_NAME: usize = 128;

/// Maximum timeout of the daemon's own timers.
const MAX_TIMEOUT: Duration = Duration::from_secs(365 * DAY);

/// Maximum timeout of a conntrack entry. The kernel holds it as seconds × HZ in 32 bits: with HZ = 1000, half of their
/// range, which is what it can compare, is 24.8 days. A longer one wraps, to as little as nothing.
pub const MAX_KERNEL_TIMEOUT: Duration = Duration::from_secs(24 * DAY);

/// Seconds in a day.
const DAY: u64 = 24 * 60 * 60;

/// Minimum timeout: anything below is a mistake.
const MIN_TIMEOUT: Duration = Duration::from_millis(1);

/// The name of a target, an endpoint or a frontend.
pub(super) struct Name(pub(super) String);

impl FromNode for Name {
    const EXPECTED: &'static str = "a name";

    fn from_node(node: &Node) -> Result<Name, String> {
        let name = text(node)?;
        check_name(name)?;
        Ok(Name(name.to_owned()))
    }
}

fn check_name(name: &str) -> Result<(), String> {
    let shown = quoted(name);
    if name.is_empty() {
        return Err("a name cannot be empty".to_owned());
    }
    if name.len() > MAX_NAME {
        return Err(format!("{shown} has {} bytes: a name has at most {MAX_NAME}", name.len()));
    }
    if name.contains(':') {
        return Err(format!("{shown} has a colon, which separates names in references: use another character"));
    }
    match name.chars().find(|c| c.is_whitespace() || c.is_control()) {
        Some(c) => Err(format!("{shown} has the character {c:?}: a name has no spaces and no control characters")),
        None => Ok(()),
    }
}

/// Reads `a:b`.
fn pair(node: &Node, form: &str) -> Result<(String, String), String> {
    let text = text(node)?;
    match text.split_once(':') {
        Some((a, b)) if check_name(a).is_ok() && check_name(b).is_ok() => Ok((a.to_owned(), b.to_owned())),
        _ => Err(format!("{} is not {form}", quoted(text))),
    }
}

impl FromNode for Kind {
    const EXPECTED: &'static str = "a kind, namespace:name, such as static:cmd";

    fn from_node(node: &Node) -> Result<Kind, String> {
        let (namespace, name) = pair(node, "a kind: write namespace:name, such as static:cmd")?;
        Ok(Kind { namespace, name })
    }
}

/// A frontend's `target`.
pub(super) struct Reference {
    pub(super) target: String,
    /// `None` stands for the target's only endpoint.
    pub(super) endpoint: Option<String>,
}

impl FromNode for Reference {
    const EXPECTED: &'static str = "an endpoint, target:endpoint, such as backend:http";

    fn from_node(node: &Node) -> Result<Reference, String> {
        let name = text(node)?;
        if check_name(name).is_ok() {
            return Ok(Reference { target: name.to_owned(), endpoint: None });
        }
        let (target, endpoint) = pair(node, "an endpoint: write target:endpoint, such as backend:http")?;
        Ok(Reference { target, endpoint: Some(endpoint) })
    }
}

impl FromNode for Protocol {
    const EXPECTED: &'static str = "tcp or udp";

    fn from_node(node: &Node) -> Result<Protocol, String> {
        match text(node)? {
            "tcp" => Ok(Protocol::Tcp),
            "udp" => Ok(Protocol::Udp),
            other => Err(format!("{} is not a protocol: write tcp or udp", quoted(other))),
        }
    }
}

/// Addresses of a backend: one, or a list with one of each family.
pub(super) struct EndpointAddresses(pub(super) Vec<Address>);

impl FromNode for EndpointAddresses {
    const EXPECTED: &'static str = Address::EXPECTED;

    fn from_node(node: &Node) -> Result<EndpointAddresses, String> {
        let addresses = one_or_more(node, EndpointAddresses::EXPECTED, address::check_endpoint)?;
        for (index, address) in addresses.iter().enumerate() {
            let family = address.family();
            if let Some(other) = addresses[..index].iter().find(|other| other.family() == family) {
                return Err(format!(
                    "[{index}]: {address} is a second {family} address, after {other}: at most one of each family"
                ));
            }
        }
        Ok(EndpointAddresses(addresses))
    }
}

/// Addresses that clients can connect to, one or a list; the unspecified ones stand for all of this host.
pub(super) struct ListenAddresses(pub(super) Vec<Address>);

impl FromNode for ListenAddresses {
    const EXPECTED: &'static str = "an address such as 0.0.0.0:80 or [::]:80";

    fn from_node(node: &Node) -> Result<ListenAddresses, String> {
        one_or_more(node, ListenAddresses::EXPECTED, address::check_unicast).map(ListenAddresses)
    }
}

/// One address, or a list of at least one.
fn one_or_more(
    node: &Node,
    expected: &str,
    check: fn(Address) -> Result<Address, String>,
) -> Result<Vec<Address>, String> {
    let one = |node: &Node| match node {
        Node::Str(_) => Address::from_node(node).and_then(check),
        _ => Err(format!("{expected} is expected, found {}", node.describe())),
    };
    match node {
        Node::Seq(elements) if elements.is_empty() => Err(format!("an empty list: {expected} is required")),
        Node::Seq(elements) => {
            let elements = elements.iter().enumerate();
            elements.map(|(index, node)| one(node).map_err(|wrong| format!("[{index}]: {wrong}"))).collect()
        }
        _ => one(node).map(|address| vec![address]),
    }
}

/// A time that the daemon waits: at least 1 ms, at most 365 days.
pub(super) struct Timeout(pub(super) Duration);

impl FromNode for Timeout {
    const EXPECTED: &'static str = Duration::EXPECTED;

    fn from_node(node: &Node) -> Result<Timeout, String> {
        let duration = positive(node)?;
        if duration > MAX_TIMEOUT {
            return Err("too long: at most 365 days (8760h)".to_owned());
        }
        if duration < MIN_TIMEOUT {
            return Err(format!("{duration:?} is too short: at least 1ms"));
        }
        Ok(Timeout(duration))
    }
}

/// A time that the kernel waits: at most [`MAX_KERNEL_TIMEOUT`]. It counts whole seconds, so a fraction is rounded up.
pub(super) struct KernelTimeout(pub(super) Duration);

impl FromNode for KernelTimeout {
    const EXPECTED: &'static str = Duration::EXPECTED;

    fn from_node(node: &Node) -> Result<KernelTimeout, String> {
        let duration = positive(node)?;
        if duration > MAX_KERNEL_TIMEOUT {
            return Err("too long: at most 24 days (576h), because longer kernel timers wrap".to_owned());
        }
        Ok(KernelTimeout(Duration::from_secs(seconds_rounded_up(duration))))
    }
}

fn positive(node: &Node) -> Result<Duration, String> {
    let duration = Duration::from_node(node)?;
    if duration.is_zero() {
        return Err("0 is not a timeout: write a duration such as 30s or 5m".to_owned());
    }
    Ok(duration)
}

impl FromNode for LogOutput {
    const EXPECTED: &'static str = "stdout, stderr or a path";

    fn from_node(node: &Node) -> Result<LogOutput, String> {
        match node {
            Node::Str(text) if text == "stdout" => Ok(LogOutput::Stdout),
            Node::Str(text) if text == "stderr" => Ok(LogOutput::Stderr),
            _ => FromNode::from_node(node).map(LogOutput::File),
        }
    }
}

/// A log level, with the names and the offsets of Go's `slog`: `INFO`, `debug`, `WARN+1`.
pub(super) struct Level(pub(super) LevelFilter);

impl FromNode for Level {
    const EXPECTED: &'static str = "DEBUG, INFO, WARN or ERROR";

    fn from_node(node: &Node) -> Result<Level, String> {
        let text = text(node)?;
        parse_level(text).map(Level).ok_or_else(|| {
            let hint = match text.to_ascii_lowercase().as_str() {
                "warning" => "write WARN",
                "trace" => "write DEBUG-4",
                "critical" | "fatal" => "write ERROR",
                _ => "write DEBUG, INFO, WARN or ERROR",
            };
            format!("{} is not a level: {hint}", quoted(text))
        })
    }
}

/// `slog` numbers its levels -4, 0, 4 and 8. A level in between includes all messages that are at least as severe.
fn parse_level(text: &str) -> Option<LevelFilter> {
    let (name, offset) = match text.find(['+', '-']) {
        Some(sign) => (&text[..sign], text[sign..].parse::<i32>().ok()?),
        None => (text, 0),
    };
    let base = match name.to_ascii_uppercase().as_str() {
        "DEBUG" => -4,
        "INFO" => 0,
        "WARN" => 4,
        "ERROR" => 8,
        _ => return None,
    };
    Some(match offset.saturating_add(base) {
        ..=-8 => LevelFilter::Trace,
        -7..=-4 => LevelFilter::Debug,
        -3..=0 => LevelFilter::Info,
        1..=4 => LevelFilter::Warn,
        5..=8 => LevelFilter::Error,
        9.. => LevelFilter::Off,
    })
}

/// The key `masquerade` of a frontend.
impl FromNode for Masquerade {
    const EXPECTED: &'static str = "auto, always or never";

    fn from_node(node: &Node) -> Result<Masquerade, String> {
        match text(node)? {
            "auto" => Ok(Masquerade::Auto),
            "always" => Ok(Masquerade::Always),
            "never" => Ok(Masquerade::Never),
            other => Err(format!("{} is not known: write auto, always or never", quoted(other))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_those_of_slog() {
        for (text, expected) in [
            ("DEBUG", Some(LevelFilter::Debug)),
            ("info", Some(LevelFilter::Info)),
            ("Warn", Some(LevelFilter::Warn)),
            ("ERROR", Some(LevelFilter::Error)),
            ("DEBUG-4", Some(LevelFilter::Trace)),
            ("debug+4", Some(LevelFilter::Info)),
            ("INFO+1", Some(LevelFilter::Warn)),
            ("ERROR+1", Some(LevelFilter::Off)),
            ("INFO+2147483647", Some(LevelFilter::Off)),
            ("WARN+2147483647", Some(LevelFilter::Off)),
            ("INFO+99999999999", None),
            ("INFO+", None),
            ("INFO++1", None),
            ("+1", None),
            ("", None),
            ("WARNING", None),
            (" INFO", None),
        ] {
            assert_eq!(parse_level(text), expected, "{text}");
        }
    }

    #[test]
    fn kernel_timeouts_are_whole_seconds() {
        for (text, seconds) in [("1ns", 1), ("300ms", 1), ("1s", 1), ("1s1ns", 2), ("1.5s", 2), ("24d", 2_073_600)] {
            let node = Node::Str(text.to_owned());
            let timeout = KernelTimeout::from_node(&node).expect(text);
            assert_eq!(timeout.0, Duration::from_secs(seconds), "{text}");
        }
    }

    #[test]
    fn kernel_timeouts_beyond_24_days_are_refused() {
        // 17179870 s are 0 at 250 Hz in 32 bits.
        for text in ["24d1ns", "2073601s", "25d", "4294968s", "17179870s", "365d", "2562047h"] {
            let Err(wrong) = KernelTimeout::from_node(&Node::Str(text.to_owned())) else {
                panic!("{text} is accepted")
            };
            assert!(wrong.starts_with("too long: at most 24 days (576h)"), "{text}: {wrong}");
        }
    }

    #[test]
    fn timeouts_beyond_a_year_are_refused() {
        let read = |text: &str| Timeout::from_node(&Node::Str(text.to_owned())).map(|Timeout(timeout)| timeout);
        assert_eq!(read("365d"), Ok(MAX_TIMEOUT));
        assert_eq!(read("8760h1ns"), Err("too long: at most 365 days (8760h)".to_owned()));
    }

    /// Deadlines are computed as `Instant + Duration`, which panics when it overflows.
    #[test]
    fn no_duration_of_a_file_overflows_a_deadline() {
        let longest = Duration::from_node(&Node::Str("9223372036854775807ns".to_owned())).expect("Go's longest");
        let now = std::time::Instant::now();
        let sum = (0..1000).try_fold(now, |at, _| at.checked_add(longest));
        assert!(sum.is_some(), "the sum fits");
    }
}
