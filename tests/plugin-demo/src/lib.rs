//! The example of docs/plugins.md: a plugin of its own crate, with one frontend kind and one target kind.

mod greeter;
mod knock;
#[cfg(test)]
mod tests;

use std::time::Duration;

use proxygw::plugin::{Namespace, Plugin, Section};

/// How long a visitor may stay, if the configuration does not say.
const PATIENCE: Duration = Duration::from_secs(10);

/// The plugin, for the daemon's build script.
pub fn plugin() -> Box<dyn Plugin> {
    Box::new(Demo)
}

struct Demo;

impl Plugin for Demo {
    fn load(&mut self, config: &mut Section<'_>, namespace: &mut Namespace) {
        let patience = config.optional("patience").unwrap_or(PATIENCE);
        namespace.frontend("knock", move |spec, options| knock::frontend(spec, options, patience));
        namespace.target("greeter", greeter::target);
    }
}
