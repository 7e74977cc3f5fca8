//! The built-in plugins. `plugins.yaml` names them by their directories.

pub mod ctl;
pub mod packet;
pub mod r#static;
#[cfg(test)]
mod tests;
