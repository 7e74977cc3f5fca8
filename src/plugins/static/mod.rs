//! The built-in plugin `static`: frontends and targets that need nothing but this host.
//!
//! - `static:always`: a frontend that keeps its target warm.
//! - `static:http`: a frontend that serves cold clients a page and wakes its target.
//! - `static:cmd`: a target that is a command.
//! - `static:none`: a target that another program runs.

mod cmd;
pub(crate) mod http;
mod output;

use crate::config::{FrontendSpec, Section};
use crate::plugin::{ColdPath, Error, Frontend, Namespace, Plugin, Target, TargetContext};

/// The plugin, for the daemon's build script.
pub fn plugin() -> Box<dyn Plugin> {
    Box::new(Static)
}

struct Static;

impl Plugin for Static {
    fn load(&mut self, _config: &mut Section<'_>, namespace: &mut Namespace) {
        namespace.frontend("always", always);
        namespace.frontend("http", http::frontend);
        namespace.target("cmd", cmd::target);
        namespace.target("none", |_, _| Some(Box::new(External)));
    }
}

/// A frontend that keeps its target warm. Until the target is ready for the first time, the first packets of clients are
/// dropped, and the clients retry.
fn always(_spec: &FrontendSpec, _options: &mut Section<'_>) -> Option<Frontend> {
    Some(Frontend { cold: ColdPath::Drop, keeps_warm: true, handler: None })
}

/// A backend that runs independently of the daemon. It is routed to while it is wanted and ready.
struct External;

impl Target for External {
    fn start(&mut self, _context: &TargetContext) -> Result<(), Error> {
        Ok(())
    }

    fn stop(&mut self, _context: &TargetContext) -> Result<(), Error> {
        Ok(())
    }

    fn external(&self) -> bool {
        true
    }

    fn unwatched(&self) -> bool {
        true
    }
}
