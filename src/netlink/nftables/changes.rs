//! Changes of a table, added up over transactions.

use std::collections::BTreeMap;
use std::fmt;

/// Maximum number of objects in one report; beyond them, anything may have changed.
const MAX_OBJECTS: usize = 1024;

/// Part of a table that can change. Ordered by what includes what: the table before its chains, a chain before its rules.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Object {
    /// The table itself: its flags, or all of it.
    Table,
    /// A chain, by its name.
    Chain(String),
    /// A set or a map, by its name.
    Set(String),
    /// A stateful object, such as a ct timeout policy, by its name.
    Stateful(String),
    /// A flowtable, by its name.
    Flowtable(String),
    /// The rules of the chain of this name.
    Rules(String),
    /// The elements of the set or map of this name.
    Elements(String),
}

/// Changes of one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It, or something of it, was added or updated: the kernel reports an update like an addition.
    Added,
    /// It, or something of it, was deleted.
    Deleted,
    /// Both.
    Replaced,
}

/// Changes of the table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// The objects, and what happened to each.
    pub objects: BTreeMap<Object, Action>,
    /// More changed than `objects` has space for.
    pub more: bool,
}

impl Changes {
    /// True if nothing changed.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty() && !self.more
    }

    /// True if the table was deleted.
    pub fn deleted_table(&self) -> bool {
        self.objects.get(&Object::Table).is_some_and(|action| *action != Action::Added)
    }

    /// True if this part of the table, or possibly it, changed.
    pub fn has(&self, object: &Object) -> bool {
        self.more || self.objects.contains_key(object)
    }

    /// Adds a change.
    pub fn add(&mut self, object: Object, action: Action) {
        if self.objects.len() >= MAX_OBJECTS && !self.objects.contains_key(&object) {
            self.more = true;
            return;
        }
        let merge = |known: &mut Action| *known = if *known == action { action } else { Action::Replaced };
        self.objects.entry(object).and_modify(merge).or_insert(action);
    }

    /// Adds the changes of another transaction.
    pub fn merge(&mut self, other: Changes) {
        self.more |= other.more;
        other.objects.into_iter().for_each(|(object, action)| self.add(object, action));
    }
}

