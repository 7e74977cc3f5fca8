//! All that a plugin's author needs.
//!
//! A plugin registers *kinds* of frontends and targets in its [`Namespace`], and may add services of its own. The
//! configuration then names them as `namespace:kind`. `docs/plugins.md` builds one from nothing.
//!
//! - A [`Frontend`] is mostly data: what happens to clients while the target is cold, and an optional [`Handler`] that
//!   lives on the reactor thread and owns sockets.
//! - A [`Target`] is a backend's life: start, wait, stop. Each runs on an OS thread of its own while it is not inactive,
//!   so it may block as long as it uses [`TargetContext::wait`] to do so.
//!
//! A plugin's crate needs no dependency but this one: the types that the traits mention are re-exported here, and so are
//! the crates [`mio`] and [`log`], in the versions that the daemon uses.

mod accept;
mod frontend;
mod handler;
mod io;
mod listen;
mod registry;
#[cfg(test)]
pub(crate) mod testing;

pub use crate::Error;
pub use crate::config::{
    Address, Endpoint, FromNode, FrontendSpec, Kind, Node, Ports, Probe, Protocol, Section, TargetSpec,
};
pub use crate::dataplane::plan::{ColdPath, HoldOptions, OnFailure};
pub use crate::engine::{
    EndpointStatus, FrontendState, FrontendStatus, Reply, Request, Status, Target, TargetContext, TargetState,
    TargetStatus,
};
pub use crate::ids::{Change, FrontendId};
pub use crate::system::StopSignal;
pub use crate::system::files::Share;
pub use accept::{Acceptance, Accepted};
pub use frontend::Frontend;
pub use handler::{Handler, Readiness};
pub use io::Io;
pub(crate) use io::IoCore;
pub use listen::listen;
pub use registry::{Make, MakeFrontend, MakeTarget, Namespace, Plugin, Registry};
pub use {log, mio};
