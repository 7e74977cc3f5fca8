//! The group that may use the control socket.

use std::fmt;
use std::fs;

use crate::config::{FromNode, Node};
use crate::plugin::Error;

/// File in which groups are looked up. Groups of other sources (LDAP) need their number in the configuration.
const GROUPS: &str = "/etc/group";

/// A group in the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Group {
    /// By number.
    Id(u32),
    /// By its name in `/etc/group`.
    Name(String),
}

impl Group {
    /// Returns the group's number.
    pub(super) fn resolve(&self) -> Result<u32, Error> {
        match self {
            Group::Id(id) => Ok(*id),
            Group::Name(name) => {
                let groups = fs::read(GROUPS).map_err(|error| format!("cannot read {GROUPS}: {error}"))?;
                find(&String::from_utf8_lossy(&groups), name)
                    .ok_or_else(|| format!("there is no group {name:?} in {GROUPS}; a number is possible too").into())
            }
        }
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Group::Id(id) => id.fmt(f),
            Group::Name(name) => name.fmt(f),
        }
    }
}

impl FromNode for Group {
    const EXPECTED: &'static str = "a group's name or number";

    fn from_node(node: &Node) -> Result<Group, String> {
        // chown(2) leaves the group unchanged for the highest number.
        let id = |id: Option<u32>| id.filter(|&id| id != u32::MAX).map(Group::Id);
        let group = match node {
            Node::Int(number) => id(u32::try_from(*number).ok()),
            Node::Str(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => id(text.parse().ok()),
            Node::Str(name) => Some(Group::Name(name.clone())),
            _ => None,
        };
        group.ok_or_else(|| format!("{} is expected", Group::EXPECTED))
    }
}

/// Finds a group by name in the contents of `/etc/group`.
fn find(groups: &str, name: &str) -> Option<u32> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next() != Some(name) {
            return None;
        }
        fields.nth(1)?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_found_by_its_whole_name() {
        let groups = "root:x:0:\nadm:x:4:syslog,me\n# comment\nbroken\nbad:x:many:\nwheel:*:10\n";
        assert_eq!(find(groups, "adm"), Some(4));
        assert_eq!(find(groups, "wheel"), Some(10));
        for name in ["ad", "adm:x", "syslog", "broken", "bad", ""] {
            assert_eq!(find(groups, name), None, "{name}");
        }
    }

    #[test]
    fn a_group_is_a_name_or_a_number() {
        assert_eq!(Group::from_node(&Node::Int(7)), Ok(Group::Id(7)));
        assert_eq!(Group::from_node(&Node::Str("7".into())), Ok(Group::Id(7)));
        assert_eq!(Group::from_node(&Node::Str("adm".into())), Ok(Group::Name("adm".into())));
        for wrong in [Node::Int(-1), Node::Int(i64::from(u32::MAX)), Node::Str(String::new()), Node::Bool(true)] {
            assert!(Group::from_node(&wrong).is_err(), "{wrong:?}");
        }
    }
}