/// The first few changes, for messages.
impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 3;
        // A chain's deletion includes its rules, a set's its elements.
        let implied = |object: &Object| match object {
            Object::Rules(chain) => self.objects.contains_key(&Object::Chain(chain.clone())),
            Object::Elements(set) => self.objects.contains_key(&Object::Set(set.clone())),
            _ => false,
        };
        if self.deleted_table() {
            return f.write_str("the table was deleted");
        }
        let shown: Vec<_> = self.objects.iter().filter(|(object, _)| !implied(object)).collect();
        for (at, (object, action)) in shown.iter().take(SHOWN).enumerate() {
            f.write_str(if at > 0 { ", " } else { "" })?;
            let verb = match action {
                Action::Added => "added",
                Action::Deleted => "deleted",
                Action::Replaced => "replaced",
            };
            match object {
                Object::Table => f.write_str("the table's flags were set")?,
                Object::Chain(name) if **action == Action::Added => {
                    write!(f, "chain {} was added or changed", name.escape_default())?;
                }
                Object::Chain(name) => write!(f, "chain {} was {verb}", name.escape_default())?,
                Object::Set(name) => write!(f, "set or map {} was {verb}", name.escape_default())?,
                Object::Stateful(name) => write!(f, "object {} was {verb}", name.escape_default())?,
                Object::Flowtable(name) => write!(f, "flowtable {} was {verb}", name.escape_default())?,
                Object::Rules(chain) => write!(f, "rules of chain {} were {verb}", chain.escape_default())?,
                Object::Elements(set) => write!(f, "elements of {} were {verb}", set.escape_default())?,
            }
        }
        match shown.len().saturating_sub(SHOWN) {
            _ if self.more => f.write_str(" and much more"),
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> String {
        name.to_owned()
    }

    fn printed(all: &[(Object, Action)]) -> String {
        let mut changes = Changes::default();
        all.iter().for_each(|(object, action)| changes.add(object.clone(), *action));
        changes.to_string()
    }

    #[test]
    fn additions_and_deletions_of_an_object_make_a_replacement() {
        use Action::{Added, Deleted, Replaced};
        for (first, second, both) in [
            (Added, Added, Added),
            (Deleted, Deleted, Deleted),
            (Deleted, Added, Replaced),
            (Replaced, Added, Replaced),
        ] {
            let mut changes = Changes::default();
            changes.add(Object::Table, first);
            let mut later = Changes::default();
            later.add(Object::Table, second);
            changes.merge(later);
            assert_eq!(changes.objects[&Object::Table], both);
            assert_eq!(changes.deleted_table(), both != Added);
            assert!(!changes.is_empty() && !changes.more);
        }
        assert!(Changes::default().is_empty() && !Changes::default().deleted_table());
    }

    #[test]
    fn uncertainty_is_merged_and_is_no_empty_change() {
        let mut changes = Changes::default();
        changes.merge(Changes { more: true, ..Changes::default() });
        assert!(changes.more && !changes.is_empty() && changes.has(&Object::Table));
        changes.merge(Changes::default());
        assert!(changes.more);
        let mut one = Changes::default();
        one.add(Object::Table, Action::Added);
        assert!(one.has(&Object::Table) && !one.has(&Object::Chain(name("x"))));
    }

    #[test]
    fn each_kind_of_object_is_named_with_what_happened_to_it() {
        use Action::{Added, Deleted, Replaced};
        for (object, action, expected) in [
            (Object::Table, Added, "the table's flags were set"),
            (Object::Table, Replaced, "the table was deleted"),
            (Object::Chain(name("a")), Added, "chain a was added or changed"),
            (Object::Chain(name("a")), Deleted, "chain a was deleted"),
            (Object::Chain(name("a")), Replaced, "chain a was replaced"),
            (Object::Set(name("a")), Added, "set or map a was added"),
            (Object::Stateful(name("a")), Deleted, "object a was deleted"),
            (Object::Flowtable(name("a")), Replaced, "flowtable a was replaced"),
            (Object::Rules(name("a")), Added, "rules of chain a were added"),
            (Object::Elements(name("a\n")), Deleted, "elements of a\\n were deleted"),
        ] {
            assert_eq!(printed(&[(object, action)]), expected);
        }
    }

    #[test]
    fn a_report_leaves_out_the_contents_of_objects_that_it_names() {
        let all = [
            (Object::Rules(name("a")), Action::Deleted),
            (Object::Chain(name("a")), Action::Deleted),
            (Object::Elements(name("b")), Action::Deleted),
            (Object::Set(name("b")), Action::Deleted),
            (Object::Rules(name("b")), Action::Added),
        ];
        assert_eq!(printed(&all), "chain a was deleted, set or map b was deleted, rules of chain b were added");
        assert_eq!(printed(&all[2..3]), "elements of b were deleted");
    }

    #[test]
    fn a_report_counts_what_it_does_not_name() {
        let chains = ["a", "b", "c", "d", "e"].map(|chain| (Object::Chain(name(chain)), Action::Deleted));
        assert_eq!(printed(&chains[..3]), "chain a was deleted, chain b was deleted, chain c was deleted");
        assert!(printed(&chains[..4]).ends_with("chain c was deleted and 1 more"));
        assert!(printed(&chains).ends_with("chain c was deleted and 2 more"));
    }

    #[test]
    fn the_number_of_objects_is_bounded_and_control_characters_are_escaped() {
        let mut changes = Changes::default();
        for index in 0..MAX_OBJECTS {
            changes.add(Object::Chain(format!("\n{index}")), Action::Replaced);
        }
        assert!(!changes.more && changes.objects.len() == MAX_OBJECTS);
        changes.add(Object::Chain(name("\n0")), Action::Added);
        assert!(!changes.more, "it is known");
        changes.add(Object::Table, Action::Added);
        assert_eq!(changes.objects.len(), MAX_OBJECTS);
        assert!(changes.more && changes.has(&Object::Rules(name("x"))));
        let printed = changes.to_string();
        assert!(printed.starts_with("chain \\n0 was replaced, ") && printed.ends_with(" and much more"), "{printed}");
    }
}
