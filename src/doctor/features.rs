//! Features of the kernel that proxygw's rules need.
//!
//! Each feature is a few lines of nft, which the kernel checks in a transaction that it then aborts (`nft --check`): nothing
//! is changed. Some kernels check less than others in that case, so the kernel's version is judged too.

use std::fs;

use super::{Asker, Finding, Host, Path, Subject, not_looked_at};
use crate::dataplane::apply::{Language, Nft, NftError};

/// The oldest kernel that proxygw was tried on.
const OLDEST: Version = (5, 10);

/// A kernel's version, without what follows the second number.
type Version = (u32, u32);

/// Features that kernels have from a version on, where a checked transaction does not show them.
const SINCE: [(Version, &str); 3] = [
    ((5, 6), "ranges in sets of several fields"),
    ((5, 8), "filters for dumps of conntrack's table"),
    ((5, 9), "reject in prerouting"),
];

/// One feature.
struct Feature {
    /// As messages name it.
    name: &'static str,
    /// The kernel's options for it.
    options: &'static str,
    /// Whether a configuration needs it.
    needed: fn(&Subject) -> bool,
    /// Lines within a table of the family `inet`.
    rules: &'static str,
}

const NAT: &str = "type nat hook prerouting priority -101; policy accept;";

/// In the order in which they build on each other.
const FEATURES: [Feature; 11] = [
    feature("tables of the family inet", "NF_TABLES NF_TABLES_INET", always, ""),
    feature(
        "maps of verdicts by several fields",
        "NF_TABLES",
        always,
        "map m { type inet_proto . ipv4_addr . inet_service : verdict; }",
    ),
    feature("chains for NAT", "NFT_NAT NF_NAT", always, "chain c { NAT }"),
    feature("dnat", "NFT_NAT NF_NAT", always, "chain c { NAT\nmeta l4proto tcp dnat ip to 192.0.2.1:80\n}"),
    feature("matches on conntrack", "NFT_CT NF_CONNTRACK", always, "chain c { NAT\nct status dnat accept\n}"),
    feature(
        "conntrack timeout policies",
        "NF_CONNTRACK_TIMEOUT NFT_CT",
        always,
        "ct timeout t { protocol tcp; l3proto ip; policy = { established : 60 } ; }\nchain c { NAT\nct timeout set \"t\"\n}",
    ),
    feature(
        "reject in prerouting",
        "NFT_REJECT_INET, in Linux 5.9 or newer",
        always,
        "chain c { NAT\nmeta l4proto tcp reject with tcp reset\n}",
    ),
    feature(
        "fib, by which local addresses are matched",
        "NFT_FIB_INET",
        always,
        "chain c { NAT\nfib daddr type local return\n}",
    ),
    feature(
        "NFLOG, by which packets are held",
        "NFT_LOG NETFILTER_NETLINK_LOG",
        any_hold,
        "chain c { NAT\nlog group 5 snaplen 65535\n}",
    ),
    feature(
        "masquerade",
        "NFT_MASQ",
        any_remote,
        "chain c { type nat hook postrouting priority 99; policy accept;\nmasquerade\n}",
    ),
    feature(
        "ranges in sets of several fields",
        "NF_TABLES, in Linux 5.6 or newer",
        any_remote,
        "set s { type iface_index . ipv4_addr; flags interval; }",
    ),
];

const fn feature(
    name: &'static str,
    options: &'static str,
    needed: fn(&Subject) -> bool,
    rules: &'static str,
) -> Feature {
    Feature { name, options, needed, rules }
}

fn always(_: &Subject) -> bool {
    true
}

fn any_hold(subject: &Subject) -> bool {
    subject.paths.iter().any(|path| Path::holds(path).is_some())
}

fn any_remote(subject: &Subject) -> bool {
    subject.remote().next().is_some()
}

/// Judges the kernel's version. Needs no rights.
pub(super) fn examine_version(host: &Host, findings: &mut Vec<Finding>) {
    // A daemon that runs has loaded its table.
    if host.asker == Asker::Operator && !host.daemon_runs {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        findings.extend(judge_version(release.trim()));
    }
}

/// Lets the kernel check each feature that the configuration needs.
pub(super) fn examine(subject: &Subject, host: &Host, findings: &mut Vec<Finding>) {
    if host.asker == Asker::Daemon || host.daemon_runs {
        return;
    }
    let nft = Nft::find();
    let check = |features: &[&Feature]| nft.check(Language::Native, &script(features));
    findings.extend(judge(&needed(subject), check));
}

fn needed(subject: &Subject) -> Vec<&'static Feature> {
    FEATURES.iter().filter(|feature| (feature.needed)(subject)).collect()
}

/// A table for each feature.
fn script(features: &[&Feature]) -> String {
    let table = |(n, feature): (usize, &&Feature)| {
        format!("table inet proxygw-doctor-{n} {{\n{}\n}}\n", feature.rules.replace("NAT", NAT))
    };
    features.iter().enumerate().map(table).collect()
}

/// Checks all features at once, and each alone where that fails.
fn judge(needed: &[&Feature], check: impl Fn(&[&Feature]) -> Result<(), NftError>) -> Vec<Finding> {
    let Err(all) = check(needed) else { return Vec::new() };
    let mut findings = Vec::new();
    for feature in needed {
        match check(&[feature]) {
            Ok(()) => {}
            Err(NftError::Failed(words)) if !is_lack_of_rights(&words) => {
                let problem = format!("this kernel has no {}: {words}", feature.name);
                let options: Vec<String> = feature.options.split(' ').map(option).collect();
                let remedy = format!("a kernel with {}, and its modules", options.join(" "));
                findings.push(Finding::error("kernel-feature-missing", problem, remedy));
            }
            Err(error) => return vec![not_looked_at("the kernel's features", &error, "nft --check -f FILE")],
        }
        // Without tables nothing else works.
        if !findings.is_empty() && feature.rules.is_empty() {
            return findings;
        }
    }
    if findings.is_empty() {
        findings.push(not_looked_at("the kernel's features", &all, "nft --check -f FILE"));
    }
    findings
}

