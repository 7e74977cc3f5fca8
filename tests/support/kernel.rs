//! What the kernel says: rules and flows.

use std::io::Write;
use std::process::Stdio;

use super::Namespace;

/// `nft list table inet proxygw` in the namespace, or `None` if there is no such table.
///
/// # Panics
/// If nft fails in another way.
#[track_caller]
pub fn nft_ruleset(namespace: &Namespace) -> Option<String> {
    let mut command = namespace.command(&namespace.nft);
    let output = command.args(["list", "table", "inet", "proxygw"]).output().expect("nsenter");
    if output.status.success() {
        return Some(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("No such file or directory"), "nft list: {} {stderr}", output.status);
    None
}

/// Loads rules in nft's own language into the namespace.
///
/// # Panics
/// If nft refuses them, with what it said.
#[track_caller]
pub fn nft(namespace: &Namespace, rules: &str) {
    let mut command = namespace.command(&namespace.nft);
    command.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("nsenter");
    // nft's own words say more than a broken pipe.
    let _ = child.stdin.take().expect("piped").write_all(rules.as_bytes());
    let output = child.wait_with_output().expect("a child of ours");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "nft -f -: {} {stderr}\n{rules}", output.status);
}

/// The entries of the namespace's conntrack table, one line each, IPv4 first.
#[track_caller]
pub fn conntrack_entries(namespace: &Namespace) -> Vec<String> {
    let text =
        namespace.sh("conntrack -L -f ipv4 -o extended 2>/dev/null; conntrack -L -f ipv6 -o extended 2>/dev/null");
    text.lines().map(str::to_owned).collect()
}
