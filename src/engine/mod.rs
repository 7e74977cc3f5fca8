//! Every decision is made here: a pure [`core`] in a thin shell, on a thread of its own.

mod backend;
pub mod core;
mod explain;
mod inbox;
mod orders;
mod questions;
mod report;
mod runner;
mod shell;
mod status;
mod wall;

pub use backend::{Target, TargetContext};
pub use explain::{Explanation, FlowStatus, TrafficStatus, WokenStatus};
pub use inbox::{Inbox, Message};
pub use orders::{Order, Orders};
pub use shell::{Engine, NewFrontend, NewTarget};
pub use status::{EndpointStatus, FrontendState, FrontendStatus, Reply, Request, Status, TargetState, TargetStatus};
