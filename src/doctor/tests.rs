use rustix::io::Errno;

use super::testing::{Case, FakeHost, LOCAL4, REMOTE4, answered, at, codes, held};
use super::*;

const NONE: [&str; 0] = [];

/// Runs all checks.
fn examine_case(case: &Case) -> Vec<Finding> {
    examine_host(case.scope(), case.caller, &case.host)
}

#[test]
fn well_configured_host_has_no_findings() {
    let mut case = Case::new([held("0.0.0.0:80", REMOTE4), answered("0.0.0.0:81", LOCAL4)]);
    assert_eq!(examine_case(&case), []);
    case.caller = Caller::Daemon;
    assert_eq!(examine_case(&case), []);
}

/// Breaks everything that can be broken at the same time.
fn break_host(host: &mut FakeHost) {
    host.files.clear();
    host.set("net.ipv4.ip_forward", 0);
    host.set("net.netfilter.nf_conntrack_count", 1);
    host.set("net.netfilter.nf_conntrack_max", 1);
    host.write("/etc/nftables.conf", "table ip proxygw-guard {\n}\n");
    host.write("/proc/sys/kernel/osrelease", "4.19.0\n");
    host.write("/proc/thread-self/net/netfilter/nfnetlink_log", "28775 300 0 2 1 1 1\n");
    host.conntrack = Err(Errno::INVAL);
    host.flows = Err(Errno::PERM);
    host.bound.insert(at("0.0.0.0:81"), Errno::ADDRINUSE);
    host.routes.remove(&at(REMOTE4).ip());
    host.nft_check = Box::new(|_| Err(crate::dataplane::apply::NftError::Failed("Protocol not supported".to_owned())));
    host.nft.remove("-j list tables");
    host.nft.remove("-j list flowtables");
}

#[test]
fn every_check_runs_and_errors_come_first() {
    let mut case = Case::new([held("0.0.0.0:80", REMOTE4), answered("0.0.0.0:81", LOCAL4)]);
    break_host(&mut case.host);
    let errors = [
        "kernel-feature-missing",
        "no-ctnetlink",
        "nflog-group-taken",
        "kernel-too-old",
        "port-taken",
        "ip-forward-off",
        "no-route",
    ];
    let warnings = ["not-looked-at", "not-looked-at", "not-looked-at", "saved-guard-table", "conntrack-full"];
    assert_eq!(codes(&examine_case(&case)), [&errors[..], &warnings[..]].concat());
}

#[test]
fn checks_that_need_a_capability_are_skipped_without_it() {
    let mut case = Case::new([held("0.0.0.0:80", REMOTE4), answered("0.0.0.0:81", LOCAL4)]);
    break_host(&mut case.host);
    case.host.write("/proc/thread-self/status", "Name:\tx\nCapEff:\t0000000000000000\n");
    let found = examine_case(&case);
    for skipped in ["kernel-feature-missing", "no-ctnetlink", "nflog-group-taken", "not-looked-at"] {
        assert!(!codes(&found).contains(&skipped), "{found:#?}");
    }
    assert_eq!(codes(&found)[..2], ["no-net-admin", "no-net-raw"]);
}

#[test]
fn missing_nft_hides_its_checks_only() {
    let mut case = Case::new([held("0.0.0.0:80", REMOTE4)]);
    break_host(&mut case.host);
    case.host.nft.remove("--version");
    let found = examine_case(&case);
    assert!(codes(&found).starts_with(&["nft-missing", "no-ctnetlink"]), "{found:#?}");
    assert_eq!(codes(&found).iter().filter(|code| **code == "not-looked-at").count(), 1, "{found:#?}");
}

#[test]
fn unreadable_interfaces_are_a_finding() {
    let mut case = Case::new([held("0.0.0.0:80", REMOTE4)]);
    case.host.links = Err(Errno::MFILE);
    let found = testing::only(examine_case(&case), "not-looked-at");
    assert!(found.problem.starts_with("the interfaces could not be checked: Too many open files"), "{found:?}");
    assert_eq!(found.remedy, "check by hand: ip address");
}

#[test]
fn other_names_are_counted() {
    let names: Vec<String> = (0..10).map(|n| format!("n{n}")).collect();
    assert_eq!(listed(&names[..2]), "n0, n1");
    assert_eq!(listed(&names[..8]), "n0, n1, n2, n3, n4, n5, n6, n7");
    assert_eq!(listed(&names), "n0, n1, n2, n3, n4, n5, n6, n7 and 2 more");
}

#[test]
fn endpoints_are_listed_once() {
    let paths = [held("0.0.0.0:80", REMOTE4), held("0.0.0.0:81", REMOTE4)];
    assert_eq!(endpoints(paths.iter()).as_deref(), Some("endpoint b:http 203.0.113.2:8080"));
    assert_eq!(endpoints([].iter()), None);
}

#[test]
fn findings_are_printed_as_text_json_and_log_lines() {
    let bare = Finding::warning("w", "it is slow", "wait");
    let full = Finding::error("e", "it fails", "fix it").about("endpoint b").note("or do not");
    assert_eq!(text(&[]), "nothing found\n");
    let paragraphs =
        "error e: endpoint b\nit fails\nfix: fix it\n      or do not\n\nwarning w\nit is slow\nfix: wait\n";
    assert_eq!(text(&[full.clone(), bare.clone()]), paragraphs);
    assert_eq!(log_line(&full), "endpoint b: it fails; fix: fix it (or do not) [e]");
    assert_eq!(log_line(&bare), "it is slow; fix: wait [w]");
    let printed: serde_json::Value = serde_json::from_str(&json(std::slice::from_ref(&bare))).expect("JSON");
    let expected = serde_json::json!({"code": "w", "severity": "warning", "problem": "it is slow", "remedy": "wait"});
    assert_eq!(printed, serde_json::json!({ "findings": [expected] }));
    assert!(is_broken(&[bare.clone(), full]) && !is_broken(&[bare]) && !is_broken(&[]));
}

#[test]
fn setting_of_an_interface_with_a_dot_is_read() {
    let mut case = Case::new([]);
    case.host.links = Ok(vec![Link { index: 7, name: "eth0.100".to_owned() }]);
    let any_has = |case: &Case| {
        let mut has = false;
        case.run(|context, _| has = context.any_link_has(Family::V4, "forwarding"));
        has
    };
    for (value, expected) in [("1\n", true), ("0\n", false), ("-1\n", true), ("x", false)] {
        case.host.write("/proc/sys/net/ipv4/conf/eth0.100/forwarding", value);
        assert_eq!(any_has(&case), expected, "{value:?}");
    }
    case.host.files.insert("/proc/sys/net/ipv4/conf/eth0.100/forwarding".to_owned(), Err(Errno::ACCESS));
    assert!(!any_has(&case));
}

#[test]
fn daemon_runs_if_it_is_the_caller_or_holds_the_lock() {
    let mut case = Case::new([]);
    let runs = |case: &Case| {
        let mut runs = false;
        case.run(|context, _| runs = context.daemon_runs());
        runs
    };
    assert!(!runs(&case));
    case.host.daemon_runs = true;
    assert!(runs(&case));
    case.host.daemon_runs = false;
    case.caller = Caller::Daemon;
    assert!(runs(&case));
    assert_eq!(codes(&[]), NONE);
}
