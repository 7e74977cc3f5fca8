//! The built-in plugin `ctl`: a Unix socket through which `proxygwctl` and other clients query the status and give orders.
//!
//! - [`settings`] reads `plugins.ctl`, for the daemon and for the client.
//! - [`wire`] has the packets and their bytes, [`methods`] their meaning.
//! - `session` is the protocol with one client, without a socket. `peer` adds the socket, `service` the other
//!   clients and the reactor. All of it runs on the reactor thread and decides nothing: the engine does.
//! - [`client`] is the other side, on a thread that may block.

pub mod client;
mod file_watch;
mod group;
pub mod methods;
mod peer;
mod service;
#[cfg(test)]
mod service_tests;
mod session;
#[cfg(test)]
mod session_tests;
pub mod settings;
mod socket;
#[cfg(test)]
mod socket_tests;
pub mod wire;

pub use group::Group;

use crate::config::Section;
use crate::plugin::{Namespace, Plugin};
use service::Service;
use settings::Settings;

/// The plugin, for the daemon's build script.
pub fn plugin() -> Box<dyn Plugin> {
    Box::new(Ctl)
}

struct Ctl;

impl Plugin for Ctl {
    fn load(&mut self, config: &mut Section<'_>, namespace: &mut Namespace) {
        if let Some(settings) = Settings::read(config) {
            namespace.service(Box::new(Service::new(settings)));
        }
    }
}
