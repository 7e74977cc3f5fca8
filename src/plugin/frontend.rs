//! A frontend, as its plugin describes it.

use super::Handler;
use crate::dataplane::plan::ColdPath;

/// A frontend, made from one element of `frontends`. Creating one has no effect on the system: `proxygw --check` does it too.
pub struct Frontend {
    /// Path of a new flow while the target is not active.
    pub cold: ColdPath,
    /// Whether the frontend pins its target while it runs.
    pub keeps_warm: bool,
    /// Owner of the frontend's sockets, if it has any.
    pub handler: Option<Box<dyn Handler>>,
}
