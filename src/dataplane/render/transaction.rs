//! A transaction for `nft -j -f -` that is being put together.

use nftables::schema::{Chain, NfListObject, Rule, Table};
use nftables::stmt::Statement;
use nftables::types::{NfChainPolicy, NfChainType, NfFamily, NfHook};
use serde::Serialize;
use serde_json::{Value, json};

use super::TABLE;

/// The commands so far, as text, in the order in which nft wants them: table, sets and maps, chains, rules, elements. Each
/// is written at once: kept as values, those of a thousand frontends would take forty megabytes.
#[derive(Default)]
pub(super) struct Transaction(String);

impl Transaction {
    /// The text for nft.
    pub(super) fn into_text(self) -> String {
        format!("{{\"nftables\":[{}]}}", self.0)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn command(&mut self, verb: &str, object: impl Serialize) {
        if !self.0.is_empty() {
            self.0.push(',');
        }
        self.0.push_str(&format!("{{\"{verb}\":{}}}", text(&object)));
    }

    pub(super) fn add_table(&mut self) {
        self.command("add", table());
    }

    pub(super) fn delete_table(&mut self) {
        self.command("delete", table());
    }

    /// A map from `key` to verdicts. The crate has no type for it: its `SetType` lacks `verdict`.
    pub(super) fn add_verdict_map(&mut self, name: &str, key: &[&str], ranges: bool) {
        let mut map = json!({ "family": "inet", "table": TABLE, "name": name, "type": key, "map": "verdict" });
        allow_ranges(&mut map, ranges);
        self.command("add", json!({ "map": map }));
    }

    /// A map from ports to ports.
    pub(super) fn add_port_map(&mut self, name: &str, elements: impl Iterator<Item = (u16, u16)>) {
        let port = "inet_service";
        let map = json!({ "family": "inet", "table": TABLE, "name": name, "type": port, "map": port });
        self.command("add", json!({ "map": map }));
        self.elements("add", name, elements.map(|(from, to)| json!([from, to])));
    }

    /// A map from addresses and ports to addresses.
    pub(super) fn add_address_map(&mut self, name: &str, v4: bool, ranges: bool) {
        let ip = if v4 { "ipv4_addr" } else { "ipv6_addr" };
        let key = [ip, "inet_service"];
        let mut map = json!({ "family": "inet", "table": TABLE, "name": name, "type": key, "map": ip });
        allow_ranges(&mut map, ranges);
        self.command("add", json!({ "map": map }));
    }

    /// A set of single values, or of ranges too.
    pub(super) fn add_set(&mut self, name: &str, key: &[&str], ranges: bool) {
        let key = if let [one] = key { json!(one) } else { json!(key) };
        let mut set = json!({ "family": "inet", "table": TABLE, "name": name, "type": key });
        allow_ranges(&mut set, ranges);
        self.command("add", json!({ "set": set }));
    }

    /// A set of addresses and prefixes, none of which is in another.
    pub(super) fn add_interval_set(&mut self, name: &str, v4: bool, elements: impl Iterator<Item = Value>) {
        let key = if v4 { "ipv4_addr" } else { "ipv6_addr" };
        let set = json!({ "family": "inet", "table": TABLE, "name": name, "type": key, "flags": ["interval"] });
        self.command("add", json!({ "set": set }));
        self.elements("add", name, elements);
    }

    /// Puts elements into a verdict map: a key, and the chain to go to.
    pub(super) fn add_elements(&mut self, map: &str, elements: impl Iterator<Item = (Value, String)>) {
        self.elements("add", map, elements.map(|(key, chain)| json!([key, { "goto": { "target": chain } }])));
    }

    /// Puts elements into a verdict map: a key, and the chain to go to and come back from.
    pub(super) fn add_jumps(&mut self, map: &str, elements: impl Iterator<Item = (Value, String)>) {
        self.elements("add", map, elements.map(|(key, chain)| json!([key, { "jump": { "target": chain } }])));
    }

    /// Puts elements into a set, or pairs into a map of values.
    pub(super) fn add_members(&mut self, set: &str, elements: impl Iterator<Item = Value>) {
        self.elements("add", set, elements);
    }

    /// Takes elements out of a map or a set.
    pub(super) fn delete_elements(&mut self, map: &str, keys: impl Iterator<Item = Value>) {
        self.elements("delete", map, keys);
    }

    fn elements(&mut self, verb: &str, name: &str, elements: impl Iterator<Item = Value>) {
        let mut list = String::new();
        for element in elements {
            list.push(if list.is_empty() { '[' } else { ',' });
            list.push_str(&text(&element));
        }
        if list.is_empty() {
            return;
        }
        list.push(']');
        if !self.0.is_empty() {
            self.0.push(',');
        }
        let head = format!("{{\"{verb}\":{{\"element\":{{\"family\":\"inet\",\"table\":{},", text(&TABLE));
        self.0.push_str(&head);
        self.0.push_str(&format!("\"name\":{},\"elem\":{list}}}}}}}", text(&name)));
    }

    pub(super) fn add_chain(&mut self, name: &str) {
        self.command("add", NfListObject::Chain(chain(name)));
    }

    pub(super) fn add_base_chain(&mut self, name: &str, kind: NfChainType, hook: NfHook, priority: i32) {
        let chain = Chain {
            _type: Some(kind),
            hook: Some(hook),
            prio: Some(priority),
            policy: Some(NfChainPolicy::Accept),
            ..chain(name)
        };
        self.command("add", NfListObject::Chain(chain));
    }

    pub(super) fn add_rule(&mut self, chain: &str, expr: Vec<Statement<'static>>, comment: Option<&str>) {
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

fn allow_ranges(set: &mut Value, ranges: bool) {
    if ranges {
        set["flags"] = json!(["interval"]);
    }
}

/// The JSON of a value.
fn text(value: &impl Serialize) -> String {
    // Names and numbers only: there is nothing in it that JSON cannot express.
    serde_json::to_string(value).unwrap_or_default()
}

fn table() -> NfListObject<'static> {
    NfListObject::Table(Table { family: NfFamily::INet, name: TABLE.into(), handle: None })
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
