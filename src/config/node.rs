//! A value of the configuration file, of any type.

use super::suggest::quoted;

/// A value as the file has it. Aliases are replaced by what they stand for.
#[derive(Debug, Clone, PartialEq)]
pub enum Node {
    /// Nothing, `~` or `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number without a fraction, if it fits.
    Int(i64),
    /// Any other number.
    Float(f64),
    /// A string.
    Str(String),
    /// A list.
    Seq(Vec<Node>),
    /// A mapping in file order, its keys unique.
    Map(Vec<(String, Node)>),
}

impl Node {
    /// Description of the value for a message: `the number 8080`, `a list`.
    pub fn describe(&self) -> String {
        match self {
            Node::Null => "nothing".to_owned(),
            Node::Bool(value) => format!("the boolean {value}"),
            Node::Int(value) => format!("the number {value}"),
            Node::Float(value) => format!("the number {value}"),
            Node::Str(text) => format!("the string {}", quoted(text)),
            Node::Seq(_) => "a list".to_owned(),
            Node::Map(_) => "a mapping".to_owned(),
        }
    }

    /// The value under a key of a mapping, unless it is missing or null.
    pub(crate) fn get(&self, key: &str) -> Option<&Node> {
        match self {
            Node::Map(entries) => {
                entries.iter().find(|(name, _)| name == key).map(|(_, node)| node).filter(|node| **node != Node::Null)
            }
            _ => None,
        }
    }
}
