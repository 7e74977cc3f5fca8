//! What a frontend kind makes of one element of `frontends`.

use super::Handler;
use crate::dataplane::plan::ColdPath;

/// A frontend as its plugin describes it. Creating one has no effect on the system: `proxygw --check` does it too.
pub struct Frontend {
    /// What the kernel does with a new flow while the target is not active.
    pub cold: ColdPath,
    /// Whether the target is kept warm for as long as the frontend runs.
    pub keeps_warm: bool,
    /// The frontend's own sockets, if it has any.
    pub handler: Option<Box<dyn Handler>>,
}
