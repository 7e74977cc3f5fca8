//! Targets and frontends as the engine receives and keeps them.

use super::backend::Target;
use crate::config::{FrontendSpec, TargetSpec};
use crate::dataplane::plan::ColdPath;
use crate::ids::{FrontendId, TargetId};

/// A target as the engine receives it.
pub struct NewTarget {
    /// Its id.
    pub id: TargetId,
    /// Its configuration.
    pub spec: TargetSpec,
    /// Its plugin's handler.
    pub handler: Box<dyn Target>,
}

/// A frontend as the engine receives it.
pub struct NewFrontend {
    /// Its id.
    pub id: FrontendId,
    /// Its configuration.
    pub spec: FrontendSpec,
    /// The target behind it.
    pub target: TargetId,
    /// Its cold path.
    pub cold: ColdPath,
    /// Whether it pins its target.
    pub keeps_warm: bool,
    /// Whether it has a handler on the reactor.
    pub has_handler: bool,
}

/// A frontend, as far as the core does not know it.
pub(super) struct Frontend {
    pub spec: FrontendSpec,
    pub has_handler: bool,
}
