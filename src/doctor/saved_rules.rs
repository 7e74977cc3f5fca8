//! Rule sets saved with our guard table in them.
//!
//! Only the daemon may change the table `ip proxygw-guard` while it runs. The kernel refuses a transaction that names it as a
//! whole, so a saved rule set that does is not loaded at all, with the operator's own rules in it.

use std::fs::File;
use std::io::Read as _;

use super::Finding;
use crate::netlink::guard_table::GUARD_TABLE;

/// Files in which distributions keep the rule set that is loaded at the start: Debian and Arch, Red Hat, Alpine.
const FILES: [&str; 3] = ["/etc/nftables.conf", "/etc/sysconfig/nftables.conf", "/etc/nftables.nft"];

/// Maximum number of bytes that are read of a file.
const MAX_FILE: u64 = 8 << 20;

/// Checks the files that are there.
pub(super) fn examine(findings: &mut Vec<Finding>) {
    for path in FILES {
        let Ok(file) = File::open(path) else { continue };
        let mut text = Vec::new();
        // What cannot be read is for nft to report.
        if file.take(MAX_FILE).read_to_end(&mut text).is_ok() && names_guard(&String::from_utf8_lossy(&text)) {
            let problem = format!(
                "{path} names the table ip {GUARD_TABLE}, which belongs to the daemon: nft refuses the whole file while the \
                 daemon runs"
            );
            let remedy = format!("remove the tables ip {GUARD_TABLE} and inet proxygw from {path}");
            let note = "to save the other tables: (echo flush ruleset; nft list tables | grep -v ' proxygw' | sed 's/^/list /' \
                        | nft -f -) > FILE";
            findings.push(Finding::warning("saved-guard-table", problem, remedy).note(note));
        }
    }
}

/// Whether a command or a block of the rule set is about the table.
fn names_guard(rules: &str) -> bool {
    rules.lines().any(|line| {
        let code = line.split('#').next().unwrap_or_default();
        let mut words = code.split([' ', '\t', '{', ';']).filter(|word| !word.is_empty());
        words.by_ref().any(|word| word == "table") && words.take(2).any(|word| word == GUARD_TABLE)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_saved_guard_is_found_and_other_tables_are_not() {
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
}
