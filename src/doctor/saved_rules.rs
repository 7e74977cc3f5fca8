//! Saved rule sets that contain the daemon's guard table.
//!
//! Only the daemon may change the table `ip proxygw-guard` while it runs. The kernel refuses a transaction that names it as a
//! whole, so nft loads nothing of such a file, also none of the operator's own rules.

use super::{Context, Finding};
use crate::netlink::guard_table::GUARD_TABLE;

/// Files from which distributions load rule sets at boot: Debian and Arch, Red Hat, Alpine.
const FILES: [&str; 3] = ["/etc/nftables.conf", "/etc/sysconfig/nftables.conf", "/etc/nftables.nft"];

/// Checks the files that exist and can be read.
pub(super) fn check(context: &Context<'_>, findings: &mut Vec<Finding>) {
    for path in FILES {
        if context.host.read(path).is_ok_and(|rules| names_guard(&rules)) {
            let problem = format!(
                "{path} contains the table ip {GUARD_TABLE}, which belongs to the daemon: nft refuses the whole file while the \
                 daemon runs"
            );
            let remedy = format!("remove the tables ip {GUARD_TABLE} and inet proxygw from {path}");
            let note = "to save the other tables: (echo flush ruleset; nft list tables | grep -v ' proxygw' | sed 's/^/list /' \
                        | nft -f -) > FILE";
            findings.push(Finding::warning("saved-guard-table", problem, remedy).note(note));
        }
    }
}

/// Returns true if a command or a block of the rule set is about the table.
fn names_guard(rules: &str) -> bool {
    rules.lines().any(|line| {
        let code = line.split('#').next().unwrap_or_default();
        let mut tokens = code.split([' ', '\t', '{', ';']).filter(|token| !token.is_empty());
        tokens.by_ref().any(|token| token == "table") && tokens.take(2).any(|token| token == GUARD_TABLE)
    })
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;
    use crate::doctor::testing::{Case, only};

    #[test]
    fn guard_table_is_found_among_other_tables() {
        for found in [
            "flush ruleset\ntable ip proxygw-guard { # progname proxygw\n\tflags owner\n}\n",
            "add table ip proxygw-guard\n",
            "table ip proxygw-guard{\n}",
            "delete table proxygw-guard;",
        ] {
            assert!(names_guard(found), "{found}");
        }
        for other in [
            "",
            "table inet proxygw {\n}\n",
            "# table ip proxygw-guard {\n",
            "table ip filter { comment \"not proxygw-guard\" }",
            "table ip proxygw-guardian {",
        ] {
            assert!(!names_guard(other), "{other}");
        }
    }

    #[test]
    fn each_saved_file_is_checked() {
        for path in FILES {
            let mut case = Case::new([]);
            case.host.write(path, "table ip filter {\n}\n");
            assert_eq!(case.run(check), []);
            case.host.write(path, "table ip proxygw-guard {\n}\n");
            let found = only(case.run(check), "saved-guard-table");
            assert!(found.problem.starts_with(&format!("{path} contains the table ip proxygw-guard")), "{found:?}");
            case.host.files.insert(path.to_owned(), Err(Errno::ACCESS));
            assert_eq!(case.run(check), []);
        }
    }
}
