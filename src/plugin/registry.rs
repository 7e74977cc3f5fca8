//! Which kinds there are, and who makes them.

use std::collections::BTreeMap;

use super::{Frontend, Handler, Target};
use crate::config::{FrontendSpec, Kind, Section, TargetSpec};

/// A plugin: one per key of `plugins.yaml`.
///
/// A plugin crate has one public function `plugin() -> Box<dyn Plugin>`; the daemon's build script calls it.
pub trait Plugin: Send {
    /// Reads the plugin's own section of the configuration (`plugins.NAMESPACE`, empty if it is missing) and registers
    /// kinds and services. Problems are reported on the section; nothing on the system may be touched, since
    /// `proxygw --check` does this too.
    fn load(&mut self, config: &mut Section<'_>, namespace: &mut Namespace);

    /// Called once when the daemon ends, after all of the plugin's handlers have been stopped.
    fn unload(&mut self) {}
}

/// Makes a target or a frontend of an element of the configuration. `None` means that a problem was reported on the options.
pub type Make<S, T> = dyn Fn(&S, &mut Section<'_>) -> Option<T> + Send;

/// Makes a frontend of an element of `frontends`.
pub type MakeFrontend = Make<FrontendSpec, Frontend>;

/// Makes a target of an element of `targets`.
pub type MakeTarget = Make<TargetSpec, Box<dyn Target>>;

/// What one plugin offers.
#[derive(Default)]
pub struct Namespace {
    pub(crate) frontends: BTreeMap<&'static str, Box<MakeFrontend>>,
    pub(crate) targets: BTreeMap<&'static str, Box<MakeTarget>>,
    pub(crate) services: Vec<Box<dyn Handler>>,
}

impl Namespace {
    /// Offers a kind of frontend.
    ///
    /// # Panics
    /// If the plugin already offers a frontend kind of this name.
    pub fn frontend<F>(&mut self, kind: &'static str, make: F)
    where
        F: Fn(&FrontendSpec, &mut Section<'_>) -> Option<Frontend> + Send + 'static,
    {
        let before = self.frontends.insert(kind, Box::new(make));
        assert!(before.is_none(), "the frontend kind {kind:?} is registered twice");
    }

    /// Offers a kind of target.
    ///
    /// # Panics
    /// If the plugin already offers a target kind of this name.
    pub fn target<F>(&mut self, kind: &'static str, make: F)
    where
        F: Fn(&TargetSpec, &mut Section<'_>) -> Option<Box<dyn Target>> + Send + 'static,
    {
        let before = self.targets.insert(kind, Box::new(make));
        assert!(before.is_none(), "the target kind {kind:?} is registered twice");
    }

    /// Adds a handler that runs for as long as the daemon does, such as a control socket. If it cannot start, neither
    /// can the daemon.
    pub fn service(&mut self, service: Box<dyn Handler>) {
        self.services.push(service);
    }
}

/// The plugins that this daemon was built with, by namespace, in the order of `plugins.yaml`.
#[derive(Default)]
pub struct Registry {
    pub(crate) plugins: Vec<(String, Box<dyn Plugin>)>,
    pub(crate) namespaces: Vec<(String, Namespace)>,
}

impl Registry {
    /// Adds a plugin under the namespace that the configuration will use.
    pub fn add(&mut self, namespace: &str, plugin: Box<dyn Plugin>) {
        self.plugins.push((namespace.to_owned(), plugin));
    }

    /// The namespaces, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.plugins.iter().map(|(name, _)| name.as_str())
    }

    /// Lets a plugin read its section of the configuration and register its kinds. Called once per plugin, by the loader.
    pub(crate) fn load(&mut self, index: usize, section: &mut Section<'_>) {
        let (name, plugin) = &mut self.plugins[index];
        let mut namespace = Namespace::default();
        plugin.load(section, &mut namespace);
        self.namespaces.push((name.clone(), namespace));
    }

    /// The maker of a frontend kind, or the kinds that there are.
    pub(crate) fn frontend(&self, kind: &Kind) -> Result<&MakeFrontend, Vec<String>> {
        find(&self.namespaces, kind, |namespace| &namespace.frontends)
    }

    /// The maker of a target kind, or the kinds that there are.
    pub(crate) fn target(&self, kind: &Kind) -> Result<&MakeTarget, Vec<String>> {
        find(&self.namespaces, kind, |namespace| &namespace.targets)
    }

    /// Ends every plugin.
    pub(crate) fn unload(&mut self) {
        for (_, plugin) in &mut self.plugins {
            plugin.unload();
        }
    }
}

/// Looks a kind up; the error lists every kind of that sort that exists.
fn find<'a, M: ?Sized>(
    namespaces: &'a [(String, Namespace)],
    kind: &Kind,
    of: impl Fn(&'a Namespace) -> &'a BTreeMap<&'static str, Box<M>>,
) -> Result<&'a M, Vec<String>> {
    let found = namespaces.iter().find(|(name, _)| *name == kind.namespace);
    if let Some(make) = found.and_then(|(_, namespace)| of(namespace).get(kind.name.as_str())) {
        return Ok(make);
    }
    Err(namespaces
        .iter()
        .flat_map(|(name, namespace)| of(namespace).keys().map(move |kind| format!("{name}:{kind}")))
        .collect())
}
