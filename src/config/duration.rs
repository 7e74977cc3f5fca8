//! Durations in Go's syntax, which version 1 of the file has had from the start, and in words.
//!
//! `humantime` reads neither `0`, `+5s`, `.5s` nor `0.333h`, but takes `1 0s` for ten seconds and months for 30.44 days.

use std::time::Duration;

use super::suggest::quoted;

/// Nanoseconds that a Go duration, an `int64`, holds at most: 292 years.
const MAX_NANOS: u128 = i64::MAX as u128;

/// Digits behind the point that count. The others are below a nanosecond.
const MAX_FRACTION: usize = 18;

/// Units with their names, in nanoseconds.
const UNITS: [(&[&str], u128); 8] = [
    (&["ns", "nsec", "nanos"], 1),
    (&["us", "\u{b5}s", "\u{3bc}s", "usec"], 1_000),
    (&["ms", "msec", "millis"], 1_000_000),
    (&["s", "sec", "secs", "second", "seconds"], 1_000_000_000),
    (&["m", "min", "mins", "minute", "minutes"], 60 * 1_000_000_000),
    (&["h", "hr", "hrs", "hour", "hours"], 3_600 * 1_000_000_000),
    (&["d", "day", "days"], 86_400 * 1_000_000_000),
    (&["w", "wk", "wks", "week", "weeks"], 7 * 86_400 * 1_000_000_000),
];

/// Reads a duration such as `1h30m`, `1.5h`, `300ms`, `0`, `2 minutes` or `1day`.
///
/// # Errors
/// What is wrong with the string and what would be right, in lower case. Negative durations and durations of more than 292
/// years (Go's limit) are errors too.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let shown = quoted(text);
    let invalid = || format!("{shown} is not a duration: write a number and a unit, such as 30s, 5m or 1h30m");
    let too_long = || format!("{shown} is too long a duration");

    let negative = text.starts_with('-');
    let mut rest = text.strip_prefix(['+', '-']).unwrap_or(text);
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    let mut nanos: u128 = 0;
    loop {
        let end = rest.find(|c: char| c != '.' && !c.is_ascii_digit()).unwrap_or(rest.len());
        let (number, after) = rest.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.len() + fraction.len() == 0 || fraction.contains('.') {
            return Err(invalid());
        }
        let after = after.trim_start_matches(' ');
        let end = after.find(|c: char| matches!(c, '.' | ' ' | '0'..='9')).unwrap_or(after.len());
        let (name, after) = after.split_at(end);
        let unit = UNITS.iter().find(|(names, _)| names.contains(&name));
        let (_, unit) = unit.ok_or_else(|| unknown_unit(text, name))?;

        let whole = if whole.is_empty() { 0 } else { whole.parse::<u64>().map_err(|_| too_long())?.into() };
        nanos += whole * unit;
        let digits = fraction.bytes().take(MAX_FRACTION).map(|digit| u128::from(digit - b'0'));
        let (fraction, scale) = digits.fold((0, 1), |(sum, scale), digit| (sum * 10 + digit, scale * 10));
        nanos += fraction * unit / scale;
        if nanos > MAX_NANOS {
            return Err(too_long());
        }
        rest = after.trim_start_matches(' ');
        if after.is_empty() {
            break;
        }
    }
    match u64::try_from(nanos) {
        Ok(1..) if negative => Err(format!("{shown} is negative: a duration cannot be")),
        Ok(nanos) => Ok(Duration::from_nanos(nanos)),
        Err(_) => Err(too_long()),
    }
}

fn unknown_unit(text: &str, name: &str) -> String {
    let shown = quoted(text);
    match name {
        "" => {
            let hint = match text.len() {
                1..=9 => format!("{text}s, {text}m or {text}h"),
                _ => "30s, 5m or 1h".to_owned(),
            };
            format!("{shown} has no unit: write {hint}")
        }
        "M" => format!("{shown} is not a duration: minutes are a small m, and months have no fixed length"),
        "month" | "months" | "y" | "yr" | "yrs" | "year" | "years" => {
            format!("{shown} is not a duration: months and years have no fixed length, write days")
        }
        _ => format!(
            "unknown unit {} in the duration {shown}: the units are ns, us, ms, s, m, h (and d, days, weeks)",
            quoted(name)
        ),
    }
}

/// Whole seconds, rounded up: as the kernel counts, and as remaining times are shown.
pub(crate) fn seconds_rounded_up(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests;
