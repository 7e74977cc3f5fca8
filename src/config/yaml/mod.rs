//! From a file's bytes to a [`Node`], with bounds on time and memory whatever the bytes are.
//!
//! `serde_yaml` parses, but it keeps an event per value of the whole file before the first one can be looked at, and some
//! of its costs grow with the square of the nesting. So [`scan`] first refuses, in one cheap pass, what could hold more
//! values than any configuration does; [`tree`] then builds our own tree and counts again, because an alias can stand for
//! any number of values. Positions are not part of the tree: [`locate`] finds those that are wanted afterwards.

mod locate;
mod scan;
mod tree;

pub(crate) use locate::{Place, locate};
pub(crate) use tree::MERGE;

use super::Node;

/// The most values that a file may have, aliases replaced by what they stand for.
pub(crate) const MAX_VALUES: usize = 1_000_000;

/// A line and a column, both counted from 1; the column in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    pub(crate) line: usize,
    pub(crate) column: usize,
}

/// Why a file is no YAML that can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Invalid {
    /// Where, if that is known.
    pub(crate) at: Option<Position>,
    /// What is wrong and what would be right, in lower case.
    pub(crate) what: String,
}

/// Checks that a file is text.
///
/// # Errors
/// Where it stops being UTF-8.
pub(crate) fn decode(bytes: &[u8]) -> Result<&str, Invalid> {
    std::str::from_utf8(bytes).map_err(|error| {
        let valid = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
        let column = valid.chars().rev().take_while(|c| *c != '\n').count() + 1;
        let line = valid.matches('\n').count() + 1;
        Invalid { at: Some(Position { line, column }), what: "not UTF-8: save the file in that encoding".to_owned() }
    })
}

/// Reads one YAML document.
///
/// # Errors
/// The first thing that is wrong.
pub(crate) fn parse(text: &str) -> Result<Node, Invalid> {
    scan::check(text)?;
    tree::build(text, None)
}

/// Like [`parse`], but only these keys of the topmost mapping have values. What follows the last of them may be anything.
///
/// # Errors
/// The first thing that is wrong.
pub(crate) fn parse_only(text: &str, keys: &[&str]) -> Result<Node, Invalid> {
    scan::check(text)?;
    tree::build(text, Some(keys))
}

/// A byte order mark is allowed in YAML, but `libyaml` does not skip it when it is told that the input is UTF-8.
fn without_mark(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

#[cfg(test)]
mod tests;
