//! Every decision is made here: a pure [`core`] in a thin shell, on a thread of its own.

mod backend;
pub mod core;
mod explain;
mod explanation;
mod inbox;
mod members;
mod orders;
mod pending;
mod report;
mod request;
mod runner;
mod sentences;
mod shell;
mod status;
mod wall;

pub use backend::{Target, TargetContext};
pub use explanation::{Explanation, FlowStatus, TrafficStatus, WokenStatus};
pub use inbox::{Inbox, Message};
pub use members::{NewFrontend, NewTarget};
pub use orders::{Order, Orders};
pub use request::{Reply, Request};
pub use shell::Engine;
pub use status::{EndpointStatus, FrontendState, FrontendStatus, Status, TargetState, TargetStatus};
