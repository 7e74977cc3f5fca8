//! Is there an nft, and is it new enough?

use super::{Asker, Finding, Host};
use crate::dataplane::apply::{Nft, NftError, version_in};

/// The oldest nft that takes all of our rules.
const OLDEST: [u32; 3] = [1, 0, 6];

/// Looks at the program; says whether it can be asked.
pub(super) fn examine(host: &Host, findings: &mut Vec<Finding>) -> bool {
    let nft = Nft::find();
    // The daemon has loaded its table by then.
    if host.asker == Asker::Daemon {
        return true;
    }
    let install = "install the package nftables";
    if !nft.exists() {
        let problem = "there is no program nft on the path, nor in /usr/sbin, /sbin and /usr/local/sbin";
        findings.push(Finding::error("nft-missing", problem, install));
        return false;
    }
    match nft.ask(&["--version"]) {
        Ok(said) => {
            findings.extend(judge(&said));
            let speaks = speaks_json(&nft.ask(&["-j", "list", "tables"]));
            if !speaks {
                let problem = "this nft was built without JSON, in which proxygw speaks to it";
                let remedy = "install an nft with JSON (OpenWrt's package nftables-json)";
                findings.push(Finding::error("nft-without-json", problem, remedy));
            }
            speaks
        }
        Err(error) => {
            findings.push(Finding::error("nft-missing", error.to_string(), install));
            false
        }
    }
}

/// Whatever else fails, such as a lack of rights, is not this.
fn speaks_json(answer: &Result<String, NftError>) -> bool {
    !matches!(answer, Err(NftError::Failed(words)) if words.contains("JSON support not compiled"))
}

fn judge(said: &str) -> Option<Finding> {
    let version = version_in(said)?;
    let [major, minor, patch] = OLDEST;
    (version < OLDEST).then(|| {
        let problem = format!("{} is too old for proxygw's rules", said.trim());
        Finding::error("nft-too-old", problem, format!("install nftables {major}.{minor}.{patch} or newer"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_number() {
        for (said, old) in [
            ("nftables v1.0.6 (Lester Gooch #5)", false),
            ("nftables v1.0.10 (x)", false),
            ("nftables v1.1", false),
            ("nftables v1.0.5 (x)", true),
            ("nftables v0.9.8 (E.D.S.)", true),
            ("something else", false),
        ] {
            assert_eq!(judge(said).is_some(), old, "{said}");
        }
    }
}
