//! Durations as text: Go's `time.ParseDuration`, to the letter, and whole units in words.
//!
//! The Go form is tried first, so whatever was a duration of a v1 file means the same here. What Go refuses is read as a
//! sum of whole units with `humantime` (`2 minutes`, `1h 30min`), without months and years, whose length varies.

use std::time::Duration;

/// Go keeps durations in an `int64` of nanoseconds.
const GO_MAX: u64 = i64::MAX as u64;

/// One more than [`GO_MAX`]: what Go's parser tolerates on the way, for the sake of the most negative value.
const GO_LIMIT: u64 = 1 << 63;

/// Reads a duration such as `1h30m`, `1.5h`, `300ms`, `0`, `2 minutes` or `1day`.
///
/// # Errors
/// What is wrong with the text and what would be right, in lower case. Negative durations and durations of more than 292
/// years (Go's limit) are errors too.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    match parse_go(text) {
        Ok(duration) => Ok(duration),
        Err(wrong) => match split_words(text) {
            Some(units) => parse_words(text, &units),
            None => Err(wrong),
        },
    }
}

/// `time.ParseDuration`, with its arithmetic, so that a duration has the same nanoseconds in both programs.
fn parse_go(text: &str) -> Result<Duration, String> {
    let shown = super::suggest::quoted(text);
    let invalid = || format!("{shown} is not a duration: write a number and a unit, such as 30s, 5m or 1h30m");
    let too_long = || format!("{shown} is too long a duration");

    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let (whole, after) = leading_int(rest).ok_or_else(too_long)?;
        let mut digits = rest.len() != after.len();
        rest = after;
        let (mut fraction, mut scale) = (0, 1.0);
        if let Some(after) = rest.strip_prefix('.') {
            (fraction, scale, rest) = leading_fraction(after);
            digits |= rest.len() != after.len();
        }
        if !digits {
            return Err(invalid());
        }
        let end = rest.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        let unit = unit(name).ok_or_else(|| unknown_unit(text, name))?;
        rest = after;

        let mut value = whole.checked_mul(unit).filter(|value| *value <= GO_LIMIT).ok_or_else(too_long)?;
        if fraction > 0 {
            value += (fraction as f64 * (unit as f64 / scale)) as u64;
        }
        total = total.checked_add(value).filter(|total| *total <= GO_LIMIT).ok_or_else(too_long)?;
    }
    if negative && total > 0 {
        return Err(format!("{shown} is negative: a duration cannot be"));
    }
    if total > GO_MAX {
        return Err(too_long());
    }
    Ok(Duration::from_nanos(total))
}

/// The nanoseconds of one of Go's units.
fn unit(name: &str) -> Option<u64> {
    Some(match name {
        "ns" => 1,
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    })
}

fn unknown_unit(text: &str, name: &str) -> String {
    let text_shown = super::suggest::quoted(text);
    match name {
        "" => {
            let hint = match text.len() {
                1..=9 => format!("{text}s, {text}m or {text}h"),
                _ => "30s, 5m or 1h".to_owned(),
            };
            format!("{text_shown} has no unit: write {hint}")
        }
        "M" => format!("{text_shown} is not a duration: minutes are a small m, and months have no fixed length"),
        _ if is_calendar(name) => {
            format!("{text_shown} is not a duration: months and years have no fixed length, write days")
        }
        _ => format!(
            "unknown unit {} in the duration {text_shown}: the units are ns, us, ms, s, m, h (and d, days, weeks)",
            super::suggest::quoted(name)
        ),
    }
}

/// Digits up to the first byte that is none; `None` if they exceed Go's limit.
fn leading_int(text: &str) -> Option<(u64, &str)> {
    let end = text.bytes().position(|b| !b.is_ascii_digit()).unwrap_or(text.len());
    let mut value: u64 = 0;
    for digit in text[..end].bytes() {
        value = value.checked_mul(10)?.checked_add(u64::from(digit - b'0')).filter(|value| *value <= GO_LIMIT)?;
    }
    Some((value, &text[end..]))
}

/// The digits behind a point, and the power of ten to divide them by. Digits that no longer fit are dropped, as in Go.
fn leading_fraction(text: &str) -> (u64, f64, &str) {
    let end = text.bytes().position(|b| !b.is_ascii_digit()).unwrap_or(text.len());
    let (mut value, mut scale, mut full) = (0_u64, 1.0, false);
    for digit in text[..end].bytes() {
        if full {
            continue;
        }
        let next = value.checked_mul(10).and_then(|value| value.checked_add(u64::from(digit - b'0')));
        match next.filter(|next| value <= GO_MAX / 10 && *next <= GO_LIMIT) {
            Some(next) => (value, scale) = (next, scale * 10.0),
            None => full = true,
        }
    }
    (value, scale, &text[end..])
}

fn is_calendar(unit: &str) -> bool {
    matches!(unit, "M" | "month" | "months" | "y" | "yr" | "yrs" | "year" | "years")
}

/// The units of a sum of whole units in words, or `None` if the text is no such sum. `humantime` alone would also take
/// `1 0s` for ten seconds.
fn split_words(text: &str) -> Option<Vec<&str>> {
    let mut units = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let number = rest.bytes().position(|b| !b.is_ascii_digit())?;
        if number == 0 {
            return None;
        }
        rest = rest[number..].trim_start_matches(' ');
        let end = rest.find(|c: char| !c.is_alphabetic()).unwrap_or(rest.len());
        if end == 0 {
            return None;
        }
        units.push(&rest[..end]);
        rest = &rest[end..];
        let next = rest.trim_start_matches(' ');
        if next.is_empty() && !rest.is_empty() {
            return None;
        }
        rest = next;
    }
    (!units.is_empty()).then_some(units)
}

fn parse_words(text: &str, units: &[&str]) -> Result<Duration, String> {
    if let Some(unit) = units.iter().find(|unit| is_calendar(unit)) {
        return Err(unknown_unit(text, unit));
    }
    let shown = super::suggest::quoted(text);
    let duration = humantime::parse_duration(&text.replace('\u{3bc}', "\u{b5}")).map_err(|error| match error {
        humantime::DurationError::UnknownUnit { unit, .. } => unknown_unit(text, &unit),
        humantime::DurationError::NumberOverflow => format!("{shown} is too long a duration"),
        error => format!("{shown} is not a duration: {error}"),
    })?;
    if duration > Duration::from_nanos(GO_MAX) {
        return Err(format!("{shown} is too long a duration"));
    }
    Ok(duration)
}

#[cfg(test)]
mod tests;
