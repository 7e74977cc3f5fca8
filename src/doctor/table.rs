//! The table in the kernel, compared with the one that the configuration makes.
//!
//! The daemon restores what other programs change, so a difference that stays means that it cannot, or that it was started with
//! another configuration. If only the latter explains it, as for an operator who checks a configuration before a restart, the
//! finding is a warning. Only what stays the same while the daemon runs is compared: the table's flags, its chains with their
//! hooks and numbers of rules, the names of its sets and maps, its timeout policies.

use std::time::Duration;

use super::{Context, Finding, listed};
use crate::dataplane::render::{self, TABLE};
use crate::netlink::nftables::{Chain, Listing};

/// Chains that every configuration has.
const ENTRANCES: [&str; 2] = ["prerouting", "output"];

/// Time that the daemon may take to restore the table.
const REPAIR: Duration = Duration::from_secs(1);

/// Finds differences.
pub(super) fn check(context: &Context<'_>, findings: &mut Vec<Finding>) {
    if !context.daemon_runs() {
        return;
    }
    let wanted = render::outline(&context.scope.plan);
    let compare = || context.host.table().map(|found| differences(&wanted, found.as_ref()));
    let found = match compare() {
        // The daemon may be restoring it.
        Ok(differences) if !differences.is_empty() => {
            context.host.sleep(REPAIR);
            compare().map(|still| differences.into_iter().filter(|difference| still.contains(difference)).collect())
        }
        found => found,
    };
    match found {
        Ok(differences) => findings.extend(judge(&differences)),
        Err(error) => {
            findings.push(Finding::not_checked("the rules", &error, &format!("nft list table inet {TABLE}")));
        }
    }
}

fn judge(differences: &[Difference]) -> Option<Finding> {
    const RESTART: &str = "systemctl restart proxygw";
    if differences.is_empty() {
        return None;
    }
    let texts: Vec<_> = differences.iter().map(|difference| difference.text.clone()).collect();
    let texts = listed(&texts);
    // Configurations differ in names: if those are the same, so is the rest.
    let is_changed = differences.iter().any(|difference| difference.proof == Proof::Certain)
        || differences.iter().all(|difference| difference.proof == Proof::SameNames);
    Some(if is_changed {
        let problem = format!("the table inet {TABLE} was changed, and the daemon did not restore it: {texts}");
        Finding::error("table-changed", problem, RESTART).note("the daemon's log names the program that changes it")
    } else {
        let problem = format!("the table inet {TABLE} does not match this configuration: {texts}");
        let note =
            "the daemon may run with another configuration; otherwise its log names the program that changes the table";
        Finding::warning("table-differs", problem, RESTART).note(note)
    })
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Difference {
    proof: Proof,
    text: String,
}

/// Proof of a difference that another program has changed the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Proof {
    /// No configuration makes such a table.
    Certain,
    /// Another configuration would have other names too.
    SameNames,
    /// Another configuration can make such a table.
    None,
}

/// Returns the differences from the wanted table. `found` is `None` if there is no table.
fn differences(wanted: &Listing, found: Option<&Listing>) -> Vec<Difference> {
    let Some(found) = found else {
        return vec![Difference { proof: Proof::Certain, text: "it is missing".to_owned() }];
    };
    let mut differences = Vec::new();
    let mut add = |proof, text: String| differences.push(Difference { proof, text });
    if found.dormant {
        add(Proof::Certain, "it is disabled (flags dormant)".to_owned());
    }
    for (name, chain) in &wanted.chains {
        let is_certain = ENTRANCES.contains(&name.as_str());
        match found.chains.get(name) {
            None => add(if is_certain { Proof::Certain } else { Proof::None }, format!("chain {name} is missing")),
            Some(found) => {
                let changed = found.base != chain.base || found.rules == 0;
                let proof = if is_certain && changed { Proof::Certain } else { Proof::SameNames };
                difference_of(name, chain, found).into_iter().for_each(|text| add(proof, text));
            }
        }
    }
    let mut names = |sort: &str, problem: &str, names: &mut dyn Iterator<Item = &String>| {
        names.for_each(|name| add(Proof::None, format!("{sort} {} is {problem}", name.escape_default())));
    };
    let (missing, extra) = ("missing", "unexpected");
    names("chain", extra, &mut found.chains.keys().filter(|name| !wanted.chains.contains_key(*name)));
    let lacks = |name: &&String| found.sets.get(*name) != wanted.sets.get(*name);
    names("set or map", missing, &mut wanted.sets.keys().filter(lacks));
    names("set or map", extra, &mut found.sets.keys().filter(|name| !wanted.sets.contains_key(*name)));
    names("object", missing, &mut wanted.objects.difference(&found.objects).map(|(name, _)| name));
    names("object", extra, &mut found.objects.difference(&wanted.objects).map(|(name, _)| name));
    names("flowtable", extra, &mut found.flowtables.iter());
    differences
}

