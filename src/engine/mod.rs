//! Every decision is made here: a pure [`core`] in a thin shell, on a thread of its own.

pub mod core;
mod explain;
mod inbox;
mod questions;
mod report;
mod runner;
mod shell;
mod status;
mod wall;

pub use explain::{Explanation, FlowStatus, TrafficStatus, WokenStatus};
pub use inbox::{Inbox, Message};
pub use shell::Engine;
pub use status::{EndpointStatus, FrontendState, FrontendStatus, Reply, Request, Status, TargetState, TargetStatus};
