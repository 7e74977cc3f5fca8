//! Everything about packets: which rules there should be, and getting them into the kernel.
//!
//! [`plan`] is plain data, [`render`] turns it into nft's JSON as a pure function, [`apply`] runs nft. All three belong to
//! the engine thread. The kernel's view of the flows is [`flows`], with a thread of its own. What the kernel tells by itself
//! comes to the reactor thread: first packets to [`hold`], what other programs change in our table to [`watch`]. [`repair`] decides what
//! restores it, as a pure function.

pub mod apply;
pub mod flows;
pub mod hold;
pub mod links;
mod listens;
pub mod localnet;
pub mod own;
pub mod pace;
pub mod plan;
pub mod render;
pub mod repair;
pub mod rules;
pub mod watch;
