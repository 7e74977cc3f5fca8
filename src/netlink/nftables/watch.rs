//! Notifications of what changes in one table of the family `inet`.
//!
//! The kernel sends the messages of a transaction when it is committed, and `NFT_MSG_NEWGEN` after them, which names the
//! generation that the transaction makes and the process that committed it.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::net::netlink;

use super::changes::{Action, Changes, Object};
use super::listing::Tables;
use super::numbers::{ANONYMOUS, CHAIN_NAME, GENERATION, INET, NAME, RULE_CHAIN, SET_FLAGS, TABLE};
use crate::netlink::message::{Attributes, Message, Messages};
use crate::netlink::netfilter::{NFTABLES, attributes};
use crate::netlink::raw::{RawSocket, Received};

/// `NFNLGRP_NFTABLES` (number 7) as a bit of `nl_groups`.
const GROUP: u32 = 1 << 6;

/// The receive buffer in bytes: the notifications of a table of some thousand frontends. Memory is used only while
/// notifications wait.
const RECEIVE_BUFFER: usize = 4 << 20;

/// Maximum number of datagrams that one call of [`TableWatch::read`] reads.
const MAX_DATAGRAMS: usize = 4096;

/// `NFT_MSG_NEWGEN`.
const NEW_GENERATION: u16 = 15;

/// `NFTA_GEN_PROC_PID` and `NFTA_GEN_PROC_NAME`.
const PROCESS_ID: u16 = 2;
const PROCESS_NAME: u16 = 3;

/// The process that committed a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its thread's id, in the machine's first PID namespace.
    pub id: u32,
    /// The name of that thread, at most 15 bytes.
    pub name: String,
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {})", self.name.escape_default(), self.id)
    }
}

/// A transaction that changed the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    /// The process that committed it, where the kernel names it.
    pub process: Option<Process>,
    /// Netlink port of the socket that committed it: mostly the process's id in its own PID namespace.
    pub port: u32,
    /// The generation of all rule sets of the network namespace that it made.
    pub generation: u32,
    /// Its changes.
    pub changes: Changes,
}

/// Result of [`TableWatch::read`].
#[derive(Debug, Default)]
pub struct Watched {
    /// The transactions that changed the table, in their order.
    pub transactions: Vec<Transaction>,
    /// Notifications were lost: anything can have changed in the generations after the first number, up to the second.
    pub lost: Option<(u32, u32)>,
    /// More may wait: call again.
    pub more: bool,
}

/// A subscription to the changes of one table of the family `inet`.
#[derive(Debug)]
pub struct TableWatch {
    events: RawSocket,
    queries: Tables,
    reader: Reader,
    /// The last generation before notifications were lost, until all others are read.
    lost_after: Option<u32>,
}

impl TableWatch {
    /// Watches the table of this name in the calling thread's network namespace. `after` is the last generation that an
    /// earlier watch has reported: what came later counts as lost.
    ///
    /// # Errors
    /// The operating system's error: `PermissionDenied` without `CAP_NET_ADMIN`; no nftables in the kernel.
    pub fn open(name: &str, after: Option<u32>) -> io::Result<TableWatch> {
        let events = RawSocket::open(Some(netlink::NETFILTER))?;
        // A smaller buffer overruns sooner, which is noticed.
        let _ = events.set_receive_buffer(RECEIVE_BUFFER);
        TableWatch::over(events.join(GROUP)?, Tables::open()?, name, after)
    }

    fn over(events: RawSocket, mut queries: Tables, name: &str, after: Option<u32>) -> io::Result<TableWatch> {
        let reader = Reader::new(name, queries.generation()?);
        let lost_after = after.filter(|after| *after != reader.seen);
        Ok(TableWatch { events, queries, reader, lost_after })
    }

