//! `proxygw doctor`: what on this host keeps the configuration from working, and how to fix it.
//!
//! Each check is a small file. It queries the host through [`host::Host`], judges the results, and changes nothing. [`examine`]
//! runs on the main thread of `proxygw doctor`, and once on a short-lived thread of the daemon, after its start.

mod capabilities;
mod conntrack;
mod features;
pub(crate) mod firewall;
mod flowtable;
mod host;
mod nft;
mod ports;
mod reverse_path;
mod routes;
mod saved_rules;
mod scope;
mod sysctls;
mod table;
#[cfg(test)]
mod testing;
mod unanswered;

use std::collections::BTreeSet;
use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::Value;

use self::host::{Host, ThisHost};
pub use self::scope::{Path, Scope};
use crate::Error;
use crate::ids::Family;
use crate::netlink::link::Link;

/// Number of `CAP_NET_ADMIN` in linux/capability.h.
const NET_ADMIN: u32 = 12;

/// Maximum number of names in a finding; the others are counted.
const MAX_NAMED: usize = 8;

/// Maximum number of paths in a check that queries the kernel for each.
const MAX_PATHS: usize = 256;

/// Time from the daemon's start to its checks: the first clients come first.
const DELAY: Duration = Duration::from_secs(1);

/// Addresses of documentation (RFC 5737, RFC 9637), to which only a default route leads.
const UNASSIGNED: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V6(Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 1))];

/// Effect of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Something that is configured does not work.
    Error,
    /// Something may not work, or not for all clients, or not for long.
    Warning,
}

/// One problem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The kind of problem. A code never changes.
    pub code: &'static str,
    /// Its effect.
    pub severity: Severity,
    /// The parts of the configuration that it affects; `None` for all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub about: Option<String>,
    /// The problem, in one sentence.
    pub problem: String,
    /// The command or the setting that fixes it.
    pub remedy: String,
    /// A remark on the remedy: an alternative, or how to make it permanent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl Finding {
    fn new(severity: Severity, code: &'static str, problem: impl Into<String>, remedy: impl Into<String>) -> Finding {
        let (problem, remedy) = (problem.into(), remedy.into());
        Finding { code, severity, about: None, problem, remedy, note: None }
    }

    fn error(code: &'static str, problem: impl Into<String>, remedy: impl Into<String>) -> Finding {
        Finding::new(Severity::Error, code, problem, remedy)
    }

    fn warning(code: &'static str, problem: impl Into<String>, remedy: impl Into<String>) -> Finding {
        Finding::new(Severity::Warning, code, problem, remedy)
    }

    /// A warning that a check failed, with a command that makes the same query.
    fn not_checked(what: &str, error: &dyn Display, command: &str) -> Finding {
        let problem = format!("{what} could not be checked: {error}");
        Finding::warning("not-looked-at", problem, format!("check by hand: {command}"))
    }

    fn about(self, about: impl Into<String>) -> Finding {
        Finding { about: Some(about.into()), ..self }
    }

    fn note(self, note: impl Into<String>) -> Finding {
        Finding { note: Some(note.into()), ..self }
    }
}

/// Reader of the findings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// `proxygw doctor`.
    Operator,
    /// The running daemon. It has logged already what kept it from starting a part of itself.
    Daemon,
}

/// Input of every check.
struct Context<'a> {
    scope: &'a Scope,
    host: &'a dyn Host,
    caller: Caller,
    /// The effective capabilities, a bit each (capabilities(7)); all of them if they cannot be read.
    capabilities: u64,
    links: Vec<Link>,
    /// The host's addresses, each with the index of its interface.
    addresses: Vec<(IpAddr, u32)>,
}

impl<'a> Context<'a> {
    /// Queries what several checks need.
    fn new(scope: &'a Scope, host: &'a dyn Host, caller: Caller, findings: &mut Vec<Finding>) -> Context<'a> {
        let (links, addresses) = host.interfaces().unwrap_or_else(|error| {
            findings.push(Finding::not_checked("the interfaces", &error, "ip address"));
            Default::default()
        });
        let addresses = addresses.iter().map(|address| (address.own, address.interface)).collect();
        let status = host.read("/proc/thread-self/status").unwrap_or_default();
        let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        let capabilities = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(u64::MAX);
        Context { scope, host, caller, capabilities, links, addresses }
    }

    fn has_capability(&self, number: u32) -> bool {
        self.capabilities >> number & 1 == 1
    }

    /// Returns true if the kernel answers queries about rules and flows.
    fn can_query(&self) -> bool {
        self.has_capability(NET_ADMIN)
    }

    /// Reads a listing of nft in JSON.
    fn nft_json(&self, arguments: &[&str]) -> Result<Value, Error> {
        parsed(&self.host.nft(arguments)?)
    }

    /// Returns true if a daemon runs in this network namespace. It has its sockets and its rules.
    fn daemon_runs(&self) -> bool {
        self.caller == Caller::Daemon || self.host.daemon_runs()
    }

    /// Reads a setting that is a number, by its name for sysctl(8): a slash stands for a dot within a part.
    fn setting(&self, name: &str) -> Option<i64> {
        let swapped = name.chars().map(|c| match c {
            '.' => '/',
            '/' => '.',
            other => other,
        });
        let path: String = swapped.collect();
        self.host.read(&format!("/proc/sys/{path}")).ok()?.trim().parse().ok()
    }

    /// Returns true if an interface's own IP setting is on.
    fn any_link_has(&self, family: Family, setting: &str) -> bool {
        let is_on = |link| self.setting(&link_setting(family, link, setting)).is_some_and(|value| value != 0);
        self.links.iter().any(is_on)
    }

    fn link_name(&self, index: u32) -> Option<&str> {
        self.links.iter().find(|link| link.index == index).map(|link| link.name.as_str())
    }
}

