//! Small safe wrappers around the operating system that more than one room needs.

mod child;
mod stop_signal;

pub use child::{Ended, run_with_input};
pub use stop_signal::StopSignal;
