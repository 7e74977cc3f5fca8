//! One table of nftables: notifications of each change, and a listing of its structure.
//!
//! | module | purpose |
//! |---|---|
//! | `watch` | reads each transaction that changes the table, and the process that committed it |
//! | `changes` | adds up the objects that transactions changed |
//! | `listing` | reads the table's flags, chains, rules per chain, sets and objects |
//! | `numbers` | the kernel's numbers |

mod changes;
mod listing;
pub(super) mod numbers;
mod watch;

pub use changes::{Action, Changes, Object};
pub use listing::{Base, Chain, Listing, Policy, SetKind, Tables, delete_table};
#[cfg(any(test, fuzzing))]
pub(super) use watch::Reader;
pub use watch::{Process, TableWatch, Transaction, Watched};