    /// Reads the notifications since the last call. Does not block.
    ///
    /// # Errors
    /// The operating system's error.
    pub fn read(&mut self) -> io::Result<Watched> {
        let mut watched = Watched { more: true, ..Watched::default() };
        for _ in 0..MAX_DATAGRAMS {
            match self.events.notification(|datagram| self.reader.datagram(datagram, &mut watched.transactions))? {
                Received::Some => {}
                Received::Nothing => {
                    watched.more = false;
                    break;
                }
                // It is reported before the notifications that did fit.
                Received::Overrun => _ = self.lost_after.get_or_insert(self.reader.seen),
            }
        }
        if let Some(after) = self.lost_after {
            // The transactions can be halves.
            watched.transactions.clear();
            if !watched.more {
                self.reader.seen = self.queries.generation()?;
                self.reader.changes = Changes::default();
                self.lost_after = None;
                watched.lost = Some((after, self.reader.seen));
            }
        }
        Ok(watched)
    }

    /// The last generation that was read.
    pub fn generation(&self) -> u32 {
        self.reader.seen
    }

    /// True if the table exists.
    ///
    /// # Errors
    /// The operating system's error.
    pub fn exists(&mut self) -> io::Result<bool> {
        self.queries.flags(&self.reader.table).map(|flags| flags.is_some())
    }
}

impl AsFd for TableWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}

/// Puts transactions together from their messages.
#[derive(Debug)]
pub(in crate::netlink) struct Reader {
    /// The table's name.
    table: String,
    /// The last generation that was reported.
    seen: u32,
    /// Changes so far of the transaction that is being reported.
    changes: Changes,
}

impl Reader {
    pub fn new(table: &str, seen: u32) -> Reader {
        Reader { table: table.to_owned(), seen, changes: Changes::default() }
    }

    pub fn datagram(&mut self, datagram: &[u8], transactions: &mut Vec<Transaction>) {
        for message in Messages::new(datagram) {
            match message {
                Ok(message) => transactions.extend(self.message(&message)),
                // It can report anything.
                Err(_) => self.changes.more = true,
            }
        }
    }

    /// Handles one message; at the end of a transaction that changed the table, returns it.
    fn message(&mut self, message: &Message<'_>) -> Option<Transaction> {
        let kind = message.kind.checked_sub(NFTABLES)?;
        let attributes = attributes(message);
        if kind == NEW_GENERATION {
            return self.end(message, &attributes);
        }
        let name = |attribute| attributes.text(attribute).unwrap_or_default();
        if message.payload.first() != INET.first() || name(TABLE) != self.table {
            return None;
        }
        // An anonymous set is a part of its rule. Only the message of its creation has its flags; nft names it like this.
        let is_anonymous = || {
            attributes.be32(SET_FLAGS).is_some_and(|flags| flags & ANONYMOUS != 0)
                || ["__set", "__map"].iter().any(|prefix| name(NAME).starts_with(prefix))
        };
        // Of each kind of object: `NFT_MSG_NEW…`, `NFT_MSG_DEL…`.
        let object = match kind {
            0 | 2 => Object::Table,
            3 | 5 => Object::Chain(name(CHAIN_NAME)),
            6 | 8 => Object::Rules(name(RULE_CHAIN)),
            9 | 11 | 12 | 14 if is_anonymous() => return None,
            9 | 11 => Object::Set(name(NAME)),
            12 | 14 => Object::Elements(name(NAME)),
            18 | 20 => Object::Stateful(name(NAME)),
            22 | 24 => Object::Flowtable(name(NAME)),
            _ => return None,
        };
        let is_added = matches!(kind, 0 | 3 | 6 | 9 | 12 | 18 | 22);
        self.changes.add(object, if is_added { Action::Added } else { Action::Deleted });
        None
    }

    fn end(&mut self, message: &Message<'_>, attributes: &Attributes<'_>) -> Option<Transaction> {
        let generation = attributes.be32(GENERATION)?;
        self.seen = generation;
        let changes = std::mem::take(&mut self.changes);
        let process = attributes.be32(PROCESS_ID);
        let process = process.map(|id| Process { id, name: attributes.text(PROCESS_NAME).unwrap_or_default() });
        (!changes.is_empty()).then_some(Transaction { process, port: message.port, generation, changes })
    }
}

#[cfg(test)]
mod tests;
