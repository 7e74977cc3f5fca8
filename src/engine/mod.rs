//! Every decision is made here.

mod status;

pub use status::{EndpointStatus, FrontendState, FrontendStatus, Reply, Request, Status, TargetState, TargetStatus};
