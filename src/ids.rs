//! Identifiers that the whole program shares, at the bottom of its modules.

/// A target, as its position in the configuration.
pub type TargetId = usize;

/// A frontend, as its position in the configuration.
pub type FrontendId = usize;

/// Change of a frontend's target, as its handler sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is active, and the frontend's flows are DNATed to it.
    Active,
    /// It is no longer active; a wake can come for it at any time.
    Inactive,
    /// It has been started and has not become active.
    Failed,
}
