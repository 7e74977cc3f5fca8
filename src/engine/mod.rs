//! Every decision is made here.

pub mod core;
mod status;

pub use status::{EndpointStatus, FrontendState, FrontendStatus, Reply, Request, Status, TargetState, TargetStatus};
