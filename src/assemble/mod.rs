//! Configuration and plugins, put together: what the daemon and the doctor work with.
//!
//! `config` reads what is the same for every plugin; here the plugins read their own sections and make targets, frontends
//! and services of them. Their problems join those of `config` in one list. All of it runs on the main thread, before any
//! other exists, and touches nothing but the file.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;

use std::collections::HashMap;
use std::fmt;
use std::path::Path;

use crate::config::{self, Draft, Element, Kind, LoadError, Log, Section, listed, quoted};
use crate::dataplane::plan::{Plan, Rules};
use crate::engine::{NewFrontend, NewTarget};
use crate::ids::{FrontendId, TargetId};
use crate::plugin::{Frontend, Handler, Make, Registry};

/// A valid configuration and everything that the plugins have made of it.
pub struct Setup {
    /// The `log` section.
    pub log: Log,
    /// The targets, in file order.
    pub targets: Vec<NewTarget>,
    /// The frontends, in file order.
    pub frontends: Vec<NewFrontend>,
    /// The handlers of those frontends that have one.
    pub handlers: Vec<(FrontendId, Box<dyn Handler>)>,
    /// The handlers that run for as long as the daemon does, each with its plugin's namespace.
    pub services: Vec<(String, Box<dyn Handler>)>,
    /// Parts of the file that may not work as intended; a line each, with its place in the file.
    pub warnings: Vec<String>,
}

impl Setup {
    /// The rules of all frontends.
    pub fn plan(&self) -> Plan {
        let rules = |new: &NewFrontend| (new.id, Rules::new(&new.spec, new.target, new.cold));
        Plan { frontends: self.frontends.iter().map(rules).collect() }
    }
}

impl fmt::Debug for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let targets = self.targets.iter().map(|target| &target.spec);
        let frontends = self.frontends.iter().map(|frontend| &frontend.spec);
        f.debug_list().entries(targets).entries(frontends).finish()
    }
}

/// Reads a configuration file. Nothing but the file is touched.
///
/// # Errors
/// Everything that is wrong with the file; if it cannot be read or is no YAML, only that.
pub fn load(path: &Path, registry: &mut Registry) -> Result<Setup, LoadError> {
    config::with_file(path, |name, text| parse(name, text, registry))
}

/// Reads a configuration from a string. Messages call it by the name.
///
/// # Errors
/// Everything that is wrong with the string; if it is no YAML, only that.
pub fn parse(name: &str, text: &str, registry: &mut Registry) -> Result<Setup, LoadError> {
    let (setup, warnings) = config::parse(name, text, |draft| assemble(draft, registry))?;
    Ok(Setup { warnings, ..setup })
}

/// Lets the plugins read their sections. Where one has reported a problem, its part is missing.
fn assemble(draft: Draft<'_>, registry: &mut Registry) -> Setup {
    let Draft { log, plugins, targets, frontends } = draft;
    load_plugins(plugins, registry);
    let (mut new_targets, mut new_frontends, mut handlers) = (Vec::new(), Vec::new(), Vec::new());
    let mut by_name = HashMap::new();
    for (id, Element { spec, section, options }) in (0..).map(TargetId::new).zip(targets) {
        let other = || registry.frontend(&spec.kind).is_ok().then_some("frontend");
        let made = make(&spec, &spec.kind, "target", registry.target(&spec.kind), other, section, options);
        by_name.insert(spec.name.clone(), id);
        new_targets.extend(made.map(|handler| NewTarget { id, spec, handler }));
    }
    for (id, Element { spec, section, options }) in (0..).map(FrontendId::new).zip(frontends) {
        let other = || registry.target(&spec.kind).is_ok().then_some("target");
        let made = make(&spec, &spec.kind, "frontend", registry.frontend(&spec.kind), other, section, options);
        let (Some(Frontend { cold, keeps_warm, handler }), Some(&target)) = (made, by_name.get(&spec.target)) else {
            continue;
        };
        new_frontends.push(NewFrontend { id, spec, target, cold, keeps_warm, has_handler: handler.is_some() });
        handlers.extend(handler.map(|handler| (id, handler)));
    }
    let mut services: Vec<(String, Box<dyn Handler>)> = Vec::new();
    for (name, namespace) in &mut registry.namespaces {
        services.extend(namespace.services.drain(..).map(|service| (name.clone(), service)));
    }
    Setup { log, targets: new_targets, frontends: new_frontends, handlers, services, warnings: Vec::new() }
}

fn load_plugins(mut section: Section<'_>, registry: &mut Registry) {
    let names: Vec<String> = registry.names().map(str::to_owned).collect();
    let known: Vec<&str> = names.iter().map(String::as_str).collect();
    section.only(&known, |key| {
        format!("unknown plugin {}: this program has {}", quoted(key), listed(known.iter().copied()))
    });
    registry.namespaces.clear();
    for (index, name) in names.iter().enumerate() {
        let mut own = section.named_child(name);
        registry.load(index, &mut own);
        own.finish();
    }
}

/// Lets a kind make a target or a frontend of an element. Reports a kind that does not exist.
fn make<S, T>(
    spec: &S,
    kind: &Kind,
    sort: &str,
    found: Result<&Make<S, T>, Vec<String>>,
    other: impl FnOnce() -> Option<&'static str>,
    mut section: Section<'_>,
    options: Option<Section<'_>>,
) -> Option<T> {
    let mut made = None;
    if let Some(mut options) = options {
        match found {
            Ok(make) => {
                let before = options.problem_count();
                made = make(spec, &mut options);
                if made.is_none() && !options.failed() && options.problem_count() == before {
                    options.problem("", format_args!("rejected by {kind} without a reason"));
                }
                options.finish();
            }
            Err(known) => section.problem("kind", no_kind(sort, kind, other(), &known)),
        }
    }
    section.finish();
    made
}

/// The message for a kind that does not exist.
fn no_kind(sort: &str, kind: &Kind, other: Option<&str>, known: &[String]) -> String {
    let what = quoted(&kind.to_string());
    let known = listed(known.iter().map(String::as_str));
    match other {
        Some(other) => format!("{what} is a {other} kind: the {sort} kinds are {known}"),
        None => format!("unknown {sort} kind {what}: the {sort} kinds are {known}"),
    }
}

#[cfg(test)]
mod tests;
