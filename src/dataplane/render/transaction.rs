//! Builds a transaction for `nft -j -f -`.

use nftables::schema::{Chain, NfListObject, Rule, Table};
use nftables::stmt::Statement;
use nftables::types::{NfChainPolicy, NfChainType, NfFamily, NfHook};
use serde::Serialize;
use serde_json::{Value, json};

use super::TABLE;
use crate::dataplane::repair::Parts;
use crate::netlink::nftables::{Base, Listing, Policy, SetKind};

/// The commands so far, as text, in the order in which nft wants them: table, sets and maps, chains, rules, elements. Each
/// is written at once: kept as values, those of a thousand frontends would take forty megabytes.
#[derive(Default)]
pub(super) struct Transaction {
    text: String,
    /// The parts that are added, if not all.
    only: Option<Parts>,
    /// The structure of the parts that are added; nothing is written then.
    outline: Option<Listing>,
}

impl Transaction {
    /// A transaction that adds these parts only.
    pub(super) fn only(parts: Parts) -> Transaction {
        Transaction { only: Some(parts), ..Transaction::default() }
    }

    /// A transaction that is never sent: the parts that it adds are recorded as a listing.
    pub(super) fn outline() -> Transaction {
        Transaction { outline: Some(Listing::default()), ..Transaction::default() }
    }

    /// The listing that [`Transaction::outline`] has recorded.
    pub(super) fn into_outline(self) -> Listing {
        self.outline.unwrap_or_default()
    }

    /// The text for nft.
    pub(super) fn into_text(self) -> String {
        format!("{{\"nftables\":[{}]}}", self.text)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    fn selects(&self, selects: impl FnOnce(&Parts) -> bool) -> bool {
        self.outline.is_none() && self.only.as_ref().is_none_or(selects)
    }

    fn command(&mut self, verb: &str, object: impl Serialize) {
        self.push(verb, &text(&object));
    }

    fn push(&mut self, verb: &str, object: &str) {
        let comma = if self.text.is_empty() { "" } else { "," };
        self.text.push_str(&format!(r#"{comma}{{"{verb}":{object}}}"#));
    }

    /// Empties, or deletes, an object of ours, or one that another program put into our table.
    pub(super) fn command_on(&mut self, verb: &str, kind: &str, name: &str) {
        self.command(verb, json!({ kind: { "family": "inet", "table": TABLE, "name": name } }));
    }

    /// Adds our table, or deletes it.
    pub(super) fn command_on_table(&mut self, verb: &str) {
        self.command(verb, NfListObject::Table(Table { family: NfFamily::INet, name: TABLE.into(), handle: None }));
    }

    /// A map from keys of these types, and ranges of them where `ranges` is set. The crate has no type for it: its `SetType`
    /// lacks `verdict`.
    pub(super) fn add_map(&mut self, name: &str, key: &[&str], value: &str, ranges: bool) {
        let mut map = named_set(name, key, ranges);
        map["map"] = json!(value);
        self.add_named_set(name, json!({ "map": map }));
    }

    /// A set of values of these types, and of ranges of them where `ranges` is set.
    pub(super) fn add_set(&mut self, name: &str, key: &[&str], ranges: bool) {
        self.add_named_set(name, json!({ "set": named_set(name, key, ranges) }));
    }

    fn add_named_set(&mut self, name: &str, set: Value) {
        if self.selects(|parts| parts.new_sets.contains(name)) {
            self.command("add", set);
        } else if let Some(outline) = &mut self.outline {
            let kind = if set.get("map").is_some() { SetKind::Map } else { SetKind::Set };
            outline.sets.insert(name.to_owned(), kind);
        }
    }

    /// Puts elements into a set, or pairs of key and value into a map.
    pub(super) fn add_elements(&mut self, name: &str, elements: impl Iterator<Item = impl Serialize>) {
        self.elements("add", name, elements);
    }

    /// Removes elements from a set or a map.
    pub(super) fn delete_elements(&mut self, name: &str, keys: impl Iterator<Item = impl Serialize>) {
        self.elements("delete", name, keys);
    }

    fn elements(&mut self, verb: &str, name: &str, elements: impl Iterator<Item = impl Serialize>) {
        if !self.selects(|parts| parts.new_sets.contains(name) || parts.sets.contains_key(name)) {
            return;
        }
        let mut list = String::new();
        for element in elements {
            list.push(if list.is_empty() { '[' } else { ',' });
            list.push_str(&text(&element));
        }
        if !list.is_empty() {
            let element = format!(r#"{{"family":"inet","table":"{TABLE}","name":{},"elem":{list}]}}"#, text(&name));
            self.push(verb, &format!(r#"{{"element":{element}}}"#));
        }
    }

    pub(super) fn add_chain(&mut self, name: &str) {
        self.put_chain(chain(name), None);
    }

    pub(super) fn add_base_chain(&mut self, name: &str, kind: NfChainType, hook: NfHook, priority: i32) {
        let kind_name = if kind == NfChainType::NAT { "nat" } else { "filter" };
        let base = Base { kind: kind_name.to_owned(), hook: hook_number(hook), priority, policy: Policy::Accept };
        let chain = Chain {
            _type: Some(kind),
            hook: Some(hook),
            prio: Some(priority),
            policy: Some(NfChainPolicy::Accept),
            ..chain(name)
        };
        self.put_chain(chain, Some(base));
    }

    fn put_chain(&mut self, chain: Chain<'_>, base: Option<Base>) {
        if self.selects(|parts| parts.new_chains.contains(&*chain.name)) {
            self.command("add", NfListObject::Chain(chain));
        } else if let Some(outline) = &mut self.outline {
            outline.chains.entry(chain.name.into_owned()).or_default().base = base;
        }
    }

    pub(super) fn add_rule(&mut self, chain: &str, expr: Vec<Statement<'static>>, comment: Option<&str>) {
        if let Some(outline) = &mut self.outline {
            outline.chains.entry(chain.to_owned()).or_default().rules += 1;
        }
        if !self.selects(|parts| parts.gets_rules(chain)) {
            return;
        }
        let rule = Rule {
            family: NfFamily::INet,
            table: TABLE.into(),
            chain: chain.into(),
            expr: expr.into(),
            handle: None,
            index: None,
            comment: comment.map(Into::into),
        };
        self.command("add", NfListObject::Rule(rule));
    }
}

/// `NF_INET_…`.
fn hook_number(hook: NfHook) -> u32 {
    match hook {
        NfHook::Prerouting => 0,
        NfHook::Input => 1,
        NfHook::Forward => 2,
        NfHook::Output => 3,
        NfHook::Postrouting => 4,
        NfHook::Ingress | NfHook::Egress => 5,
    }
}

fn named_set(name: &str, key: &[&str], ranges: bool) -> Value {
    let key = if let [one] = key { json!(one) } else { json!(key) };
    let mut set = json!({ "family": "inet", "table": TABLE, "name": name, "type": key });
    if ranges {
        set["flags"] = json!(["interval"]);
    }
    set
}

/// The JSON of a value.
fn text(value: &impl Serialize) -> String {
    // Names and numbers only: there is nothing in it that JSON cannot express.
    serde_json::to_string(value).unwrap_or_default()
}

fn chain(name: &str) -> Chain<'_> {
    Chain {
        family: NfFamily::INet,
        table: TABLE.into(),
        name: name.into(),
        newname: None,
        handle: None,
        _type: None,
        hook: None,
        prio: None,
        dev: None,
        policy: None,
    }
}
