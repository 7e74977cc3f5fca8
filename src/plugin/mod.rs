//! All that a plugin's author needs.
//!
//! A plugin registers *kinds* of frontends and targets in its [`Namespace`], and may add services of its own. The
//! configuration then names them as `namespace:kind`. `docs/plugins.md` builds one from nothing.
//!
//! - A [`Frontend`] is mostly data: what happens to clients while the target is cold, and an optional [`Handler`] that
//!   lives on the reactor thread and owns sockets.
//! - A [`Target`] is a backend's life: start, wait, stop. Each runs on an OS thread of its own while it is not inactive,
//!   so it may block as long as it uses [`TargetContext::wait`] to do so.

mod frontend;
mod handler;
mod registry;
mod target;

/// The crates that a plugin meets in this interface, in the versions that it must use.
pub use {log, mio};

pub use crate::engine::core::{Change, FrontendId};
pub use crate::engine::{Reply, Request};
pub use frontend::{ColdPath, Frontend, HoldOptions, OnFailure};
pub use handler::{Handler, Io, Readiness};
pub use registry::{Namespace, Plugin, Registry};
pub use target::{Target, TargetContext};

/// Why a handler could not do what it was asked to, in a few lower-case words for the log and for `last_error`.
pub type Error = Box<dyn std::error::Error + Send + Sync>;
