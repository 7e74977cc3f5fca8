//! Flowtables: the kernel forwards packets of the flows in them without conntrack and without any chain.

use serde_json::Value;

use super::{Context, Finding, endpoints, listed, objects};
use crate::config::Protocol;

/// Time that a flow stays in a flowtable after its last packet, in seconds, where the kernel has no setting.
const DEFAULT_TIMEOUT: i64 = 30;

/// Finds flowtables that flows to backends on other hosts may enter. Flows to this host enter none.
pub(super) fn check(context: &Context<'_>, findings: &mut Vec<Finding>) {
    let Some(about) = endpoints(context.scope.remote()) else { return };
    match context.nft_json(&["-j", "list", "flowtables"]) {
        Ok(listing) => {
            let found = flowtables(&listing);
            findings.extend((!found.is_empty()).then(|| finding(&found, timeout(context)).about(about)));
        }
        Err(error) => findings.push(Finding::not_checked("the flowtables", &error, "nft list flowtables")),
    }
}

/// Longest time that a remote path's flow stays in a flowtable after its last packet, in seconds.
fn timeout(context: &Context<'_>) -> i64 {
    let timeout = |protocol: Protocol| {
        context.setting(&format!("net.netfilter.nf_flowtable_{protocol}_timeout")).unwrap_or(DEFAULT_TIMEOUT)
    };
    let is_used = |protocol: &Protocol| context.scope.remote().any(|path| path.protocol == *protocol);
    [Protocol::Tcp, Protocol::Udp].into_iter().filter(is_used).map(timeout).max().unwrap_or(DEFAULT_TIMEOUT)
}

/// The flowtables with devices in a listing of nft, as messages name them.
fn flowtables(listing: &Value) -> Vec<String> {
    let name = |flowtable: &Value| {
        let part = |key: &str| flowtable[key].as_str();
        let has_devices = match &flowtable["dev"] {
            Value::Array(devices) => !devices.is_empty(),
            device => device.is_string(),
        };
        has_devices.then(|| Some(format!("{} of the table {} {}", part("name")?, part("family")?, part("table")?)))?
    };
    objects(listing).iter().filter_map(|object| name(object.get("flowtable")?)).collect()
}

fn finding(flowtables: &[String], timeout: i64) -> Finding {
    let (noun, verb) = if flowtables.len() == 1 { ("flowtable", "takes") } else { ("flowtables", "take") };
    let problem = format!(
        "the {noun} {} {verb} forwarded flows out of conntrack's sight: such a flow stays in use until {timeout} s after its \
         last packet, and then for its flow_timeout, so a target can drain {timeout} s late",
        listed(flowtables)
    );
    let remedy = "if drains must be exact, add `ct status & dnat != dnat` before `flow add` in the rule that fills it";
    let note = "before Linux 6.4, the entries of flows in it cannot be deleted when their target drains; closed connections \
                count as closed at once";
    Finding::warning("flowtable", problem, remedy).note(note)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::testing::{Case, LOCAL4, REMOTE4, REMOTE6, held, only};

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
    fn listing_is_reduced_to_flowtables_with_devices() {
        let flowtables = |listing: &str| crate::doctor::parsed(listing).map(|listing| flowtables(&listing)).ok();
        let found = flowtables(LISTING).expect("JSON");
        assert_eq!(found, ["ft of the table inet fw4", "f of the table ip filter"]);
        assert_eq!(flowtables(r#"{"nftables": [{"metainfo": {}}]}"#), Some(vec![]));
        assert_eq!(flowtables(r#"{"nftables": [{"flowtable": {"dev": "x"}}, {"flowtable": 3}, 5]}"#), Some(vec![]));
        let empty = r#"{"nftables": [{"flowtable": {"family": "ip", "name": "f", "table": "t", "dev": []}}]}"#;
        assert_eq!(flowtables(empty), Some(vec![]));
        assert_eq!(flowtables(""), None);
    }

    #[test]
    fn flowtable_is_found_if_a_backend_is_remote() {
        const NFT: &str = "-j list flowtables";
        let mut case = Case::new([held("0.0.0.0:80", REMOTE4), held("[::]:80", REMOTE6)]);
        assert_eq!(case.run(check), []);
        case.host.nft.insert(NFT, Ok(LISTING.to_owned()));
        case.host.set("net.netfilter.nf_flowtable_tcp_timeout", 45);
        case.host.set("net.netfilter.nf_flowtable_udp_timeout", 90);
        let found = only(case.run(check), "flowtable");
        assert!(found.problem.starts_with("the flowtables ft of the table inet fw4, f of the"), "{found:?}");
        assert!(found.problem.ends_with("a target can drain 45 s late"), "{found:?}");
        assert_eq!(
            found.about.as_deref(),
            Some("endpoint b:http 203.0.113.2:8080, endpoint b:http [2001:db8:2::2]:8080")
        );
        case.paths[1].protocol = Protocol::Udp;
        let found = only(case.run(check), "flowtable");
        assert!(found.problem.ends_with("a target can drain 90 s late"), "{found:?}");
        case.host.nft.insert(NFT, Err("killed by signal 11".to_owned()));
        assert!(only(case.run(check), "not-looked-at").problem.contains("killed by signal 11"));
        case.host.nft.insert(NFT, Ok("{".to_owned()));
        only(case.run(check), "not-looked-at");
        case.paths = vec![held("0.0.0.0:80", LOCAL4)];
        assert_eq!(case.run(check), []);
    }

    #[test]
    fn kernel_without_a_setting_has_its_default_timeout() {
        let found = finding(&["ft of the table inet fw4".to_owned()], 1);
        assert!(found.problem.starts_with("the flowtable ft of the table inet fw4 takes forwarded flows"), "{found:?}");
        assert_eq!(Case::new([held("0.0.0.0:80", REMOTE4)]).run(|context, _| assert_eq!(timeout(context), 30)), []);
    }
}
