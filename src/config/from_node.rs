//! Conversion of a value of the file to the type that is expected.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::suggest::quoted;
use super::{Address, Node, address, parse_duration};

/// A type that [`Section`](super::Section) can read. A plugin may implement it for types of its own.
pub trait FromNode: Sized {
    /// Description of the type, with its article and an example, for messages.
    const EXPECTED: &'static str = "a value";

    /// Reads a value, which is never null.
    ///
    /// # Errors
    /// What is wrong and what would be right, in lower case and without the key's name.
    fn from_node(node: &Node) -> Result<Self, String>;
}

/// The message for a value of the wrong type.
fn unexpected<T: FromNode>(node: &Node) -> String {
    format!("{} is expected, found {}", T::EXPECTED, node.describe())
}

/// The string that a value must be.
pub(crate) fn text(node: &Node) -> Result<&str, String> {
    let hint = match node {
        Node::Str(text) => return Ok(text),
        Node::Int(value) => format!(": quote it, \"{value}\""),
        Node::Bool(_) | Node::Float(_) | Node::Null => ": quote it".to_owned(),
        Node::Seq(_) | Node::Map(_) => String::new(),
    };
    Err(format!("a string is expected, found {}{hint}", node.describe()))
}

impl FromNode for String {
    const EXPECTED: &'static str = "a string";

    fn from_node(node: &Node) -> Result<String, String> {
        text(node).map(str::to_owned)
    }
}

impl FromNode for PathBuf {
    const EXPECTED: &'static str = "a path";

    fn from_node(node: &Node) -> Result<PathBuf, String> {
        match text(node)? {
            "" => Err("a path cannot be empty".to_owned()),
            path if path.contains('\0') => Err(format!("{} has a NUL byte, which no path can have", quoted(path))),
            path => Ok(path.into()),
        }
    }
}

impl FromNode for bool {
    const EXPECTED: &'static str = "true or false";

    fn from_node(node: &Node) -> Result<bool, String> {
        match node {
            Node::Bool(value) => Ok(*value),
            _ => Err(unexpected::<bool>(node)),
        }
    }
}

/// Implements [`FromNode`] for an unsigned integer.
macro_rules! unsigned {
    ($($type:ty),*) => {$(
        impl FromNode for $type {
            const EXPECTED: &'static str = "a whole number";

            fn from_node(node: &Node) -> Result<$type, String> {
                let Node::Int(value) = node else { return Err(unexpected::<$type>(node)) };
                let max = <$type>::try_from(i64::MAX).unwrap_or(<$type>::MAX);
                <$type>::try_from(*value).map_err(|_| format!("{value} is out of range: 0 to {max}"))
            }
        }
    )*};
}

unsigned!(u8, u16, u32, u64, usize);

impl FromNode for Duration {
    const EXPECTED: &'static str = "a duration such as 30s or 5m";

    fn from_node(node: &Node) -> Result<Duration, String> {
        match node {
            Node::Str(text) => parse_duration(text),
            Node::Int(0) => Ok(Duration::ZERO),
            Node::Int(value @ 1..) => Err(format!("{value} has no unit: write {value}s, {value}m or {value}h")),
            Node::Int(value) => Err(format!("{value} is negative and has no unit: write a duration such as 30s")),
            Node::Float(value) => Err(format!("{value} has no unit: write a duration such as 1.5s")),
            _ => Err(unexpected::<Duration>(node)),
        }
    }
}

impl FromNode for SocketAddr {
    const EXPECTED: &'static str = "an address such as 127.0.0.1:8080 or [::1]:8080";

    fn from_node(node: &Node) -> Result<SocketAddr, String> {
        match node {
            Node::Str(text) => match address::parse(text)? {
                address if address.ports.is_range() => Err(format!("{address} has a range of ports: write one port")),
                address => Ok(address.first()),
            },
            _ => Err(unexpected::<SocketAddr>(node)),
        }
    }
}

impl FromNode for Address {
    const EXPECTED: &'static str = SocketAddr::EXPECTED;

    fn from_node(node: &Node) -> Result<Address, String> {
        match node {
            Node::Str(text) => address::parse(text),
            _ => Err(unexpected::<Address>(node)),
        }
    }
}

impl<T: FromNode> FromNode for Vec<T> {
    const EXPECTED: &'static str = "a list";

    fn from_node(node: &Node) -> Result<Vec<T>, String> {
        let Node::Seq(elements) = node else { return Err(unexpected::<Vec<T>>(node)) };
        elements
            .iter()
            .enumerate()
            .map(|(index, element)| T::from_node(element).map_err(|wrong| format!("[{index}]: {wrong}")))
            .collect()
    }
}

impl<T: FromNode> FromNode for BTreeMap<String, T> {
    const EXPECTED: &'static str = "a mapping";

    fn from_node(node: &Node) -> Result<BTreeMap<String, T>, String> {
        let Node::Map(entries) = node else { return Err(unexpected::<BTreeMap<String, T>>(node)) };
        entries
            .iter()
            .map(|(key, value)| match T::from_node(value) {
                Ok(value) => Ok((key.clone(), value)),
                Err(wrong) => Err(format!("{}: {wrong}", quoted(key))),
            })
            .collect()
    }
}
