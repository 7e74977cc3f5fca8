//! Queries and notifications of the kernel over netlink.
//!
//! | module | purpose |
//! |---|---|
//! | [`conntrack`] | lists, watches and deletes flows |
//! | [`sock_diag`] | finds out whether a socket is bound to an address, without connecting to it |
//! | [`loopback`] | adds routes for replies to ::1 that come in through an interface |
//! | [`nflog`] | receives packets that a rule logged |
//! | [`guard_table`] | creates a table that other programs cannot flush |
//! | [`nftables`] | watches and lists one table |
//! | [`instance_lock`] | admits one daemon per network namespace |
//! | [`addresses`] | lists and watches the addresses of the interfaces |
//! | [`route`] | looks up routes |
//! | [`link`] | lists the interfaces |
//! | `netfilter` | headers and transactions of netfilter's subsystems |
//! | [`socket`] | requests, dumps and their results |
//! | `raw` | sockets, their datagrams and notifications |
//! | [`message`] | bytes of a message and its attributes |
//!
//! Nothing here has a thread of its own or shared state: a value belongs to the thread that uses it, queries the network
//! namespace in which it was opened, and blocks no longer than [`socket::TIMEOUT`].
//!
//! The sockets are rustix's and not neli's: neli's `NlSocket` lends only a raw file descriptor, which cannot be polled
//! or given a receive timeout without `unsafe`. Its constants are used where it has them (it has none for conntrack or
//! sock_diag). Its attribute types are not, because they allocate once per attribute.

pub mod addresses;
pub mod conntrack;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
pub mod guard_table;
pub mod instance_lock;
pub mod link;
pub mod loopback;
pub mod message;
mod netfilter;
pub mod nflog;
pub mod nftables;
mod raw;
pub mod route;
pub mod sock_diag;
pub mod socket;
#[cfg(test)]
mod testing;
