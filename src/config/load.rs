//! Reads the document: its version, the log, the plugins, then targets, then frontends.

use std::collections::{HashMap, HashSet};

use super::frontend::{self, ReadFrontend, Targets};
use super::overlap::Listeners;
use super::problem::Problems;
use super::suggest::{listed, quoted};
use super::target::{self, ReadTarget};
use super::values::Level;
use super::yaml::Place;
use super::{Config, Kind, Log, LogOutput, Node, Route, Section, Setup};
use crate::plugin::Registry;

/// The most ports that are in ranges that lead to other ports, in all.
const MOST_SHIFTED: u32 = 1 << 16;

/// Reads a whole document. `None` if there are problems.
pub(super) fn document(node: &Node, problems: &Problems, registry: &mut Registry) -> Option<Setup> {
    let mut top = Section::new(node, Vec::new(), String::new(), problems);
    if !version(&mut top) {
        return None;
    }
    let log = log(top.child("log"));
    plugins(top.child("plugins"), registry);
    let targets = targets(&mut top, registry);
    let frontends = frontends(&mut top, &targets, registry);
    if problems.is_empty() {
        count_shifted(&mut top, &targets, &frontends);
    }
    top.finish();
    if !problems.is_empty() {
        return None;
    }

    let mut setup = Setup {
        config: Config { log, targets: Vec::new(), frontends: Vec::new() },
        targets: Vec::with_capacity(targets.len()),
        frontends: Vec::with_capacity(frontends.len()),
        warnings: Vec::new(),
        services: Vec::new(),
    };
    for target in targets {
        setup.config.targets.push(target.spec);
        setup.targets.extend(target.target);
    }
    for frontend in frontends {
        setup.config.frontends.push(frontend.spec);
        setup.frontends.extend(frontend.frontend);
    }
    for (name, namespace) in &mut registry.namespaces {
        setup.services.extend(namespace.services.drain(..).map(|service| (name.clone(), service)));
    }
    Some(setup)
}

/// Whether the rest of the document can be read: not if it is of another version.
pub(super) fn version(top: &mut Section<'_>) -> bool {
    match top.required::<Version>("version") {
        Some(Version(version)) if version != "v1" => {
            top.problem("version", format_args!("{} is not known: write v1", quoted(&version)));
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

fn plugins(mut section: Section<'_>, registry: &mut Registry) {
    let names: Vec<String> = registry.names().map(str::to_owned).collect();
    let known: Vec<&str> = names.iter().map(String::as_str).collect();
    section.only(&known, |key| {
        format!("there is no plugin {} in this program; there are {}", quoted(key), listed(known.iter().copied()))
    });
    registry.namespaces.clear();
    for (index, name) in names.iter().enumerate() {
        let mut own = section.named_child(name);
        registry.load(index, &mut own);
        own.finish();
    }
}

fn targets(top: &mut Section<'_>, registry: &Registry) -> Vec<ReadTarget> {
    let mut first = HashMap::new();
    let mut targets = Vec::new();
    for (index, mut section) in top.elements("targets").unwrap_or_default().into_iter().enumerate() {
        if let Some(name) = section.name() {
            unique("targets", &mut first, name, index, &mut section);
        }
        targets.push(target::read(section, registry));
    }
    targets
}

fn frontends(top: &mut Section<'_>, targets: &[ReadTarget], registry: &Registry) -> Vec<ReadFrontend> {
    let mut by_name = HashMap::new();
    for (index, target) in targets.iter().enumerate() {
        by_name.entry(target.spec.name.as_str()).or_insert(index);
    }
    let targets = Targets { list: targets, by_name };

    let mut first = HashMap::new();
    let mut listeners = Listeners::default();
    let mut frontends: Vec<ReadFrontend> = Vec::new();
    let mut places = Vec::new();
    for (index, mut section) in top.elements("frontends").unwrap_or_default().into_iter().enumerate() {
        if let Some(name) = section.name() {
            unique("frontends", &mut first, name, index, &mut section);
        }
        let frontend = frontend::read(&mut section, &targets, registry);
        for (at, listen) in frontend.spec.listen.iter().enumerate().filter(|_| frontend.listens) {
            let protocol = frontend.spec.protocol;
            let Some((other, theirs)) = listeners.add((index, at), protocol, *listen) else { continue };
            if other == index {
                let theirs = frontend.spec.listen[theirs];
                section.problem("listen", format_args!("{listen} overlaps with {theirs} before it: leave one out"));
                continue;
            }
            let (name, theirs) = (&frontends[other].spec.name, frontends[other].spec.listen[theirs]);
            let message = format!(
                "{listen}/{protocol} overlaps with frontends[{other}] {} on {theirs}: a packet could go to either",
                quoted(name)
            );
            let place: &Place = &places[other];
            section.problem_about("listen", message, Some(place.clone()));
        }
        places.push(section.place("listen"));
        section.finish();
        frontends.push(frontend);
    }
    frontends
}

/// Bounds what ranges cost that lead to other ports than their own: a map with an element for each port. Frontends with the
/// same ranges share one.
fn count_shifted(top: &mut Section<'_>, targets: &[ReadTarget], frontends: &[ReadFrontend]) {
    let mut shifts = HashSet::new();
    for ReadFrontend { spec, .. } in frontends {
        let endpoint = &targets[spec.target].spec.endpoints[spec.endpoint];
        shifts.extend(endpoint.routes(&spec.listen).filter_map(Route::shift));
    }
    let count: u32 = shifts.iter().map(|shift| shift.from.count()).sum();
    if count > MOST_SHIFTED {
        let message = format!(
            "the ranges that lead to other ports than their own have {count} ports: {MOST_SHIFTED} at most; give \
             endpoints the ports of their frontends"
        );
        top.problem("frontends", message);
    }
}

/// Reports a name that an element before has.
pub(super) fn unique<'a>(
    list: &str,
    first: &mut HashMap<&'a str, (usize, Place)>,
    name: &'a str,
    index: usize,
    section: &mut Section<'a>,
) {
    if let Some((other, place)) = first.get(name) {
        let message = format!("{} is the name of {list}[{other}] already: names are unique", quoted(name));
        section.problem_about("name", message, Some(place.clone()));
    } else {
        first.insert(name, (index, section.place("name")));
    }
}

/// The message for a kind that does not exist.
pub(super) fn no_kind(sort: &str, kind: &Kind, other: Option<&str>, there_are: &[String]) -> String {
    let what = quoted(&kind.to_string());
    let known = listed(there_are.iter().map(String::as_str));
    match other {
        Some(other) => format!("{what} is a {other} kind; the {sort} kinds are {known}"),
        None => format!("there is no {sort} kind {what}; there are {known}"),
    }
}
