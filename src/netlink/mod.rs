//! All that proxygw knows of netlink: how to ask the kernel, and what it answers.
//!
//! | module | asks |
//! |---|---|
//! | [`conntrack`] | which flows there are, to delete one, to be told of each that comes and goes |
//! | [`sock_diag`] | whether something is bound to an address, without connecting to it |
//! | [`loopback`] | to let answers for ::1 in that come through an interface |
//! | [`nflog`] | for packets that a rule has logged |
//! | [`guard_table`] | for a table that other programs cannot flush |
//! | [`nftables`] | what changes in a table, and who changed it; what is in it |
//! | [`instance_lock`] | to be the one daemon of the network namespace |
//! | [`addresses`] | which addresses the interfaces have, and to be told when they change |
//! | [`route`] | where a packet would go; whether an address is this host's own |
//! | [`link`] | which interfaces there are |
//! | `batch` | a transaction of nftables |
//! | [`socket`] | the requests, dumps and replies under all of them |
//! | [`message`] | the bytes of a message and its attributes |
//!
//! Nothing here has a thread of its own or shared state: a value belongs to the thread that uses it, asks the network
//! namespace in which it was opened, and blocks no longer than [`socket::TIMEOUT`].
//!
//! The sockets are rustix's and not neli's: neli's `NlSocket` lends only a raw file descriptor, which cannot be polled
//! or given a receive timeout without `unsafe`. Its constants are used where it has them (it has none for conntrack or
//! sock_diag), and its attribute types are not, for they allocate once per attribute.

pub mod addresses;
mod batch;
pub mod conntrack;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
pub mod guard_table;
pub mod instance_lock;
pub mod link;
pub mod loopback;
pub mod message;
pub mod nflog;
pub mod nftables;
pub mod route;
pub mod sock_diag;
pub mod socket;
