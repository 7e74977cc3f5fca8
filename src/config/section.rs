//! Typed access to a mapping of the file.

use std::fmt::Display;

use super::problem::Problems;
use super::suggest::{listed, nearest, quoted};
use super::yaml::{MERGE, Place};
use super::{FromNode, Node};

/// A mapping of the configuration that is being read: typed access to its keys, with every problem collected.
///
/// A key that is never read is a problem too, so read all of them, also after one was wrong.
pub struct Section<'a> {
    entries: &'a [(String, Node)],
    path: Vec<u32>,
    /// Start of a message, before a key: `targets[0] "backend": options.`
    prefix: String,
    /// Keys that were read.
    read: Vec<&'static str>,
    failed: bool,
    /// It is not a mapping, so missing keys are not reported.
    broken: bool,
    problems: &'a Problems,
}

impl<'a> Section<'a> {
    /// The section of a value. Null is an empty section. Other values that are no mapping are a problem and an empty section.
    pub(crate) fn new(node: &'a Node, path: Vec<u32>, prefix: String, problems: &'a Problems) -> Section<'a> {
        let mut section =
            Section { entries: &[], path, prefix, read: Vec::new(), failed: false, broken: false, problems };
        match node {
            Node::Map(entries) => section.entries = entries,
            Node::Null => {}
            other => {
                section.problem("", format_args!("a mapping is expected, found {}", other.describe()));
                section.broken = true;
            }
        }
        section
    }

    /// Value of a required key, or `None` and a problem if it is missing or wrong.
    pub fn required<T: FromNode>(&mut self, key: &'static str) -> Option<T> {
        match self.look_up(key) {
            None if self.broken => None,
            None => {
                self.problem("", format_args!("{key} is missing: {} is required", T::EXPECTED));
                None
            }
            Some(Node::Null) => {
                self.problem(key, format_args!("{} is expected, found nothing", T::EXPECTED));
                None
            }
            Some(node) => self.convert(key, node),
        }
    }

    /// Value of an optional key, or `None` if it is missing or null, or `None` and a problem if it is wrong.
    pub fn optional<T: FromNode>(&mut self, key: &'static str) -> Option<T> {
        match self.look_up(key) {
            None | Some(Node::Null) => None,
            Some(node) => self.convert(key, node),
        }
    }

    /// Reports a problem with the value of a key, or with the section itself if the key is empty or missing.
    pub fn problem(&mut self, key: &str, message: impl Display) {
        self.problem_about(key, message, None);
    }

    /// Whether a problem was reported on this section.
    pub fn failed(&self) -> bool {
        self.failed
    }

    /// Number of problems of the whole file so far.
    pub(crate) fn problem_count(&self) -> usize {
        self.problems.count()
    }

    /// Reports a problem that names another place, whose line is appended.
    pub(crate) fn problem_about(&mut self, key: &str, message: impl Display, related: Option<Place>) {
        let text = match (key, self.prefix.trim_end_matches([' ', '.', ':'])) {
            ("", "") => message.to_string(),
            ("", own) => format!("{own}: {message}"),
            (key, _) => format!("{}{key}: {message}", self.prefix),
        };
        self.add(self.place(key), text, related);
    }

    /// Reports a part that may not work as intended. The file can be used anyway.
    pub(crate) fn warn(&mut self, key: &str, message: impl Display) {
        self.problems.warn(self.place(key), format!("{}{key}: {message}", self.prefix));
    }

    /// Place of a key's value, or of the section if there is no such key.
    pub(crate) fn place(&self, key: &str) -> Place {
        let mut path = self.path.clone();
        path.extend(self.index(key));
        Place { path, key: false }
    }

    /// The mapping under a key; an empty one if it is missing. Its problems are reported with its own path. Call
    /// [`Section::finish`] once all its keys have been read.
    pub fn child(&mut self, key: &'static str) -> Section<'a> {
        let node = self.look_up(key).unwrap_or(&Node::Null);
        Section::new(node, self.place(key).path, format!("{}{key}.", self.prefix), self.problems)
    }

    /// The elements of a list of mappings under a key, or `None` if there is no such key. Messages name each by its position
    /// and its name. Call [`Section::finish`] on each element once all its keys have been read.
    pub fn elements(&mut self, key: &'static str) -> Option<Vec<Section<'a>>> {
        let elements: &[Node] = match self.look_up(key)? {
            Node::Null => return None,
            Node::Seq(elements) => elements,
            other => {
                self.problem(key, format_args!("a list is expected, found {}", other.describe()));
                return Some(Vec::new());
            }
        };
        let path = self.place(key).path;
        let element = |(index, node): (usize, &'a Node)| {
            let prefix = match node.get("name") {
                Some(Node::Str(name)) => format!("{}{key}[{index}] {}: ", self.prefix, quoted(name)),
                _ => format!("{}{key}[{index}]: ", self.prefix),
            };
            let path = path.iter().copied().chain([index as u32]).collect();
            let mut section = Section::new(node, path, prefix, self.problems);
            if *node == Node::Null {
                section.problem("", "a mapping is expected, found nothing");
                section.broken = true;
            }
            section
        };
        Some(elements.iter().enumerate().map(element).collect())
    }

    /// The string under `name`, even if it is no valid name.
    pub(crate) fn name(&self) -> Option<&'a str> {
        match &self.entries[self.index("name")? as usize].1 {
            Node::Str(name) if !name.is_empty() => Some(name),
            _ => None,
        }
    }

    /// Whether the value of a key is a list without elements.
    pub(crate) fn is_empty_list(&self, key: &str) -> bool {
        let node = self.index(key).map(|index| &self.entries[index as usize].1);
        matches!(node, Some(Node::Seq(elements)) if elements.is_empty())
    }

    /// Whether it is no mapping.
    pub(crate) fn broken(&self) -> bool {
        self.broken
    }

    /// The value under a key of any name; an empty section if it is missing.
    pub(crate) fn named_child(&self, key: &str) -> Section<'a> {
        let node = self.index(key).map_or(&Node::Null, |index| &self.entries[index as usize].1);
        Section::new(node, self.place(key).path, format!("{}{key}.", self.prefix), self.problems)
    }

    /// Reports the keys that were not read. For [`Section::child`] and [`Section::elements`]; the sections that a plugin
    /// receives are finished for it.
    pub fn finish(mut self) {
        let known = std::mem::take(&mut self.read);
        self.only(&known, |key| {
            let hint = match nearest(key, &known) {
                Some(nearest) => format!("did you mean {nearest}?"),
                None if known.is_empty() => "no keys are known here".to_owned(),
                None => format!("known keys are {}", listed(known.iter().copied())),
            };
            format!("unknown key {}: {hint}", quoted(key))
        });
    }

    /// Reports each other key with a message.
    pub(crate) fn only(&mut self, known: &[&str], message: impl Fn(&str) -> String) {
        let entries = self.entries.iter().enumerate();
        for (index, (key, _)) in entries.filter(|(_, (key, _))| key != MERGE && !known.contains(&key.as_str())) {
            let own = self.prefix.trim_end_matches([' ', '.', ':']);
            let text = if own.is_empty() { message(key) } else { format!("{own}: {}", message(key)) };
            let path = self.path.iter().copied().chain([index as u32]).collect();
            self.add(Place { path, key: true }, text, None);
        }
    }

    fn index(&self, key: &str) -> Option<u32> {
        self.entries.iter().position(|(name, _)| name == key).map(|index| index as u32)
    }

    fn look_up(&mut self, key: &'static str) -> Option<&'a Node> {
        if !self.read.contains(&key) {
            self.read.push(key);
        }
        self.index(key).map(|index| &self.entries[index as usize].1)
    }

    fn convert<T: FromNode>(&mut self, key: &'static str, node: &Node) -> Option<T> {
        T::from_node(node).map_err(|wrong| self.problem(key, wrong)).ok()
    }

    fn add(&mut self, place: Place, text: String, related: Option<Place>) {
        self.failed = true;
        self.problems.add(place, text, related);
    }
}
