//! Features of the kernel that proxygw's rules need.
//!
//! Each feature is a few lines of nft, which the kernel checks in a transaction that it then aborts (`nft --check`). Some kernels
//! check less than others in that case, so the kernel's version is checked too.

use super::{Context, Finding, Scope};
use crate::dataplane::apply::NftError;

/// The oldest kernel that proxygw was tested with.
const OLDEST: Version = (5, 10);

/// First two numbers of a kernel's version.
type Version = (u32, u32);

/// Features that a checked transaction does not show, and the first version of the kernel that has them.
const SINCE: [(Version, &str); 3] = [
    ((5, 6), "ranges in sets of several fields"),
    ((5, 8), "filters for dumps of conntrack's table"),
    ((5, 9), "reject in prerouting"),
];

/// A feature: name in messages, options of the kernel, configurations that need it, and lines of a table of the family `inet`.
type Feature = (&'static str, &'static str, fn(&Scope) -> bool, &'static str);

const ALWAYS: fn(&Scope) -> bool = |_| true;
const ANY_HOLD: fn(&Scope) -> bool = |scope| scope.paths.iter().any(|path| path.cold.group().is_some());
const ANY_REMOTE: fn(&Scope) -> bool = |scope| scope.remote().next().is_some();

/// Start of a chain, `NAT` in the lines of a feature.
const NAT: &str = "type nat hook prerouting priority -101; policy accept;";

/// All features, in the order in which they build on each other.
const FEATURES: [Feature; 11] = [
    ("tables of the family inet", "CONFIG_NF_TABLES and CONFIG_NF_TABLES_INET", ALWAYS, ""),
    (
        "maps of verdicts by several fields",
        "CONFIG_NF_TABLES",
        ALWAYS,
        "map m { type inet_proto . ipv4_addr . inet_service : verdict; }",
    ),
    ("chains for NAT", "CONFIG_NFT_NAT and CONFIG_NF_NAT", ALWAYS, "chain c { NAT }"),
    ("dnat", "CONFIG_NFT_NAT and CONFIG_NF_NAT", ALWAYS, "chain c { NAT\nmeta l4proto tcp dnat ip to 192.0.2.1:80\n}"),
    (
        "matches on conntrack",
        "CONFIG_NFT_CT and CONFIG_NF_CONNTRACK",
        ALWAYS,
        "chain c { NAT\nct status dnat accept\n}",
    ),
    (
        "conntrack timeout policies",
        "CONFIG_NF_CONNTRACK_TIMEOUT and CONFIG_NFT_CT",
        ALWAYS,
        "ct timeout t { protocol tcp; l3proto ip; policy = { established : 60 } ; }\nchain c { NAT\nct timeout set \"t\"\n}",
    ),
    (
        "reject in prerouting",
        "CONFIG_NFT_REJECT_INET, Linux 5.9 or newer",
        ALWAYS,
        "chain c { NAT\nmeta l4proto tcp reject with tcp reset\n}",
    ),
    (
        "fib, which matches local addresses",
        "CONFIG_NFT_FIB_INET",
        ALWAYS,
        "chain c { NAT\nfib daddr type local return\n}",
    ),
    (
        "NFLOG, which holds packets",
        "CONFIG_NFT_LOG and CONFIG_NETFILTER_NETLINK_LOG",
        ANY_HOLD,
        "chain c { NAT\nlog group 5 snaplen 65535\n}",
    ),
    (
        "masquerade",
        "CONFIG_NFT_MASQ",
        ANY_REMOTE,
        "chain c { type nat hook postrouting priority 99; policy accept;\nmasquerade\n}",
    ),
    (
        "ranges in sets of several fields",
        "CONFIG_NF_TABLES, Linux 5.6 or newer",
        ANY_REMOTE,
        "set s { type iface_index . ipv4_addr; flags interval; }",
    ),
];

/// Checks the kernel's version.
pub(super) fn check_version(context: &Context<'_>, findings: &mut Vec<Finding>) {
    // A running daemon has loaded its table.
    if !context.daemon_runs() {
        let release = context.host.read("/proc/sys/kernel/osrelease").unwrap_or_default();
        findings.extend(judge_version(release.trim()));
    }
}

/// Lets the kernel check all features that the configuration needs, and each alone if that fails.
pub(super) fn check(context: &Context<'_>, findings: &mut Vec<Finding>) {
    if context.daemon_runs() {
        return;
    }
    let check = |features: &[&Feature]| context.host.nft_check(&script(features));
    let not_checked = |error| Finding::not_checked("the kernel's features", &error, "nft --check -f FILE");
    let needed: Vec<&Feature> = FEATURES.iter().filter(|(.., needed, _)| needed(context.scope)).collect();
    let Err(all) = check(&needed) else { return };
    let mut missing = Vec::new();
    for feature @ (name, options, _, rules) in needed {
        match check(&[feature]) {
            Ok(()) => {}
            Err(NftError::Failed(message)) if !is_lack_of_rights(&message) => {
                let problem = format!("the kernel does not support {name}: {message}");
                let remedy = format!("use a kernel with {options}, and its modules");
                missing.push(Finding::error("kernel-feature-missing", problem, remedy));
            }
            Err(error) => return findings.push(not_checked(error)),
        }
        // Without tables, no other feature works.
        if !missing.is_empty() && rules.is_empty() {
            break;
        }
    }
    if missing.is_empty() {
        missing.push(not_checked(all));
    }
    findings.extend(missing);
}

/// A table for each feature.
fn script(features: &[&Feature]) -> String {
    let rules = features.iter().map(|(.., rules)| rules.replace("NAT", NAT)).enumerate();
    rules.map(|(n, rules)| format!("table inet proxygw-doctor-{n} {{\n{rules}\n}}\n")).collect()
}

fn is_lack_of_rights(message: &str) -> bool {
    message.contains("Operation not permitted") || message.contains("you must be root")
}

fn judge_version(release: &str) -> Option<Finding> {
    let version = version(release)?;
    let missing = SINCE.iter().filter(|(since, _)| version < *since);
    let missing: Vec<String> =
        missing.map(|((major, minor), name)| format!("{name} (Linux {major}.{minor})")).collect();
    let (major, minor) = OLDEST;
    let remedy = format!("use Linux {major}.{minor} or newer");
    if !missing.is_empty() {
        let problem = format!("Linux {release} is too old: it has no {}", missing.join(", no "));
        return Some(Finding::error("kernel-too-old", problem, remedy));
    }
    (version < OLDEST).then(|| {
        let problem = format!("Linux {release} is older than {major}.{minor}, the oldest that proxygw was tested with");
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
    use crate::doctor::testing::{Case, LOCAL4, REMOTE4, answered, codes, held, only};

    const MISSING: &str = "Could not process rule: No such file or directory";

    /// Checks on a kernel that refuses commands that contain one of these strings.
    fn without(refused: &'static [&'static str], message: &'static str) -> Vec<Finding> {
        let mut case = Case::new([held("0.0.0.0:80", REMOTE4)]);
        case.host.nft_check = Box::new(move |commands| match refused.iter().any(|part| commands.contains(part)) {
            true => Err(NftError::Failed(message.to_owned())),
            false => Ok(()),
        });
        case.run(check)
    }

    #[test]
    fn missing_feature_is_named_with_its_options() {
        assert_eq!(without(&[], MISSING), []);
        let found = without(&["ct timeout", "masquerade"], MISSING);
        let problems: Vec<_> = found.iter().map(|finding| (finding.code, finding.problem.as_str())).collect();
        const CODE: &str = "kernel-feature-missing";
        assert_eq!(
            problems,
            [
                (CODE, format!("the kernel does not support conntrack timeout policies: {MISSING}").as_str()),
                (CODE, format!("the kernel does not support masquerade: {MISSING}").as_str()),
            ]
        );
        let remedy = "use a kernel with CONFIG_NF_CONNTRACK_TIMEOUT and CONFIG_NFT_CT, and its modules";
        assert_eq!((found[0].remedy.as_str(), found[0].severity), (remedy, Severity::Error));
        // One finding, if all others follow from it.
        let found = only(without(&["table"], "Protocol not supported"), CODE);
        assert!(found.problem.contains("tables of the family inet"), "{found:?}");
    }

    #[test]
    fn failed_check_is_not_a_missing_feature() {
        for message in ["Operation not permitted (you must be root)", "Operation not permitted", "you must be root"] {
            only(without(&["masquerade"], message), "not-looked-at");
        }
        // All together fail, and each alone does not.
        only(without(&["doctor-1"], "Message too long"), "not-looked-at");
        let mut case = Case::new([held("0.0.0.0:80", REMOTE4)]);
        case.host.nft_check = Box::new(|_| Err(NftError::Run("nft".into(), std::io::ErrorKind::TimedOut.into())));
        only(case.run(check), "not-looked-at");
    }

    #[test]
    fn only_features_that_the_configuration_needs_are_checked() {
        let case = |path, refused: &'static str| {
            let mut case = Case::new([path]);
            case.host.nft_check = Box::new(move |commands| match commands.contains(refused) {
                true => Err(NftError::Failed(MISSING.to_owned())),
                false => Ok(()),
            });
            case
        };
        const FOUND: [&str; 1] = ["kernel-feature-missing"];
        assert_eq!(case(answered("0.0.0.0:80", LOCAL4), "log group").codes(check), [""; 0]);
        assert_eq!(case(held("0.0.0.0:80", LOCAL4), "log group").codes(check), FOUND);
        assert_eq!(case(held("0.0.0.0:80", LOCAL4), "masquerade").codes(check), [""; 0]);
        assert_eq!(case(held("0.0.0.0:80", REMOTE4), "flags interval").codes(check), FOUND);
        let mut case = case(held("0.0.0.0:80", REMOTE4), "table");
        assert_eq!(case.codes(check), FOUND);
        case.host.daemon_runs = true;
        assert_eq!(case.codes(check), [""; 0], "it has loaded its table");
    }

    #[test]
    fn old_kernel_is_named_with_what_it_lacks() {
        let judged = |release: &str| judge_version(release).map(|finding| (finding.severity, finding.problem));
        for new in ["5.10.0-28-amd64", "5.10", "6.1.0", "6.18.44-fc", "10.0.0", "odd", ""] {
            assert_eq!(judged(new), None, "{new}");
        }
        let problem = "Linux 5.8.18 is too old: it has no reject in prerouting (Linux 5.9)";
        assert_eq!(judged("5.8.18"), Some((Severity::Error, problem.to_owned())));
        let (_, problem) = judged("5.4.0-150-generic").expect("a finding");
        assert!(problem.contains("no ranges in sets") && problem.contains("no filters for dumps"), "{problem}");
        let (severity, problem) = judged("5.9.16").expect("a finding");
        assert!(severity == Severity::Warning && problem.contains("older than 5.10"), "{problem}");
    }

    #[test]
    fn version_is_checked_unless_a_daemon_runs() {
        let mut case = Case::new([]);
        assert_eq!(case.codes(check_version), [""; 0]);
        case.host.write("/proc/sys/kernel/osrelease", "5.4.0\n");
        let found = only(case.run(check_version), "kernel-too-old");
        assert!(found.problem.starts_with("Linux 5.4.0 is too old"), "{found:?}");
        assert_eq!(found.remedy, "use Linux 5.10 or newer");
        case.host.daemon_runs = true;
        assert_eq!(codes(&case.run(check_version)), [""; 0]);
    }

    #[test]
    fn each_feature_has_a_table_of_its_own() {
        let script = script(&FEATURES.iter().collect::<Vec<_>>());
        assert_eq!(script.matches("table inet proxygw-doctor-").count(), FEATURES.len());
        assert!(!script.contains("NAT\n") && !script.contains("NAT }"), "{script}");
        assert_eq!(script.matches('{').count(), script.matches('}').count(), "{script}");
    }
}
