//! The nft program and its version.

use super::{Caller, Context, Finding};
use crate::dataplane::apply::{NftError, version_in};

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
    let version = version_in(output)?;
    let [major, minor, patch] = OLDEST;
    (version < OLDEST).then(|| {
        let problem = format!("{} is too old for proxygw's rules", output.trim());
        Finding::error("nft-too-old", problem, format!("install nftables {major}.{minor}.{patch} or newer"))
    })
}
