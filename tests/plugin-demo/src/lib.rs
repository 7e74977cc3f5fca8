//! The example of docs/plugins.md: a plugin of its own crate, with one frontend kind and one target kind.

mod greeter;
mod knock;
#[cfg(test)]
mod tests;

use std::time::Duration;

use proxygw::plugin::{Namespace, Plugin, Section};

/// Default time after which a connection is closed.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The plugin, for the daemon's build script.
pub fn plugin() -> Box<dyn Plugin> {
    Box::new(Demo)
}

struct Demo;

impl Plugin for Demo {
    fn load(&mut self, config: &mut Section<'_>, namespace: &mut Namespace) {
        let timeout = config.optional("timeout").unwrap_or(TIMEOUT);
        namespace.frontend("knock", move |spec, options| knock::frontend(spec, options, timeout));
        namespace.target("greeter", greeter::target);
    }
}
