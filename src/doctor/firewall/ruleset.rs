//! A table of somebody else's, and where a packet of ours ends in it. Pure.

use std::collections::{BTreeSet, HashMap};

use serde_json::{Value, json};

use super::packet::Packet;

/// How deep jumps are followed; the kernel allows 16.
const DEEPEST: usize = 32;

/// How many rules one walk looks at; beyond, the end counts as not known.
const MOST_STEPS: usize = 100_000;

/// A chain that the kernel calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BaseChain {
    pub family: String,
    pub table: String,
    pub name: String,
    pub hook: String,
    pub drops: bool,
}

/// The base chains of a listing.
pub(super) fn base_chains(listing: &Value) -> Vec<BaseChain> {
    let objects = listing["nftables"].as_array().map(Vec::as_slice).unwrap_or_default();
    let chains = objects.iter().filter_map(|object| object.get("chain"));
    chains
        .filter_map(|chain| {
            let text = |key: &str| chain[key].as_str().map(str::to_owned);
            Some(BaseChain {
                family: text("family")?,
                table: text("table")?,
                name: text("name")?,
                hook: text("hook")?,
                drops: chain["policy"] == "drop",
            })
        })
        .collect()
}

/// The rules of a table, by chain.
#[derive(Debug, Default)]
pub(super) struct Ruleset {
    chains: HashMap<String, Vec<Value>>,
    /// The elements of verdict maps with names.
    maps: HashMap<String, Value>,
}

/// How a walk through a chain can end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Ends {
    pub accept: bool,
    pub drop: bool,
    /// It comes to the end of the chain, or returns.
    falls: bool,
}

impl Ends {
    const ACCEPT: Ends = Ends { accept: true, drop: false, falls: false };
    const DROP: Ends = Ends { accept: false, drop: true, falls: false };
    const FALLS: Ends = Ends { accept: false, drop: false, falls: true };
    const ANY: Ends = Ends { accept: true, drop: true, falls: true };

    fn or(self, other: Ends) -> Ends {
        Ends { accept: self.accept || other.accept, drop: self.drop || other.drop, falls: self.falls || other.falls }
    }
}

/// What one rule does with a packet.
struct Step {
    /// How the chain can end here.
    ends: Ends,
    /// Whether the next rule can be reached.
    goes_on: bool,
}

impl Ruleset {
    /// Reads a listing of a table. `words` is the same in nft's own language, with handles, if it is needed: see
    /// [`Ruleset::needs_words`].
    pub(super) fn read(listing: &Value, words: Option<&str>) -> Ruleset {
        let mut lines = HashMap::new();
        for line in words.unwrap_or_default().lines() {
            if let Some((rule, handle)) = line.rsplit_once("# handle ") {
                lines.insert(handle.trim().parse::<u64>().ok(), rule);
            }
        }
        let mut ruleset = Ruleset::default();
        let objects = listing["nftables"].as_array().map(Vec::as_slice).unwrap_or_default();
        for rule in objects.iter().filter_map(|object| object.get("rule")) {
            let Some(chain) = rule["chain"].as_str() else { continue };
            let mut statements = rule["expr"].clone();
            let line = lines.get(&rule["handle"].as_u64()).copied().unwrap_or_default();
            statements.as_array_mut().into_iter().flatten().for_each(|statement| translate(statement, line));
            ruleset.chains.entry(chain.to_owned()).or_default().push(statements);
        }
        ruleset
    }

    /// The verdict maps with names that the rules look up; a terse listing does not have their elements.
    pub(super) fn maps(&self) -> BTreeSet<String> {
        let statements = self.chains.values().flatten().flat_map(|rule| rule.as_array().into_iter().flatten());
        let data = statements.filter_map(|statement| statement.pointer("/vmap/data")?.as_str()?.strip_prefix('@'));
        data.map(str::to_owned).collect()
    }

    /// Adds the elements of a map, by its own listing.
    pub(super) fn add_map(&mut self, name: &str, listing: &Value) {
        let objects = listing["nftables"].as_array().map(Vec::as_slice).unwrap_or_default();
        if let Some(map) = objects.iter().find_map(|object| object.get("map")) {
            self.maps.insert(name.to_owned(), map.get("elem").cloned().unwrap_or_else(|| json!([])));
        }
    }

    /// Whether a listing has matches of iptables that JSON does not show.
    pub(super) fn needs_words(listing: &str) -> bool {
        listing.contains("\"xt\"") && listing.contains("\"conntrack\"")
    }

    /// Whether the chain jumps to another right away.
    pub(super) fn jumps_to(&self, chain: &str, other: &str) -> bool {
        let rules = self.chains.get(chain).map(Vec::as_slice).unwrap_or_default();
        rules
            .iter()
            .flat_map(|rule| rule.as_array().into_iter().flatten())
            .any(|statement| statement.pointer("/jump/target").and_then(Value::as_str) == Some(other))
    }

