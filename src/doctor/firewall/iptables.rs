//! Extensions of iptables, which nft's JSON shows by their names only.

use std::collections::HashMap;

use serde_json::{Value, json};

/// Whether a listing has matches that nft shows in its own language only.
pub(super) fn needs_native(listing: &str) -> bool {
    listing.contains("\"xt\"") && listing.contains("\"conntrack\"")
}

/// Replaces the extensions in a listing, as far as they are known, by the same in nft. `native` is the listing in nft's own
/// language, with handles, if it is needed: see [`needs_native`].
pub(super) fn translate(listing: &mut Value, native: &str) {
    let mut lines = HashMap::new();
    for line in native.lines() {
        if let Some((rule, handle)) = line.rsplit_once("# handle ") {
            lines.insert(handle.trim().parse::<u64>().ok(), rule);
        }
    }
    // Not by index: that panics where a listing is no object.
    let objects = listing.get_mut("nftables").and_then(Value::as_array_mut).into_iter().flatten();
    for rule in objects.filter_map(|object| object.get_mut("rule")) {
        let line = lines.get(&rule["handle"].as_u64()).copied().unwrap_or_default();
        for statement in rule.get_mut("expr").and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(known) = statement.get("xt").and_then(|extension| translated(extension, line)) {
                *statement = known;
            }
        }
    }
}

/// The same as an extension does, in nft.
fn translated(extension: &Value, line: &str) -> Option<Value> {
    let name = extension["name"].as_str().unwrap_or_default();
    match (extension["type"] == "target", name) {
        (true, "REJECT" | "DROP") => Some(json!({ "drop": null })),
        (true, "NFQUEUE" | "QUEUE") => Some(json!({ "queue": null })),
        // Other targets change or log, and the packet goes on. A comment matches always.
        (true, _) | (false, "comment") => Some(json!({ "counter": null })),
        (false, "conntrack") => ["state", "status"].into_iter().find_map(|key| {
            let (_, rest) = line.split_once(&format!("ct {key} "))?;
            let (op, rest) = rest.strip_prefix("!= ").map_or(("in", rest), |rest| ("!", rest));
            let names: Vec<&str> = rest.split(' ').next().unwrap_or_default().split(',').collect();
            Some(json!({ "match": { "op": op, "left": { "ct": { "key": key } }, "right": names } }))
        }),
        _ => None,
    }
}
