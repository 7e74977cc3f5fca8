//! Small safe wrappers around the operating system that more than one room needs.

mod stop_signal;

pub use stop_signal::StopSignal;
