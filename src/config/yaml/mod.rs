//! From a file's bytes to a [`Node`], with bounds on time and memory whatever the bytes are.
//!
//! `serde_yaml` parses, but it holds an event per value of the whole file before the first one can be read, and some of
//! its costs grow with the square of the nesting. So [`scan`] first rejects, in one cheap pass, files with more values than
//! any configuration has. [`tree`] then builds our own tree and counts again, because an alias can stand for any number of
//! values. Positions are not part of the tree: [`locate`] finds those that are needed afterwards.
//!
//! State of the crates at the end of 2026, for a later change:
//! - `yaml_serde` 0.10, the YAML organisation's fork, is the maintained drop-in for the archived `serde_yaml` 0.9. It has
//!   the same limits: no budget, no spans. `serde_yaml_ng` 0.10 and `serde_norway` 0.9 have had no release since 2024.
//! - `serde-saphyr` 2.2 has budgets, rejects duplicate keys, applies merge keys and returns spans (`Spanned`). It would
//!   replace most of this module, but needs Rust 1.89, one version more than this project.
//! - `saphyr` 0.3 and `yaml-rust2` 0.13 return events with markers, without budgets or serde: [`tree`] would stay, [`locate`]
//!   would go. `marked-yaml` 0.8 builds on the latter, has spans, but neither aliases nor types of scalars.
//! - `libyaml-safer` 0.3 is the parser of `serde_yaml` in safe Rust, at the level of events.

mod locate;
mod scan;
mod tree;

pub(crate) use locate::{Place, locate};
pub(crate) use tree::MERGE;

use super::Node;

/// Maximum number of values of a file, aliases replaced by their values.
pub(crate) const MAX_VALUES: usize = 1_000_000;

/// A line and a column, both counted from 1; the column in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    pub(crate) line: usize,
    pub(crate) column: usize,
}

/// An error of YAML.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Invalid {
    /// Its position, if known.
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
