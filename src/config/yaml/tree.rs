//! Builds a [`Node`] from a document.

use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, EnumAccess, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::scan::too_many;
use super::{Invalid, MAX_VALUES, Position, without_mark};
use crate::config::Node;
use crate::config::suggest::quoted;

/// Maximum bytes of all strings in a tree: an alias can repeat a string any number of times.
const MAX_TEXT: usize = 4 * crate::config::file::MAX_SIZE;

/// Number of keys from which on a set finds duplicates faster than a search.
const MANY_KEYS: usize = 16;

/// Maximum characters of a message of the parser.
const MAX_MESSAGE: usize = 300;

/// Reads the only document of a file. With `only`, the values of other keys of the topmost mapping are null, and an error
/// that follows all of these keys is ignored.
pub(super) fn build(text: &str, only: Option<&[&str]>) -> Result<Node, Invalid> {
    let text = without_mark(text);
    let mut budget = Budget { values: MAX_VALUES, text: MAX_TEXT };
    let mut entries = Vec::new();
    let top = only.map(|keys| (keys, &mut entries));
    let tree = Tree { budget: &mut budget, only: top };
    tree.deserialize(serde_yaml::Deserializer::from_str(text)).or_else(|error| {
        let found = |key: &&str| entries.iter().any(|(known, _)| known == key);
        match only {
            Some(keys) if keys.iter().all(found) => Ok(Node::Map(entries)),
            _ => Err(invalid(text, &error)),
        }
    })
}

/// The parser's message without the position, which is shown in front of it, and with a hint where there is one.
fn invalid(text: &str, error: &serde_yaml::Error) -> Invalid {
    let message = error.to_string();
    let Some(location) = error.location() else {
        // The only errors without a place that a file can cause.
        let what = if message.contains("more than one document") {
            let what = "more than one document: remove the --- between them, or all but the first".to_owned();
            return Invalid { at: second_document(text), what };
        } else if message.contains("repetition limit") {
            too_many()
        } else {
            message
        };
        return Invalid { at: None, what };
    };
    let at = Position { line: location.line(), column: location.column() };
    let mut what = message.replacen(&format!(" at line {} column {}", at.line, at.column), "", 1);
    if what == "recursion limit exceeded" {
        what = "nested too deeply: at most 128 levels".to_owned();
    }
    if let Some((end, _)) = what.char_indices().nth(MAX_MESSAGE) {
        what.replace_range(end.., "...");
    }
    if text.as_bytes().get(location.index()) == Some(&b'\t') {
        what += " (this is a tab: indent with spaces)";
    }
    Invalid { at: Some(at), what }
}

/// Position of the second document: that of the error of a visitor that may build nothing.
fn second_document(text: &str) -> Option<Position> {
    let document = serde_yaml::Deserializer::from_str(text).nth(1)?;
    let mut budget = Budget { values: 0, text: 0 };
    let location = Tree { budget: &mut budget, only: None }.deserialize(document).err()?.location()?;
    Some(Position { line: location.line(), column: location.column() })
}

/// What may still be built.
struct Budget {
    values: usize,
    text: usize,
}

impl Budget {
    fn spend<E: Error>(&mut self, text: usize) -> Result<(), E> {
        let values = self.values.checked_sub(1);
        match (values, self.text.checked_sub(text)) {
            (Some(values), Some(text)) => {
                (self.values, self.text) = (values, text);
                Ok(())
            }
            _ => Err(E::custom(too_many())),
        }
    }
}

/// A mapping in file order.
type Entries = Vec<(String, Node)>;

/// Builds one value with its contents.
struct Tree<'b> {
    budget: &'b mut Budget,
    /// For a part of the topmost mapping: the keys whose values are built, and the entries so far.
    only: Option<(&'b [&'b str], &'b mut Entries)>,
}