    /// Whether the packet surely does not get through a base chain.
    pub(super) fn drops(&self, chain: &BaseChain, packet: &Packet<'_>) -> bool {
        let mut steps = 0;
        let ends = self.walk(&chain.name, packet, 0, &mut steps);
        let policy = if chain.drops { Ends::DROP } else { Ends::ACCEPT };
        let ends = if ends.falls { ends.or(policy) } else { ends };
        ends.drop && !ends.accept
    }

    fn walk(&self, chain: &str, packet: &Packet<'_>, depth: usize, steps: &mut usize) -> Ends {
        let mut ends = Ends::default();
        for rule in self.chains.get(chain).map(Vec::as_slice).unwrap_or_default() {
            *steps += 1;
            if depth > DEEPEST || *steps > MOST_STEPS {
                return Ends::ANY;
            }
            let step = self.step(rule, packet, depth, steps);
            ends = ends.or(step.ends);
            if !step.goes_on {
                return ends;
            }
        }
        ends.or(Ends::FALLS)
    }

    fn step(&self, rule: &Value, packet: &Packet<'_>, depth: usize, steps: &mut usize) -> Step {
        let mut sure = true;
        for statement in rule.as_array().into_iter().flatten() {
            let Some((kind, inner)) = statement.as_object().and_then(|object| object.iter().next()) else { continue };
            let matched = match kind.as_str() {
                "match" => packet.matches(inner),
                "limit" | "quota" | "ct count" | "queue" | "meter" => None,
                "xt" => xt(inner),
                "vmap" => return self.look_up(inner, packet, sure, depth, steps),
                _ => match self.verdict(statement, packet, depth, steps) {
                    Some(step) => return Step { goes_on: step.goes_on || !sure, ..step },
                    None => Some(true),
                },
            };
            match matched {
                Some(true) => {}
                Some(false) => return Step { ends: Ends::default(), goes_on: true },
                None if kind == "queue" => return Step { ends: Ends::ANY, goes_on: true },
                None => sure = false,
            }
        }
        Step { ends: Ends::default(), goes_on: true }
    }

    /// What a statement does, if it is a verdict.
    fn verdict(&self, statement: &Value, packet: &Packet<'_>, depth: usize, steps: &mut usize) -> Option<Step> {
        let (kind, inner) = statement.as_object()?.iter().next()?;
        let end = |ends| Some(Step { ends, goes_on: false });
        match kind.as_str() {
            "accept" => end(Ends::ACCEPT),
            "drop" | "reject" => end(Ends::DROP),
            "return" => end(Ends::FALLS),
            "goto" => end(self.walk(inner["target"].as_str()?, packet, depth + 1, steps)),
            "jump" => {
                let ends = self.walk(inner["target"].as_str()?, packet, depth + 1, steps);
                Some(Step { ends: Ends { falls: false, ..ends }, goes_on: ends.falls })
            }
            _ => None,
        }
    }

    /// A verdict map; one that is not known could do anything.
    fn look_up(&self, vmap: &Value, packet: &Packet<'_>, sure: bool, depth: usize, steps: &mut usize) -> Step {
        let named = || self.maps.get(vmap["data"].as_str()?.strip_prefix('@')?)?.as_array();
        let Some(elements) = vmap["data"]["set"].as_array().or_else(named) else {
            return Step { ends: Ends::ANY, goes_on: true };
        };
        let mut all = Step { ends: Ends::default(), goes_on: true };
        for element in elements {
            let matched = packet.is_element(&vmap["key"], &element[0]);
            if matched == Some(false) {
                continue;
            }
            if let Some(step) = self.verdict(&element[1], packet, depth, steps) {
                all.ends = all.ends.or(step.ends);
                if matched == Some(true) {
                    all.goes_on = step.goes_on || !sure;
                    return all;
                }
            }
        }
        all
    }
}

/// Whether an extension of iptables matches.
fn xt(extension: &Value) -> Option<bool> {
    (extension["name"] == "comment").then_some(true)
}

/// Says in nft's words what an extension of iptables does, where the line of the rule tells.
fn translate(statement: &mut Value, line: &str) {
    let Some(extension) = statement.get("xt") else { return };
    let name = extension["name"].as_str().unwrap_or_default().to_owned();
    if extension["type"] == "target" {
        match name.as_str() {
            "REJECT" | "DROP" => *statement = json!({ "drop": null }),
            // They change or log, and the packet goes on.
            _ => *statement = json!({ "counter": null }),
        }
    } else if name == "conntrack" {
        for key in ["state", "status"] {
            let Some((_, rest)) = line.split_once(&format!("ct {key} ")) else { continue };
            let (op, rest) = rest.strip_prefix("!= ").map_or(("in", rest), |rest| ("!=", rest));
            let words: Vec<&str> = rest.split(' ').next().unwrap_or_default().split(',').collect();
            *statement = json!({ "match": { "op": op, "left": { "ct": { "key": key } }, "right": words } });
            return;
        }
    }
}

#[cfg(test)]
mod tests;
