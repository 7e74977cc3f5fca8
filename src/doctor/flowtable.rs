//! Flowtables: the kernel forwards the packets of the flows in them past conntrack, and past every chain.

use serde_json::Value;

use super::{Finding, Host, Path, Subject, listed, not_looked_at, sysctls};
use crate::config::Protocol;
use crate::dataplane::apply::Nft;

/// Time that a flow stays in a flowtable after its last packet, in seconds, where the kernel has no setting.
const DEFAULT_TIMEOUT: i64 = 30;

/// Finds flowtables where flows to backends on other hosts could pass them. Flows to this host pass none.
pub(super) fn examine(subject: &Subject, _: &Host, findings: &mut Vec<Finding>) {
    let mut labels = sysctls::distinct(subject.remote().map(Path::endpoint_label));
    labels.sort();
    if labels.is_empty() {
        return;
    }
    let listing = Nft::find().ask(&["-j", "list", "flowtables"]).map_err(|error| error.to_string());
    match listing.and_then(|listing| flowtables(&listing)) {
        Ok(found) => {
            let timeout = |protocol| timeout(subject, protocol);
            let timeout = [Protocol::Tcp, Protocol::Udp].map(timeout).into_iter().max().unwrap_or(DEFAULT_TIMEOUT);
            findings.extend(judge(&found, timeout).map(|finding| finding.about(listed(&labels))));
        }
        Err(error) => findings.push(not_looked_at("the flowtables", &error, "nft list flowtables")),
    }
}

/// Longest time that flows of the protocols of remote paths stay in a flowtable after their last packet, in seconds.
fn timeout(subject: &Subject, protocol: Protocol) -> i64 {
    if !subject.remote().any(|path| path.protocol == protocol) {
        return 0;
    }
    sysctls::read(&format!("net.netfilter.nf_flowtable_{protocol}_timeout")).unwrap_or(DEFAULT_TIMEOUT)
}

/// The flowtables that have devices, in a listing of nft's, as messages name them.
fn flowtables(listing: &str) -> Result<Vec<String>, String> {
    let listing: Value =
        serde_json::from_str(listing).map_err(|error| format!("nft's JSON cannot be read: {error}"))?;
    let objects = listing["nftables"].as_array().map(Vec::as_slice).unwrap_or_default();
    let name = |flowtable: &Value| {
        let part = |key: &str| flowtable[key].as_str();
        let has_devices = match &flowtable["dev"] {
            Value::Array(devices) => !devices.is_empty(),
            device => device.is_string(),
        };
        has_devices.then(|| Some(format!("{} of the table {} {}", part("name")?, part("family")?, part("table")?)))?
    };
    Ok(objects.iter().filter_map(|object| name(object.get("flowtable")?)).collect())
}

fn judge(flowtables: &[String], timeout: i64) -> Option<Finding> {
    let (noun, verb) = if flowtables.len() == 1 { ("flowtable", "takes") } else { ("flowtables", "take") };
    let problem = format!(
        "the {noun} {} {verb} forwarded flows past conntrack: such a flow counts as use until the kernel hands it back, {timeout} s \
         after its last packet, and then for its flow_timeout, so a target can drain {timeout} s late",
        listed(flowtables)
    );
    let remedy =
        "write `ct status & dnat != dnat` before `flow add` in the rule that fills it, if drains have to be exact";
    (!flowtables.is_empty()).then(|| {
        let note = "before Linux 6.4 the entries of flows in it cannot be deleted when their target drains; connections \
                    that are closed count as closed at once";
        Finding::warning("flowtable", problem, remedy).note(note)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Severity;

    /// As nft 1.0.6 and 1.1.3 print them: one device is a string.
    const LISTING: &str = r#"{"nftables": [
        {"metainfo": {"version": "1.0.6", "release_name": "Lester Gooch #5", "json_schema_version": 1}},
        {"flowtable": {"family": "inet", "name": "ft", "table": "fw4", "handle": 2, "hook": "ingress", "prio": 0,
            "dev": ["eth0", "eth1"]}},
        {"flowtable": {"family": "ip", "name": "f", "table": "filter", "handle": 1, "hook": "ingress", "prio": -5,
            "dev": "eth0"}},
        {"flowtable": {"family": "ip", "name": "unused", "table": "filter", "handle": 3, "hook": "ingress", "prio": 0}}
    ]}"#;

    #[test]
    fn flowtables_with_devices_are_found_in_a_listing() {
        let found = flowtables(LISTING).expect("JSON");
        assert_eq!(found, ["ft of the table inet fw4", "f of the table ip filter"]);
        assert_eq!(flowtables(r#"{"nftables": [{"metainfo": {}}]}"#), Ok(vec![]));
        assert_eq!(flowtables(r#"{"nftables": [{"flowtable": {"dev": "x"}}, {"flowtable": 3}, 5]}"#), Ok(vec![]));
        assert!(flowtables("").is_err());
    }

    #[test]
    fn a_flowtable_is_a_warning_with_its_price() {
        assert_eq!(judge(&[], 30), None);
        let finding = judge(&["ft of the table inet fw4".to_owned()], 45).expect("a finding");
        assert_eq!((finding.code, finding.severity), ("flowtable", Severity::Warning));
        assert!(
            finding.problem.starts_with("the flowtable ft of the table inet fw4 takes forwarded flows past conntrack")
        );
        assert!(finding.problem.ends_with("a target can drain 45 s late"), "{}", finding.problem);
    }
}