/// `NFT_NAT` is `CONFIG_NFT_NAT`; other tokens stay.
fn option(word: &str) -> String {
    let is_option = word.starts_with("NF");
    if is_option || word.starts_with("NETFILTER") { format!("CONFIG_{word}") } else { word.to_owned() }
}

fn is_lack_of_rights(words: &str) -> bool {
    words.contains("Operation not permitted") || words.contains("you must be root")
}

fn judge_version(release: &str) -> Option<Finding> {
    let version = version(release)?;
    let missing: Vec<String> = SINCE
        .iter()
        .filter(|(since, _)| version < *since)
        .map(|((major, minor), name)| format!("{name} (Linux {major}.{minor})"))
        .collect();
    let (major, minor) = OLDEST;
    let remedy = format!("a kernel of {major}.{minor} or newer");
    if !missing.is_empty() {
        let problem = format!("this kernel ({release}) is too old: it has no {}", missing.join(", no "));
        return Some(Finding::error("kernel-too-old", problem, remedy));
    }
    (version < OLDEST).then(|| {
        let problem =
            format!("this kernel ({release}) is older than {major}.{minor}, the oldest that proxygw was tried on");
        Finding::warning("kernel-too-old", problem, remedy)
    })
}

/// The version in `6.1.0-18-amd64`.
fn version(release: &str) -> Option<Version> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Severity;

    fn all() -> Vec<&'static Feature> {
        FEATURES.iter().collect()
    }

    /// A kernel without some features.
    fn without(missing: &'static [&'static str]) -> impl Fn(&[&Feature]) -> Result<(), NftError> {
        move |features| match features.iter().any(|feature| missing.contains(&feature.name)) {
            true => Err(NftError::Failed("Could not process rule: No such file or directory".to_owned())),
            false => Ok(()),
        }
    }

    #[test]
    fn a_feature_that_is_missing_is_named_with_its_option() {
        assert_eq!(judge(&all(), without(&[])), []);
        let found = judge(&all(), without(&["conntrack timeout policies", "masquerade"]));
        let problems: Vec<_> = found.iter().map(|finding| (finding.code, finding.problem.as_str())).collect();
        let words = "Could not process rule: No such file or directory";
        assert_eq!(
            problems,
            [
                ("kernel-feature-missing", format!("this kernel has no conntrack timeout policies: {words}").as_str()),
                ("kernel-feature-missing", format!("this kernel has no masquerade: {words}").as_str()),
            ]
        );
        assert_eq!(found[0].remedy, "a kernel with CONFIG_NF_CONNTRACK_TIMEOUT CONFIG_NFT_CT, and its modules");
        let found = judge(&all(), without(&["reject in prerouting"]));
        assert_eq!(found[0].remedy, "a kernel with CONFIG_NFT_REJECT_INET, in Linux 5.9 or newer, and its modules");
        // One finding, where all the others follow from it.
        let found = judge(&all(), |_| Err(NftError::Failed("Protocol not supported".to_owned())));
        assert_eq!(found.len(), 1, "{found:?}");
    }

    #[test]
    fn what_cannot_be_checked_is_no_missing_feature() {
        let denied = |_: &[&Feature]| Err(NftError::Failed("Operation not permitted (you must be root)".to_owned()));
        let found = judge(&all(), denied);
        assert_eq!(found.iter().map(|finding| finding.code).collect::<Vec<_>>(), ["not-looked-at"]);
        // All together fail, and each alone does not.
        let found = judge(&all(), |features| match features.len() {
            1 => Ok(()),
            _ => Err(NftError::Failed("Message too long".to_owned())),
        });
        assert_eq!(found.iter().map(|finding| finding.code).collect::<Vec<_>>(), ["not-looked-at"]);
    }

    #[test]
    fn versions_name_what_they_lack() {
        let judged = |release: &str| judge_version(release).map(|finding| (finding.severity, finding.problem));
        for new in ["5.10.0-28-amd64", "5.10", "6.1.0", "6.18.44-fc", "10.0.0", "odd", ""] {
            assert_eq!(judged(new), None, "{new}");
        }
        let problem = "this kernel (5.8.18) is too old: it has no reject in prerouting (Linux 5.9)";
        assert_eq!(judged("5.8.18"), Some((Severity::Error, problem.to_owned())));
        let (_, problem) = judged("5.4.0-150-generic").expect("a finding");
        assert!(problem.contains("no ranges in sets") && problem.contains("no filters for dumps"), "{problem}");
        let (severity, problem) = judged("5.9.16").expect("a finding");
        assert!(severity == Severity::Warning && problem.contains("older than 5.10"), "{problem}");
    }

    #[test]
    fn each_feature_has_a_table_of_its_own() {
        let script = script(&all());
        assert_eq!(script.matches("table inet proxygw-doctor-").count(), FEATURES.len());
        assert!(!script.contains("NAT\n") && !script.contains("NAT }"), "{script}");
        assert_eq!(script.matches('{').count(), script.matches('}').count(), "{script}");
    }
}