fn parsed(json: &str) -> Result<Value, Error> {
    serde_json::from_str(json).map_err(|error| format!("invalid JSON of nft: {error}").into())
}

/// The objects in a listing of nft.
fn objects(listing: &Value) -> &[Value] {
    listing["nftables"].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Name of an interface's IP setting for sysctl(8).
fn link_setting(family: Family, link: &Link, setting: &str) -> String {
    format!("net.ipv{}.conf.{}.{setting}", family.version(), link.name.replace('.', "/"))
}

/// Runs all checks. Errors come first.
pub fn examine(scope: Scope, caller: Caller) -> Vec<Finding> {
    examine_host(scope, caller, &ThisHost::new())
}

fn examine_host(mut scope: Scope, caller: Caller, host: &dyn Host) -> Vec<Finding> {
    scope.locate(host);
    let mut findings = Vec::new();
    let context = Context::new(&scope, host, caller, &mut findings);
    let found = &mut findings;
    capabilities::check(&context, found);
    // Without the capability, each of these would fail for the same reason.
    if context.can_query() {
        if nft::check(&context, found) {
            features::check(&context, found);
            firewall::check(&context, found);
            flowtable::check(&context, found);
        }
        table::check(&context, found);
        conntrack::check_netlink(&context, found);
        unanswered::check(&context, found);
        ports::check_group(&context, found);
    }
    features::check_version(&context, found);
    ports::check(&context, found);
    sysctls::check(&context, found);
    reverse_path::check(&context, found);
    routes::check(&context, found);
    saved_rules::check(&context, found);
    conntrack::check_settings(&context, found);
    findings.sort_by_key(|finding| finding.severity != Severity::Error);
    findings
}

/// The first few names, and the number of the others.
fn listed(names: &[String]) -> String {
    let shown = names[..names.len().min(MAX_NAMED)].join(", ");
    match names.len().saturating_sub(MAX_NAMED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// The endpoints of some paths, each once; `None` without any path.
fn endpoints<'p>(paths: impl Iterator<Item = &'p Path>) -> Option<String> {
    let labels: BTreeSet<String> = paths.map(Path::endpoint_label).collect();
    (!labels.is_empty()).then(|| listed(&Vec::from_iter(labels)))
}

/// Findings as text: a paragraph each.
pub fn text(findings: &[Finding]) -> String {
    if findings.is_empty() {
        return "nothing found\n".to_owned();
    }
    let paragraphs = findings.iter().map(|finding| {
        let severity = if finding.severity == Severity::Error { "error" } else { "warning" };
        let about = finding.about.as_ref().map(|about| format!(": {about}")).unwrap_or_default();
        let note = finding.note.as_ref().map(|note| format!("      {note}\n")).unwrap_or_default();
        format!("{severity} {}{about}\n{}\nfix: {}\n{note}", finding.code, finding.problem, finding.remedy)
    });
    paragraphs.collect::<Vec<_>>().join("\n")
}

/// Findings as JSON: an object with a list.
pub fn json(findings: &[Finding]) -> String {
    format!("{:#}\n", serde_json::json!({ "findings": findings }))
}

/// Returns true if something that is configured does not work.
pub fn is_broken(findings: &[Finding]) -> bool {
    findings.iter().any(|finding| finding.severity == Severity::Error)
}

/// Runs all checks on a thread of their own, and logs each finding as a warning.
pub fn log_from_a_thread(scope: Scope) {
    let examine = move || {
        std::thread::sleep(DELAY);
        let began = Instant::now();
        let findings = examine(scope, Caller::Daemon);
        log::debug!("doctor: {} findings after {:.1?}", findings.len(), began.elapsed());
        findings.iter().for_each(|finding| log::warn!("{}", log_line(finding)));
    };
    if let Err(error) = std::thread::Builder::new().name("doctor".to_owned()).spawn(examine) {
        log::warn!("cannot check the host: {error}");
    }
}

fn log_line(finding: &Finding) -> String {
    let Finding { code, problem, remedy, .. } = finding;
    let about = finding.about.as_ref().map(|about| format!("{about}: ")).unwrap_or_default();
    let note = finding.note.as_ref().map(|note| format!(" ({note})")).unwrap_or_default();
    format!("{about}{problem}; fix: {remedy}{note} [{code}]")
}

#[cfg(test)]
mod tests;
