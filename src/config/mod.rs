//! The configuration.

mod model;

pub use model::{Config, Endpoint, FrontendSpec, Kind, Log, LogOutput, Probe, Protocol, Readiness, TargetSpec};

/// A mapping of the configuration that is being read.
pub struct Section<'a>(std::marker::PhantomData<&'a ()>);
