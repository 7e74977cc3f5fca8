//! A plugin for proxygw, and the example of `docs/plugins.md`: a frontend kind `knock`, which greets cold clients and
//! wakes, and a target kind `thread`, whose backend is a thread of the daemon.

mod knock;
mod thread;

use proxygw::config::Section;
use proxygw::plugin::{Namespace, Plugin};

/// What the daemon's build script calls.
pub fn plugin() -> Box<dyn Plugin> {
    Box::new(Demo)
}

struct Demo;

impl Plugin for Demo {
    fn load(&mut self, config: &mut Section<'_>, namespace: &mut Namespace) {
        let greeting = config.optional("greeting").unwrap_or_else(|| "who is there?".to_owned());
        namespace.frontend("knock", move |spec, options| knock::frontend(&greeting, spec, options));
        namespace.target("thread", thread::target);
    }
}