fn difference_of(name: &str, wanted: &Chain, found: &Chain) -> Option<String> {
    if wanted.base != found.base {
        let hook =
            |chain: &Chain| chain.base.as_ref().map_or_else(|| "no hook".to_owned(), |base| format!("\"{base}\""));
        return Some(format!("chain {name} has {} instead of {}", hook(found), hook(wanted)));
    }
    let (is, should) = (found.rules, wanted.rules);
    (is != should).then(|| format!("chain {name} has {is} rules instead of {should}"))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use rustix::io::Errno;

    use super::*;
    use crate::doctor::Caller;
    use crate::doctor::testing::{Case, only};
    use crate::netlink::nftables::{Base, Policy, SetKind};

    fn wanted() -> Listing {
        let base = Base { kind: "nat".to_owned(), hook: 0, priority: -101, policy: Policy::Accept };
        Listing {
            chains: [
                ("prerouting".to_owned(), Chain { base: Some(base), rules: 8 }),
                ("frontend-0".to_owned(), Chain { base: None, rules: 2 }),
            ]
            .into(),
            sets: [("active_ip4".to_owned(), SetKind::Map)].into(),
            objects: [("tcp4-60s".to_owned(), 7)].into(),
            ..Listing::default()
        }
    }

    #[track_caller]
    fn assert_found(change: impl FnOnce(&mut Listing), text: &str, code: &str) {
        let mut found = wanted();
        change(&mut found);
        let found = differences(&wanted(), Some(&found));
        assert_eq!(found.iter().map(|difference| difference.text.as_str()).collect::<Vec<_>>(), [text]);
        assert_eq!(judge(&found).map(|finding| finding.code), Some(code), "{text}");
    }

    fn rules<'t>(table: &'t mut Listing, chain: &str) -> &'t mut usize {
        &mut table.chains.get_mut(chain).expect("a chain").rules
    }

    #[test]
    fn table_of_no_configuration_was_changed() {
        assert_found(|table| table.dormant = true, "it is disabled (flags dormant)", "table-changed");
        assert_found(|table| _ = table.chains.remove("prerouting"), "chain prerouting is missing", "table-changed");
        let drop = |table: &mut Listing| {
            let base = table.chains.get_mut("prerouting").and_then(|chain| chain.base.as_mut());
            base.expect("a base chain").policy = Policy::Drop;
        };
        const POLICY: &str = "chain prerouting has \"type nat hook prerouting priority -101; policy drop\" instead of \
            \"type nat hook prerouting priority -101; policy accept\"";
        assert_found(drop, POLICY, "table-changed");
        let none = differences(&wanted(), None);
        assert_eq!(judge(&none).map(|finding| finding.code), Some("table-changed"));
    }

    #[test]
    fn number_of_rules_was_changed_if_the_names_are_the_same() {
        let more = "chain prerouting has 9 rules instead of 8";
        assert_found(|table| *rules(table, "prerouting") += 1, more, "table-changed");
        let fewer = "chain frontend-0 has 0 rules instead of 2";
        assert_found(|table| *rules(table, "frontend-0") = 0, fewer, "table-changed");
    }

    #[test]
    fn other_names_may_be_of_another_configuration() {
        const CODE: &str = "table-differs";
        assert_found(|table| _ = table.chains.remove("frontend-0"), "chain frontend-0 is missing", CODE);
        let extra = |table: &mut Listing| _ = table.chains.insert("x\n".to_owned(), Chain::default());
        assert_found(extra, "chain x\\n is unexpected", CODE);
        assert_found(|table| table.sets.clear(), "set or map active_ip4 is missing", CODE);
        assert_found(|table| table.objects.clear(), "object tcp4-60s is missing", CODE);
        assert_found(|table| _ = table.objects.insert(("c".to_owned(), 1)), "object c is unexpected", CODE);
    }

    #[test]
    fn intact_table_is_no_finding() {
        assert_eq!(judge(&differences(&wanted(), Some(&wanted()))), None);
    }

    const WANTED: &str = "the wanted table";

    /// Checks tables while a daemon runs: the wanted one, one with an extra flowtable, a missing one, or an error.
    fn check_tables(tables: impl IntoIterator<Item = Result<&'static str, Errno>>) -> (Vec<Finding>, Duration) {
        let mut case = Case::new([]);
        case.host.daemon_runs = true;
        let intact = case.host.tables.borrow()[0].clone();
        let table = |table| match table {
            Ok(WANTED) => intact.clone(),
            Ok(extra) => intact.clone().map(|listing| {
                listing.map(|mut listing| {
                    listing.flowtables.insert(extra.to_owned());
                    listing
                })
            }),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno),
        };
        case.host.tables = RefCell::new(tables.into_iter().map(table).collect());
        (case.run(check), case.host.slept.get())
    }

    #[test]
    fn difference_is_found_if_the_daemon_does_not_restore_it() {
        assert_eq!(check_tables([Ok(WANTED)]), (vec![], Duration::ZERO));
        let (found, slept) = check_tables([Err(Errno::NOENT)]);
        let found = only(found, "table-changed");
        assert!(found.problem.ends_with("the daemon did not restore it: it is missing"), "{found:?}");
        assert_eq!(slept, REPAIR);
        assert_eq!(check_tables([Err(Errno::NOENT), Ok(WANTED)]).0, [], "restored");
        assert_eq!(check_tables([Ok("one"), Ok("two")]).0, [], "another change");
        let (found, _) = check_tables([Ok("one")]);
        assert!(only(found, "table-differs").problem.ends_with(": flowtable one is unexpected"));
    }

    #[test]
    fn kernel_error_is_not_a_difference() {
        for tables in [vec![Err(Errno::PERM)], vec![Ok("one"), Err(Errno::PERM)]] {
            let found = only(check_tables(tables).0, "not-looked-at");
            assert!(found.problem.starts_with("the rules could not be checked: Operation not permitted"), "{found:?}");
        }
    }

    #[test]
    fn table_is_not_checked_without_a_daemon() {
        let mut case = Case::new([]);
        case.host.tables = RefCell::new(vec![Ok(None)]);
        assert_eq!(case.codes(check), [""; 0]);
        case.caller = Caller::Daemon;
        assert_eq!(case.codes(check), ["table-changed"]);
    }
}
