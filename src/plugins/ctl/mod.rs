//! The built-in plugin `ctl`: a Unix socket over which the daemon can be asked, and told.
//!
//! [`wire`] is the format, `connection` one client's side of the conversation without any socket, `server` the sockets.

mod connection;
mod server;
pub mod settings;
pub mod wire;

use crate::config::Section;
use crate::plugin::{Namespace, Plugin};
use settings::Settings;

/// The plugin, for the daemon's build script.
pub fn plugin() -> Box<dyn Plugin> {
    Box::new(Ctl)
}

struct Ctl;

impl Plugin for Ctl {
    fn load(&mut self, config: &mut Section<'_>, namespace: &mut Namespace) {
        if let Some(settings) = Settings::read(config) {
            namespace.service(Box::new(server::Server::new(settings)));
        }
    }
}