impl<'de> DeserializeSeed<'de> for Tree<'_> {
    type Value = Node;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tree<'_> {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: Error>(self) -> Result<Node, E> {
        self.budget.spend(0)?;
        Ok(Node::Null)
    }

    fn visit_none<E: Error>(self) -> Result<Node, E> {
        self.visit_unit()
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Node, E> {
        self.budget.spend(0)?;
        Ok(Node::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Node, E> {
        self.budget.spend(0)?;
        Ok(Node::Int(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Node, E> {
        self.visit_i128(value.into())
    }

    fn visit_i128<E: Error>(self, value: i128) -> Result<Node, E> {
        self.budget.spend(0)?;
        Ok(i64::try_from(value).map_or(Node::Float(value as f64), Node::Int))
    }

    fn visit_u128<E: Error>(self, value: u128) -> Result<Node, E> {
        self.visit_f64(value as f64)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Node, E> {
        self.budget.spend(0)?;
        Ok(Node::Float(value))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Node, E> {
        self.budget.spend(value.len())?;
        Ok(Node::Str(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        self.budget.spend(0)?;
        let mut elements = Vec::new();
        while let Some(element) = access.next_element_seed(Tree { budget: self.budget, only: None })? {
            elements.push(element);
        }
        Ok(Node::Seq(elements))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        self.budget.spend(0)?;
        let mut own = Vec::new();
        let (only, entries) = self.only.map_or((None, &mut own), |(keys, entries)| (Some(keys), entries));
        let mut set = HashSet::new();
        let mut merges = false;
        loop {
            let key = Key { budget: self.budget, before: entries, set: &set };
            let Some(key) = access.next_key_seed(key)? else { break };
            merges |= key == MERGE;
            let value = if only.is_none_or(|only| key == MERGE || only.contains(&key.as_str())) {
                access.next_value_seed(Tree { budget: self.budget, only: None })?
            } else {
                access.next_value::<IgnoredAny>()?;
                Node::Null
            };
            if entries.len() >= MANY_KEYS {
                if set.is_empty() {
                    set.extend(entries.iter().map(|(key, _)| key.clone()));
                }
                set.insert(key.clone());
            }
            entries.push((key, value));
        }
        if merges {
            merge(entries).map_err(A::Error::custom)?;
        }
        Ok(Node::Map(std::mem::take(entries)))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, _access: A) -> Result<Node, A::Error> {
        Err(A::Error::custom("tags (!name) are not supported: remove this one"))
    }
}

/// The key that merges other mappings, as in the YAML library of v1.
pub(crate) const MERGE: &str = "<<";

/// Appends the entries of `<<` that the mapping does not have, and leaves `<<` null, so that the positions of the other
/// entries stay the same.
fn merge(entries: &mut Entries) -> Result<(), String> {
    let mut known: HashSet<String> = entries.iter().map(|(key, _)| key.clone()).collect();
    let sources: Vec<Node> = entries
        .iter_mut()
        .filter(|(key, _)| key == MERGE)
        .map(|(_, node)| std::mem::replace(node, Node::Null))
        .collect();
    for source in sources {
        let maps = match source {
            Node::Seq(maps) => maps,
            map => vec![map],
        };
        for map in maps {
            let Node::Map(merged) = map else {
                return Err(format!("<<: a mapping is expected, found {}", map.describe()));
            };
            entries.extend(merged.into_iter().filter(|(key, _)| known.insert(key.clone())));
        }
    }
    Ok(())
}

/// Reads a key, which must be a string that the mapping does not have yet.
struct Key<'b> {
    budget: &'b mut Budget,
    before: &'b [(String, Node)],
    /// The same keys, once there are many.
    set: &'b HashSet<String>,
}

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Key<'_> {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key that is a string: quote it")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<String, E> {
        self.budget.spend(key.len())?;
        let known = if self.set.is_empty() {
            self.before.iter().any(|(before, _)| before == key)
        } else {
            self.set.contains(key)
        };
        if known {
            return Err(E::custom(format!("duplicate key {}", quoted(key))));
        }
        Ok(key.to_owned())
    }

    fn visit_enum<A: EnumAccess<'de>>(self, _access: A) -> Result<String, A::Error> {
        Err(A::Error::custom("tags (!name) are not supported: remove this one"))
    }
}
