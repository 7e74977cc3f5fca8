//! `proxygw doctor`: everything on the host that keeps this configuration from working, and how to fix it.
//!
//! Each theme has a small file that gathers its facts (from `/proc`, by netlink, from nft) and judges them; to judge is a pure
//! function where it is not trivial. Nothing is changed. [`examine`] runs on the main thread of `proxygw doctor`, and once on a
//! short-lived thread of the daemon's own, after its start.
//!
//! | module | looks at |
//! |---|---|
//! | `rights` | capabilities |
//! | `nft` | the program |
//! | `features` | what the kernel lacks |
//! | `flowtable` | flowtables, which flows pass unseen |
//! | `sysctls` | forwarding, `route_localnet` |
//! | `reverse_path` | strict `rp_filter` |
//! | `routes` | the ways to the endpoints |
//! | `saved_rules` | saved rule sets that name the daemon's guard table |
//! | `table` | our own table |
//! | `ports` | ports of frontends, the NFLOG group |
//! | `answers` | flows that nobody answers |
//! | `conntrack` | its table and its netlink |
//! | `firewall` | other rule sets that drop our flows |

mod answers;
mod conntrack;
mod features;
pub(crate) mod firewall;
mod flowtable;
mod nft;
mod ports;
mod reverse_path;
mod rights;
mod routes;
mod saved_rules;
mod subject;
mod sysctls;
mod table;

use std::fmt::Display;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use serde::Serialize;

pub use subject::{Path, Subject};

use crate::netlink::addresses::{self, InterfaceAddress};
use crate::netlink::instance_lock;
use crate::netlink::link::{self, Link};

/// How many things one finding names before it only counts them.
const MOST_NAMED: usize = 8;

/// How many paths are followed where each costs questions to the kernel.
const MOST_PATHS: usize = 256;

/// When the daemon looks, after its start: the first clients have the processor to themselves.
const LATER: Duration = Duration::from_secs(1);

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Something that is configured does not work.
    Error,
    /// It may not work, or not for everybody, or not for long.
    Warning,
}

/// One thing that is in the way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What sort of finding it is; such a word never changes.
    pub code: &'static str,
    /// How much it matters.
    pub severity: Severity,
    /// What of the configuration it concerns, if not all of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub about: Option<String>,
    /// What is wrong, in one sentence.
    pub problem: String,
    /// The command or the setting that fixes it.
    pub remedy: String,
    /// What else is to be known of the remedy: another one, or how it is kept.
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

    fn about(self, about: impl Into<String>) -> Finding {
        Finding { about: Some(about.into()), ..self }
    }

    fn note(self, note: impl Into<String>) -> Finding {
        Finding { note: Some(note.into()), ..self }
    }
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asker {
    /// `proxygw doctor`.
    Operator,
    /// The running daemon. It has its sockets and rights, or has said so itself: it is told of the rest.
    Daemon,
}

/// What every theme needs to know.
struct Host {
    asker: Asker,
    /// A daemon runs in this network namespace: what is taken may be taken by it.
    daemon_runs: bool,
    /// The kernel tells this process of rules and flows.
    may_ask: bool,
    links: Vec<Link>,
    /// The host's addresses, each with the index of its interface.
    addresses: Vec<(IpAddr, u32)>,
}

impl Host {
    /// Whether a setting of IP is another than 0 for some interface of its own.
    fn some_link_has(&self, version: &str, setting: &str) -> bool {
        let path = |link: &Link| format!("/proc/sys/net/{version}/conf/{}/{setting}", link.name);
        let is_on = |path| std::fs::read_to_string(path).is_ok_and(|text| text.trim() != "0");
        self.links.iter().any(|link| is_on(path(link)))
    }

    fn name_of(&self, index: u32) -> Option<&str> {
        self.links.iter().find(|link| link.index == index).map(|link| link.name.as_str())
    }
}

/// Everything that is found, errors first.
pub fn examine(mut subject: Subject, asker: Asker) -> Vec<Finding> {
    subject.locate();
    let subject = &subject;
    let mut findings = Vec::new();
    let own = |found: Vec<InterfaceAddress>| found.iter().map(|found| (found.own, found.interface)).collect();
    let interfaces = link::all().and_then(|links| Ok((links, own(addresses::dump()?))));
    let (links, addresses) = interfaces.unwrap_or_else(|error| {
        findings.push(not_looked_at("the interfaces", &error, "ip address"));
        Default::default()
    });
    let daemon_runs = asker == Asker::Daemon || instance_lock::is_claimed();
    let host = Host { asker, daemon_runs, may_ask: rights::may_ask(), links, addresses };
    rights::examine(subject, &host, &mut findings);
    // Without the right to ask, these would each fail for the same reason.
    if host.may_ask {
        if nft::examine(&host, &mut findings) {
            features::examine(subject, &host, &mut findings);
            firewall::examine(subject, &host, &mut findings);
            flowtable::examine(subject, &host, &mut findings);
        }
        table::examine(subject, &host, &mut findings);
        conntrack::examine_netlink(&mut findings);
        answers::examine(subject, &host, &mut findings);
        ports::examine_group(subject, &host, &mut findings);
    }
    features::examine_version(&host, &mut findings);
    ports::examine(subject, &host, &mut findings);
    sysctls::examine(subject, &host, &mut findings);
    reverse_path::examine(subject, &host, &mut findings);
    routes::examine(subject, &host, &mut findings);
    saved_rules::examine(&mut findings);
    conntrack::examine_settings(&host, &mut findings);
    findings.sort_by_key(|finding| finding.severity != Severity::Error);
    findings
}

/// A finding that says that something could not be looked at, and how to look oneself.
fn not_looked_at(what: &str, why: &dyn Display, instead: &str) -> Finding {
    Finding::warning("not-looked-at", format!("{what} could not be looked at: {why}"), instead)
}

/// Some names, as text: the first few, and how many more there are.
fn listed(names: &[String]) -> String {
    let shown = names[..names.len().min(MOST_NAMED)].join(", ");
    match names.len().saturating_sub(MOST_NAMED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// The findings for people: a paragraph each.
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

/// The findings for programs: an object with the list.
pub fn json(findings: &[Finding]) -> String {
    format!("{:#}\n", serde_json::json!({ "findings": findings }))
}

/// Whether something that is configured does not work.
pub fn is_broken(findings: &[Finding]) -> bool {
    findings.iter().any(|finding| finding.severity == Severity::Error)
}

/// Examines on a thread of its own, which ends by itself, and logs each finding as a warning. Nobody waits for it.
pub fn log_from_a_thread(subject: Subject) {
    let examine = move || {
        std::thread::sleep(LATER);
        let began = Instant::now();
        let findings = examine(subject, Asker::Daemon);
        log::debug!("the doctor has found {} things in {:.1?}", findings.len(), began.elapsed());
        for finding in findings {
            let about = finding.about.map(|about| format!("{about}: ")).unwrap_or_default();
            let note = finding.note.map(|note| format!(" ({note})")).unwrap_or_default();
            log::warn!("{about}{}; fix: {}{note} [{}]", finding.problem, finding.remedy, finding.code);
        }
    };
    if let Err(error) = std::thread::Builder::new().name("doctor".to_owned()).spawn(examine) {
        log::warn!("cannot look at the host: {error}");
    }
}
