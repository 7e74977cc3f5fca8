//! The built-in plugins. A folder here is a key that `plugins.yaml` may name.

pub mod ctl;
pub mod packet;
pub mod r#static;
