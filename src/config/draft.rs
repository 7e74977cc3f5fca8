//! Reads the document: its version, the log, then targets, then frontends.

use std::collections::HashSet;

use super::element::{Element, Names};
use super::frontend::{self, ReadFrontend, Targets};
use super::overlap::Listeners;
use super::suggest::quoted;
use super::target::{self, ReadTarget};
use super::values::Level;
use super::yaml::Place;
use super::{FrontendSpec, Log, LogOutput, Node, Route, Section, TargetSpec};

/// Maximum number of ports in ranges that lead to other ports, in total.
const MAX_SHIFTED: u32 = 1 << 16;

/// A configuration whose plugins have not read their sections yet.
pub(crate) struct Draft<'a> {
    pub(crate) log: Log,
    /// `plugins`, unread.
    pub(crate) plugins: Section<'a>,
    pub(crate) targets: Vec<Element<'a, TargetSpec>>,
    pub(crate) frontends: Vec<Element<'a, FrontendSpec>>,
}

/// Reads a whole document. `None` if it is of another version.
pub(super) fn read(mut top: Section<'_>) -> Option<Draft<'_>> {
    if !version(&mut top) {
        return None;
    }
    let log = log(top.child("log"));
    let plugins = top.child("plugins");
    let targets = targets(&mut top);
    let frontends = frontends(&mut top, &targets);
    if top.problem_count() == 0 {
        count_shifted(&mut top, &frontends);
    }
    top.finish();
    let targets = targets.into_iter().map(|target| target.element).collect();
    Some(Draft { log, plugins, targets, frontends })
}

/// Checks the version, and returns whether the rest of the document can be read.
pub(super) fn version(top: &mut Section<'_>) -> bool {
    match top.required::<Version>("version") {
        Some(Version(version)) if version != "v1" => {
            top.problem("version", format_args!("unknown version {}: write v1", quoted(&version)));
            false
        }
        _ => !top.broken(),
    }
}

/// The `version` of a document.
struct Version(String);

impl super::FromNode for Version {
    const EXPECTED: &'static str = "v1";

    fn from_node(node: &Node) -> Result<Version, String> {
        match node {
            Node::Str(text) => Ok(Version(text.clone())),
            _ => Err(format!("v1 is expected, found {}", node.describe())),
        }
    }
}

fn log(mut section: Section<'_>) -> Log {
    let output = section.optional("output").unwrap_or(LogOutput::Stderr);
    let level = section.optional("level").map_or(log::LevelFilter::Info, |Level(level)| level);
    section.finish();
    Log { output, level }
}

fn targets<'a>(top: &mut Section<'a>) -> Vec<ReadTarget<'a>> {
    let mut names = Names::of("targets");
    let mut targets = Vec::new();
    for (index, mut section) in top.elements("targets").unwrap_or_default().into_iter().enumerate() {
        names.add(index, &mut section);
        targets.push(target::read(section));
    }
    targets
}

fn frontends<'a>(top: &mut Section<'a>, targets: &[ReadTarget<'_>]) -> Vec<Element<'a, FrontendSpec>> {
    let targets = Targets::new(targets);
    let mut names = Names::of("frontends");
    let mut listeners = Listeners::default();
    let mut frontends: Vec<Element<FrontendSpec>> = Vec::new();
    let mut places: Vec<Place> = Vec::new();
    for (index, mut section) in top.elements("frontends").unwrap_or_default().into_iter().enumerate() {
        names.add(index, &mut section);
        let ReadFrontend { mut element, listens } = frontend::read(section, &targets);
        let Element { spec, section, .. } = &mut element;
        for (at, listen) in spec.listen.iter().enumerate().filter(|_| listens) {
            let Some((other, theirs)) = listeners.add((index, at), spec.protocol, *listen) else { continue };
            if other == index {
                let theirs = spec.listen[theirs];
                section.problem("listen", format_args!("{listen} overlaps with {theirs} before it: remove one"));
                continue;
            }
            let (name, theirs) = (&frontends[other].spec.name, frontends[other].spec.listen[theirs]);
            let message = format!(
                "{listen}/{} overlaps with frontends[{other}] {} on {theirs}: a packet could go to either",
                spec.protocol,
                quoted(name)
            );
            section.problem_about("listen", message, Some(places[other].clone()));
        }
        places.push(section.place("listen"));
        frontends.push(element);
    }
    frontends
}

/// Bounds the total size of the maps for ranges that lead to other ports. Frontends with the same ranges share a map.
fn count_shifted(top: &mut Section<'_>, frontends: &[Element<'_, FrontendSpec>]) {
    let mut shifts = HashSet::new();
    for Element { spec, .. } in frontends {
        shifts.extend(spec.endpoint.routes(&spec.listen).filter_map(Route::shift));
    }
    let count: u32 = shifts.iter().map(|shift| shift.from.count()).sum();
    if count > MAX_SHIFTED {
        let message = format!(
            "ranges that lead to other ports have {count} ports in total, at most {MAX_SHIFTED} are supported: give \
             endpoints the ports of their frontends"
        );
        top.problem("frontends", message);
    }
}
