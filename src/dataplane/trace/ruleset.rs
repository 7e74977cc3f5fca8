//! One table: its chains, and its sets and maps.

use std::collections::{BTreeSet, HashMap};

use serde_json::{Value as Json, json};

/// A chain that the kernel calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseChain {
    /// The family of its table.
    pub family: String,
    /// The name of its table.
    pub table: String,
    /// Its name.
    pub name: String,
    /// `filter`, `nat` or `route`.
    pub kind: String,
    /// Its hook, such as `forward`.
    pub hook: String,
    /// Its place among the chains of the hook; the lowest comes first.
    pub priority: i64,
    /// Whether packets that no rule decides on are dropped.
    pub drops: bool,
}

/// Elements in a listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Elements {
    /// Sets and maps are listed with all of their elements.
    Listed,
    /// The listing is terse (`nft -t`): sets and maps are not known until they are read by a listing of their own.
    Omitted,
}

/// The rules and elements of a table.
#[derive(Debug, Default)]
pub struct Ruleset {
    pub(super) chains: HashMap<String, Vec<Json>>,
    /// Elements of sets, and pairs of key and value of maps.
    pub(super) sets: HashMap<String, Vec<Json>>,
    base_chains: Vec<BaseChain>,
}

impl Ruleset {
    /// Reads the table of a listing.
    pub fn read(listing: &Json, elements: Elements) -> Ruleset {
        let mut rules = Ruleset::default();
        rules.add(listing, elements);
        rules
    }

    /// Adds the objects of a listing, or carries out the commands of a transaction.
    pub fn add(&mut self, document: &Json, elements: Elements) {
        for object in document["nftables"].as_array().into_iter().flatten() {
            let Some((verb, inner)) = object.as_object().and_then(|object| object.iter().next()) else { continue };
            match verb.as_str() {
                "add" => self.add_object(inner, Elements::Listed),
                "delete" | "flush" => self.remove(inner),
                _ => self.add_object(object, elements),
            }
        }
    }

    fn add_object(&mut self, object: &Json, elements: Elements) {
        let Some((kind, fields)) = object.as_object().and_then(|object| object.iter().next()) else { return };
        let name = || fields["name"].as_str().unwrap_or_default().to_owned();
        match kind.as_str() {
            "chain" => {
                self.chains.entry(name()).or_default();
                self.base_chains.extend(base_chain(fields));
            }
            "rule" => {
                let Some(chain) = fields["chain"].as_str() else { return };
                self.chains.entry(chain.to_owned()).or_default().push(fields["expr"].clone());
            }
            "set" | "map" | "element" if elements == Elements::Listed || fields.get("elem").is_some() => {
                let listed = fields["elem"].as_array().cloned().unwrap_or_default();
                self.sets.entry(name()).or_default().extend(listed);
            }
            _ => {}
        }
    }

    fn remove(&mut self, object: &Json) {
        let Some((kind, fields)) = object.as_object().and_then(|object| object.iter().next()) else { return };
        let name = fields["name"].as_str().unwrap_or_default();
        match kind.as_str() {
            "table" => *self = Ruleset::default(),
            "chain" => {
                self.chains.insert(name.to_owned(), Vec::new());
            }
            "element" => {
                let removed = fields["elem"].as_array().map(Vec::as_slice).unwrap_or_default();
                if let Some(elements) = self.sets.get_mut(name) {
                    elements.retain(|element| !removed.contains(element) && !removed.contains(&element[0]));
                }
            }
            _ => {
                self.sets.insert(name.to_owned(), Vec::new());
            }
        }
    }

    /// The elements of a set or map, anonymous or with a name; `None` if they are not known.
    pub(super) fn elements<'s>(&'s self, data: &'s Json) -> Option<&'s [Json]> {
        match data.as_str() {
            Some(name) => self.sets.get(name.strip_prefix('@')?).map(Vec::as_slice),
            None => data["set"].as_array().map(Vec::as_slice),
        }
    }

    /// The base chains in the order in which packets meet them.
    pub fn base_chains(&self) -> Vec<BaseChain> {
        let mut chains = self.base_chains.clone();
        chains.sort_by_key(|chain| chain.priority);
        chains
    }

    /// Names of the verdict maps that the rules look up.
    pub fn verdict_maps(&self) -> BTreeSet<String> {
        let statements = self.chains.values().flatten().flat_map(|rule| rule.as_array().into_iter().flatten());
        let data = statements.filter_map(|statement| statement.pointer("/vmap/data")?.as_str()?.strip_prefix('@'));
        data.map(str::to_owned).collect()
    }

    /// Whether a rule of the chain is a jump to another.
    pub fn jumps_to(&self, chain: &str, other: &str) -> bool {
        let jump = json!({ "target": other });
        let rules = self.chains.get(chain).map(Vec::as_slice).unwrap_or_default();
        rules.iter().filter_map(Json::as_array).flatten().any(|statement| statement["jump"] == jump)
    }
}

fn base_chain(chain: &Json) -> Option<BaseChain> {
    let text = |key: &str| chain[key].as_str().map(str::to_owned);
    Some(BaseChain {
        family: text("family")?,
        table: text("table")?,
        name: text("name")?,
        kind: text("type")?,
        hook: text("hook")?,
        priority: chain["prio"].as_i64()?,
        drops: chain["policy"] == "drop",
    })
}
