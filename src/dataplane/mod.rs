//! Everything about packets: the rules that are wanted, and loading them into the kernel.
//!
//! [`plan`] is plain data, [`render`] turns it into nft's JSON as a pure function, [`apply`] runs nft. All three belong to
//! the engine thread. The kernel's view of the flows is [`flows`], with a thread of its own. What the kernel reports on its
//! own comes to the reactor thread: first packets to [`hold`], changes of our table by other programs to [`watch`]. [`repair`]
//! computes what restores the table, as a pure function; [`pace`] delays repeated repairs, and [`own`] knows our own changes.
//! [`localnet`] switches `route_localnet` with its guards.

pub mod apply;
pub mod flows;
pub mod hold;
pub mod links;
mod listens;
pub mod localnet;
pub mod monitor;
pub mod own;
pub mod pace;
pub mod plan;
pub mod render;
pub mod repair;
pub mod rules;
pub mod trace;
pub mod watch;
