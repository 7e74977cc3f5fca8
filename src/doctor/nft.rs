//! The nft program and its version.

use super::{Caller, Context, Finding};
use crate::dataplane::apply::{NftError, parse_version};

/// The oldest nft that takes all of the daemon's rules.
const OLDEST: [u32; 3] = [1, 0, 6];

/// Checks the program; returns true if it can be used for queries.
pub(super) fn check(context: &Context<'_>, findings: &mut Vec<Finding>) -> bool {
    // The daemon has loaded its table by then.
    if context.caller == Caller::Daemon {
        return true;
    }
    match context.host.nft(&["--version"]) {
        Ok(output) => findings.extend(judge(&output)),
        Err(error) => {
            findings.push(Finding::error("nft-missing", error.to_string(), "install the package nftables"));
            return false;
        }
    }
    // Other errors, such as missing capabilities, are not about JSON.
    let lacks_json =
        |error: NftError| matches!(error, NftError::Failed(message) if message.contains("JSON support not compiled"));
    let lacks_json = context.host.nft(&["-j", "list", "tables"]).is_err_and(lacks_json);
    if lacks_json {
        let problem = "this nft was built without JSON support, which proxygw needs";
        let remedy = "install an nft with JSON support (on OpenWrt: the package nftables-json)";
        findings.push(Finding::error("nft-without-json", problem, remedy));
    }
    !lacks_json
}

fn judge(output: &str) -> Option<Finding> {
    let version = parse_version(output)?;
    let [major, minor, patch] = OLDEST;
    (version < OLDEST).then(|| {
        let problem = format!("{} is too old for proxygw's rules", output.trim());
        Finding::error("nft-too-old", problem, format!("install nftables {major}.{minor}.{patch} or newer"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::testing::{Case, codes};

    /// Findings, and whether nft can be used.
    fn checked(case: &Case) -> (Vec<&'static str>, bool) {
        let mut usable = false;
        let found = case.run(|context, findings| usable = check(context, findings));
        (codes(&found), usable)
    }

    #[test]
    fn versions_are_compared_by_number() {
        for (output, old) in [
            ("nftables v1.0.6 (Lester Gooch #5)", false),
            ("nftables v1.0.10 (x)", false),
            ("nftables v1.1", false),
            ("nftables v1.0.5 (x)", true),
            ("nftables v0.9.8 (E.D.S.)", true),
            ("something else", false),
        ] {
            let mut case = Case::new([]);
            case.host.nft.insert("--version", Ok(output.to_owned()));
            let expected = if old { vec!["nft-too-old"] } else { vec![] };
            assert_eq!(checked(&case), (expected, true), "{output}");
        }
    }

    #[test]
    fn nft_without_json_cannot_be_used() {
        let mut case = Case::new([]);
        let mut tables = |error: &str| {
            case.host.nft.insert("-j list tables", Err(error.to_owned()));
            checked(&case)
        };
        assert_eq!(tables("JSON support not compiled-in."), (vec!["nft-without-json"], false));
        assert_eq!(tables("Operation not permitted (you must be root)"), (vec![], true));
    }

    #[test]
    fn missing_nft_is_found_unless_the_daemon_has_used_it() {
        let mut case = Case::new([]);
        case.host.nft.clear();
        assert_eq!(checked(&case), (vec!["nft-missing"], false));
        case.caller = Caller::Daemon;
        assert_eq!(checked(&case), (vec![], true));
    }
}
