//! Configuration and plugins, put together: what the daemon and the doctor work with.
//!
//! `config` reads what is the same for every plugin; here the plugins read their own sections and make targets, frontends
//! and services of them. Their problems join those of `config` in one list. All of it runs on the main thread, before any
//! other exists, and touches nothing but the file.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;

use std::fmt;
use std::path::Path;

use crate::config::{self, Config, Draft, Element, Kind, LoadError, Section, listed, quoted};
use crate::plugin::{Frontend, Handler, Make, Registry, Target};

/// A valid configuration and everything that the plugins have made of it.
pub struct Setup {
    /// The configuration itself.
    pub config: Config,
    /// What runs the targets, in the order of [`Config::targets`].
    pub targets: Vec<Box<dyn Target>>,
    /// What the frontends do, in the order of [`Config::frontends`].
    pub frontends: Vec<Frontend>,
    /// Parts of the file that may not work as intended; a line each, with its place in the file.
    pub warnings: Vec<String>,
    /// The handlers that run for as long as the daemon does, each with its plugin's namespace.
    pub services: Vec<(String, Box<dyn Handler>)>,
}

impl fmt::Debug for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Setup").field("config", &self.config).finish_non_exhaustive()
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
    let mut setup = Setup {
        config: Config { log, targets: Vec::new(), frontends: Vec::new() },
        targets: Vec::with_capacity(targets.len()),
        frontends: Vec::with_capacity(frontends.len()),
        warnings: Vec::new(),
        services: Vec::new(),
    };
    for Element { spec, section, options } in targets {
        let other = || registry.frontend(&spec.kind).is_ok().then_some("frontend");
        setup.targets.extend(make(&spec, &spec.kind, "target", registry.target(&spec.kind), other, section, options));
        setup.config.targets.push(spec);
    }
    for Element { spec, section, options } in frontends {
        let other = || registry.target(&spec.kind).is_ok().then_some("target");
        let found = registry.frontend(&spec.kind);
        setup.frontends.extend(make(&spec, &spec.kind, "frontend", found, other, section, options));
        setup.config.frontends.push(spec);
    }
    for (name, namespace) in &mut registry.namespaces {
        setup.services.extend(namespace.services.drain(..).map(|service| (name.clone(), service)));
    }
    setup
}

fn load_plugins(mut section: Section<'_>, registry: &mut Registry) {
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
        Some(other) => format!("{what} is a {other} kind; the {sort} kinds are {known}"),
        None => format!("there is no {sort} kind {what}; there are {known}"),
    }
}
