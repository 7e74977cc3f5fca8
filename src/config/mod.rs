//! The configuration: from the file to checked and typed data, or to a list of everything that is wrong with it.
//!
//! [`load`] reads the file (`file`), makes a tree of [`Node`]s of it (`yaml`), and reads that through [`Section`]s, which
//! note what was asked for and collect every problem (`problem`). Plugins read their own sections the same way. Positions in
//! the text are looked up last, and only for problems that are shown. All of it runs on the main thread, before any other
//! exists, and touches nothing but the file. Time and memory are bounded for any file.

mod access;
mod address;
mod duration;
mod file;
mod from_node;
mod frontend;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod load;
mod model;
mod node;
mod overlap;
mod ports;
mod problem;
mod route;
mod section;
mod suggest;
mod target;
mod values;
mod yaml;

use std::fmt;
use std::path::Path;

pub use access::{Access, Prefix};
pub use duration::parse_duration;
pub use from_node::FromNode;
pub use model::{
    Config, Endpoint, FrontendSpec, Kind, Log, LogOutput, Masquerade, Probe, Protocol, Readiness, TargetSpec,
};
pub use node::Node;
pub(crate) use ports::PortMap;
pub use ports::{Address, Ports};
pub use problem::LoadError;
pub use route::{Route, Shift};
pub use section::Section;
pub use values::MAX_KERNEL_TIMEOUT;

use crate::plugin::{Frontend, Handler, Registry, Target};
use problem::Problems;

/// A valid configuration and everything that the plugins have made of it.
pub struct Setup {
    /// The configuration itself.
    pub config: Config,
    /// What runs the targets, in the order of [`Config::targets`].
    pub targets: Vec<Box<dyn Target>>,
    /// What the frontends do, in the order of [`Config::frontends`].
    pub frontends: Vec<Frontend>,
    /// What will not work as its author may expect; a line each, with its place in the file.
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
    let name = path.display().to_string();
    let bytes = file::read(path).map_err(|wrong| LoadError::file(&name, &wrong))?;
    let text = yaml::decode(&bytes).map_err(|invalid| LoadError::invalid(&name, &invalid))?;
    parse(&name, text, registry)
}

/// Reads a configuration from a text. Messages call it by the name.
///
/// # Errors
/// Everything that is wrong with the text; if it is no YAML, only that.
pub fn parse(name: &str, text: &str, registry: &mut Registry) -> Result<Setup, LoadError> {
    if text.len() > file::MAX_SIZE {
        return Err(LoadError::file(name, &file::too_large()));
    }
    let node = yaml::parse(text).map_err(|invalid| LoadError::invalid(name, &invalid))?;
    let problems = Problems::default();
    let setup = load::document(&node, &problems, registry);
    match setup {
        Some(setup) => Ok(Setup { warnings: problems.into_warnings(name, text), ..setup }),
        None => Err(problems.into_error(name, text)),
    }
}

/// Reads only `version` and the section of one plugin from a configuration file, for a program that has other plugins than
/// the daemon or none. The section is empty if it is missing; keys that are not asked for are not looked at.
///
/// # Errors
/// The file cannot be read or is no YAML, its version is another, or the reader has reported problems.
pub fn with_plugin_section<R>(
    path: &Path,
    plugin: &str,
    read: impl FnOnce(&mut Section<'_>) -> R,
) -> Result<R, LoadError> {
    let name = path.display().to_string();
    let bytes = file::read(path).map_err(|wrong| LoadError::file(&name, &wrong))?;
    let text = yaml::decode(&bytes).map_err(|invalid| LoadError::invalid(&name, &invalid))?;
    with_text_section(&name, text, plugin, read)
}

fn with_text_section<R>(
    name: &str,
    text: &str,
    plugin: &str,
    read: impl FnOnce(&mut Section<'_>) -> R,
) -> Result<R, LoadError> {
    let node = yaml::parse_only(text, &["version", "plugins"]).map_err(|invalid| LoadError::invalid(name, &invalid))?;
    let problems = Problems::default();
    let mut top = Section::new(&node, Vec::new(), String::new(), &problems);
    load::version(&mut top);
    let result = read(&mut top.child("plugins").named_child(plugin));
    if problems.is_empty() { Ok(result) } else { Err(problems.into_error(name, text)) }
}
