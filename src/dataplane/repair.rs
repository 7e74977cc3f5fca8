//! Repair of our table after another program has changed it: a pure function of the wanted table, the listed one, and
//! the reported changes.
//!
//! The listing has the table's structure only. Rules and elements are not compared: where the notifications report that
//! those of a chain, set or map have changed, they are replaced as a whole, in one transaction. A packet meets either the
//! rules before it or those after it.
//!
//! The table itself is replaced only when it is gone, or when a timeout policy is: the flows of a policy that is deleted live
//! for five days from their next packet on.

use std::collections::{BTreeMap, BTreeSet};

use crate::netlink::nftables::{Action, Changes, Listing, Object, SetKind};

/// Kind of a repair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Repair {
    /// The table is as it should be.
    Nothing,
    /// These parts are restored.
    Parts(Parts),
    /// The table is loaded again as a whole.
    Whole,
}

/// The parts of the table that are restored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parts {
    /// The table was switched off (`flags dormant`).
    pub wake: bool,
    /// Chains that are emptied and get their rules.
    pub chains: BTreeSet<String>,
    /// Chains that are made, after those of the same name are deleted; or whose policy is set again.
    pub new_chains: BTreeSet<String>,
    /// Chains that are emptied and deleted.
    pub deleted_chains: BTreeSet<String>,
    /// Sets and maps that are emptied and get their elements.
    pub sets: BTreeMap<String, SetKind>,
    /// Sets and maps that are made.
    pub new_sets: BTreeSet<String>,
    /// Sets and maps that are emptied and deleted.
    pub deleted_sets: BTreeMap<String, SetKind>,
    /// Other objects that are deleted, with their type in nft's JSON.
    pub deleted_objects: Vec<(String, &'static str)>,
}

impl Parts {
    /// Whether a chain gets its rules.
    pub fn gets_rules(&self, chain: &str) -> bool {
        self.chains.contains(chain) || self.new_chains.contains(chain)
    }
}

/// Extent of a repair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// The reported objects, and those that the listing lacks.
    Changed,
    /// All chains, sets and maps: notifications are missing, or a smaller repair failed.
    Everything,
}

/// The transaction that makes the table in the kernel the wanted one. `listed` is `None` if there is no table.
pub fn repair(wanted: &Listing, listed: Option<&Listing>, changes: &Changes, extent: Extent) -> Repair {
    let Some(listed) = listed else { return Repair::Whole };
    let policy_changed = |name: &String| changes.objects.contains_key(&Object::Stateful(name.clone()));
    let lacks_policy =
        wanted.objects.iter().any(|policy| !listed.objects.contains(policy) || policy_changed(&policy.0));
    // A table that was deleted and is there again is another one, and its policies have new flows only.
    if lacks_policy || changes.deleted_table() {
        return Repair::Whole;
    }
    // A set that was made again can have other types. Only replaced rules release it.
    let replaced = |name: &String| listed.sets.contains_key(name) && changes.has(&Object::Set(name.clone()));
    // A chain that was renamed is still referred to, by rules and elements that are not reported.
    let deleted = |name: &String| {
        changes.objects.get(&Object::Chain(name.clone())).is_some_and(|action| *action != Action::Added)
    };
    let renamed = |name: &String| !listed.chains.contains_key(name) && !deleted(name);
    let everything = extent == Extent::Everything
        || changes.more
        || wanted.sets.keys().any(replaced)
        || wanted.chains.keys().any(renamed);

    let mut parts = Parts { wake: listed.dormant, ..Parts::default() };
    for (name, chain) in &wanted.chains {
        match listed.chains.get(name) {
            None => _ = parts.new_chains.insert(name.clone()),
            Some(found) if found.base != chain.base => {
                let policy_only = found.base.as_ref().zip(chain.base.as_ref()).is_some_and(|(found, chain)| {
                    (&found.kind, found.hook, found.priority) == (&chain.kind, chain.hook, chain.priority)
                });
                let old = if policy_only { &mut parts.chains } else { &mut parts.deleted_chains };
                old.insert(name.clone());
                parts.new_chains.insert(name.clone());
            }
            Some(_) if everything || changes.has(&Object::Rules(name.clone())) => {
                parts.chains.insert(name.clone());
            }
            Some(_) => {}
        }
    }
    for name in wanted.sets.keys() {
        match listed.sets.get(name) {
            None => _ = parts.new_sets.insert(name.clone()),
            Some(found) if everything => {
                parts.deleted_sets.insert(name.clone(), *found);
                parts.new_sets.insert(name.clone());
            }
            Some(found) if changes.has(&Object::Elements(name.clone())) => {
                parts.sets.insert(name.clone(), *found);
            }
            Some(_) => {}
        }
    }
    let extra = listed.chains.keys().filter(|name| !wanted.chains.contains_key(*name));
    parts.deleted_chains.extend(extra.cloned());
    let extra = listed.sets.iter().filter(|(name, _)| !wanted.sets.contains_key(*name));
    parts.deleted_sets.extend(extra.map(|(name, kind)| (name.clone(), *kind)));
    let extra = listed.objects.iter().filter(|object| !wanted.objects.contains(object));
    parts.deleted_objects.extend(extra.filter_map(|(name, kind)| Some((name.clone(), object_type(*kind)?))));
    parts.deleted_objects.extend(listed.flowtables.iter().map(|name| (name.clone(), "flowtable")));
    if parts == Parts::default() { Repair::Nothing } else { Repair::Parts(parts) }
}

/// Type of an object (`NFT_OBJECT_…`) in nft's JSON. Others have no effect without a rule, and stay.
fn object_type(kind: u32) -> Option<&'static str> {
    Some(match kind {
        1 => "counter",
        2 => "quota",
        3 => "ct helper",
        4 => "limit",
        7 => "ct timeout",
        9 => "ct expectation",
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
