//! The configuration: from the file to checked and typed data, or to a list of everything that is wrong with it.
//!
//! [`load`] reads the file (`file`), makes a tree of [`Node`]s of it (`yaml`), and reads that through [`Section`]s, which
//! note what was asked for and collect every problem (`problem`). Plugins read their own sections the same way. Positions in
//! the text are looked up last, and only for problems that are shown. All of it runs on the main thread, before any other
//! exists, and touches nothing but the file. Time and memory are bounded for any file.

mod access;
mod address;
mod draft;
mod duration;
mod element;
#[cfg(test)]
mod error_tests;
mod file;
mod from_node;
mod frontend;
mod model;
mod node;
mod overlap;
mod ports;
mod problem;
mod route;
mod section;
#[cfg(test)]
mod spec_tests;
mod suggest;
mod target;
mod values;
mod yaml;

use std::path::Path;

pub use access::{Access, Prefix};
pub(crate) use draft::Draft;
pub use duration::parse_duration;
pub(crate) use duration::seconds_rounded_up;
pub(crate) use element::Element;
pub use from_node::FromNode;
pub use model::{Endpoint, FrontendSpec, Kind, Log, LogOutput, Masquerade, Probe, Protocol, Readiness, TargetSpec};
pub use node::Node;
pub(crate) use ports::PortMap;
pub use ports::{Address, Ports};
pub use problem::LoadError;
pub use route::{Route, Shift};
pub use section::Section;
pub(crate) use suggest::{listed, quoted};
pub use values::MAX_KERNEL_TIMEOUT;

use problem::Problems;

/// Default path of the configuration.
pub const DEFAULT_PATH: &str = "/etc/proxygw.yaml";

/// Reads a configuration file. Nothing but the file is touched.
///
/// # Errors
/// The file cannot be read, or `read` has returned an error.
pub(crate) fn with_file<T>(path: &Path, read: impl FnOnce(&str, &str) -> Result<T, LoadError>) -> Result<T, LoadError> {
    let name = path.display().to_string();
    let bytes = file::read(path).map_err(|wrong| LoadError::file(&name, &wrong))?;
    let text = yaml::decode(&bytes).map_err(|invalid| LoadError::invalid(&name, &invalid))?;
    read(&name, text)
}

/// Reads a configuration. `assemble` reads the sections of the plugins and reports its own problems on them. Messages call
/// the text by the name. Returns the result and the warnings, a line each.
///
/// # Errors
/// Everything that is wrong with the text; if it is no YAML, only that.
pub(crate) fn parse<T>(
    name: &str,
    text: &str,
    assemble: impl FnOnce(Draft<'_>) -> T,
) -> Result<(T, Vec<String>), LoadError> {
    if text.len() > file::MAX_SIZE {
        return Err(LoadError::file(name, &file::too_large()));
    }
    with_document(name, text, yaml::parse(text), |top| draft::read(top).map(assemble))
}

/// Reads only `version` and the section of one plugin from a configuration file, for a program that has other plugins than
/// the daemon or none. The section is empty if it is missing. Other keys are ignored.
///
/// # Errors
/// The file cannot be read or is no YAML, its version is another, or the reader has reported problems.
pub fn with_plugin_section<R>(
    path: &Path,
    plugin: &str,
    read: impl FnOnce(&mut Section<'_>) -> R,
) -> Result<R, LoadError> {
    with_file(path, |name, text| with_text_section(name, text, plugin, read))
}

pub(crate) fn with_text_section<R>(
    name: &str,
    text: &str,
    plugin: &str,
    read: impl FnOnce(&mut Section<'_>) -> R,
) -> Result<R, LoadError> {
    let node = yaml::parse_only(text, &["version", "plugins"]);
    let (result, _) = with_document(name, text, node, |mut top| {
        draft::version(&mut top);
        Some(read(&mut top.child("plugins").named_child(plugin)))
    })?;
    Ok(result)
}

/// Reads a tree. Returns the result and the warnings if no problem was reported.
fn with_document<T>(
    name: &str,
    text: &str,
    node: Result<Node, yaml::Invalid>,
    read: impl FnOnce(Section<'_>) -> Option<T>,
) -> Result<(T, Vec<String>), LoadError> {
    let node = node.map_err(|invalid| LoadError::invalid(name, &invalid))?;
    let problems = Problems::default();
    match read(Section::new(&node, Vec::new(), String::new(), &problems)) {
        Some(result) if problems.is_empty() => Ok((result, problems.into_warnings(name, text))),
        _ => Err(problems.into_error(name, text)),
    }
}
