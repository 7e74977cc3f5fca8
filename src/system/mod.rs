//! Small safe wrappers around the operating system that more than one module needs.

mod after_fork;
mod child;
pub mod children;
pub mod connect;
pub mod files;
mod notify;
mod passed;
pub mod processes;
mod route_localnet;
mod stop_signal;
mod waker;

pub use after_fork::bind_to_us;
pub use child::{Ended, run_for_output, run_with_input};
pub use files::{original_limit, raise_limit};
pub use notify::{notify, remove_descriptor, store_descriptor};
pub use passed::{VARIABLES as PASSED_VARIABLES, take_passed};
pub use route_localnet::RouteLocalnet;
pub use stop_signal::{StopSignal, wait_readable};
pub use waker::Waker;
