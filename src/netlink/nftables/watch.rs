//! Notifications of what changes in one table of the family `inet`.
//!
//! The kernel sends the messages of a transaction when it is committed, and `NFT_MSG_NEWGEN` after them, which names the
//! generation that the transaction makes and the process that committed it.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use rustix::net::{RecvFlags, SocketFlags, netlink};

use super::super::message::{Attributes, Message, Messages};
use super::super::socket::{self, BUFFER};
use super::{ANONYMOUS, CHAIN_NAME, INET, NAME, RULE_CHAIN, SET_FLAGS, SUBSYSTEM, TABLE, Tables, number, text};

/// `NFNLGRP_NFTABLES` (number 7) as a bit of `nl_groups`.
const GROUP: u32 = 1 << 6;

/// The receive buffer in bytes: the notifications of a table of some thousand frontends. Memory is used only while
/// notifications wait.
const RECEIVE_BUFFER: usize = 4 << 20;

/// Maximum number of objects in one report; beyond them, anything may have changed.
const MAX_OBJECTS: usize = 1024;

/// Maximum number of datagrams that one call of [`TableWatch::read`] takes.
const MAX_DATAGRAMS: usize = 4096;

/// `NFTA_GEN_ID`, `NFTA_GEN_PROC_PID` and `NFTA_GEN_PROC_NAME`.
const GENERATION: u16 = 1;
const PROCESS_ID: u16 = 2;
const PROCESS_NAME: u16 = 3;

/// Part of a table that can change. Ordered by what includes what: the table before its chains, a chain before its rules.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Object {
    /// The table itself: its flags, or all of it.
    Table,
    /// A chain, by its name.
    Chain(String),
    /// A set or a map, by its name.
    Set(String),
    /// A stateful object, such as a ct timeout policy, by its name.
    Stateful(String),
    /// A flowtable, by its name.
    Flowtable(String),
    /// The rules of the chain of this name.
    Rules(String),
    /// The elements of the set or map of this name.
    Elements(String),
}

/// Changes of one object. The kernel reports an update like an addition.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Action {
    /// It, or something of it, was added or updated.
    pub added: bool,
    /// It, or something of it, was deleted.
    pub deleted: bool,
}

/// Changes of the table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// The objects, and what happened to each.
    pub objects: BTreeMap<Object, Action>,
    /// More changed than `objects` has space for.
    pub more: bool,
}

impl Changes {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty() && !self.more
    }

    /// Whether the table was deleted.
    pub fn deleted_table(&self) -> bool {
        self.objects.get(&Object::Table).is_some_and(|action| action.deleted)
    }

    /// Whether this part of the table, or possibly it, changed.
    pub fn has(&self, object: &Object) -> bool {
        self.more || self.objects.contains_key(object)
    }

    /// Adds a change.
    pub fn add(&mut self, object: Object, action: Action) {
        if self.objects.len() >= MAX_OBJECTS && !self.objects.contains_key(&object) {
            self.more = true;
            return;
        }
        let known = self.objects.entry(object).or_default();
        *known = Action { added: known.added || action.added, deleted: known.deleted || action.deleted };
    }

    /// Adds the changes of another transaction.
    pub fn merge(&mut self, other: Changes) {
        self.more |= other.more;
        other.objects.into_iter().for_each(|(object, action)| self.add(object, action));
    }
}

/// The first few changes, for messages.
impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 3;
        // What is deleted goes with all that is in it.
        let implied = |object: &Object| match object {
            Object::Rules(chain) => self.objects.contains_key(&Object::Chain(chain.clone())),
            Object::Elements(set) => self.objects.contains_key(&Object::Set(set.clone())),
            _ => false,
        };
        if self.deleted_table() {
            return f.write_str("the table was deleted");
        }
        let told: Vec<_> = self.objects.iter().filter(|(object, _)| !implied(object)).collect();
        for (at, (object, action)) in told.iter().take(SHOWN).enumerate() {
            f.write_str(if at > 0 { ", " } else { "" })?;
            let verb = match (action.added, action.deleted) {
                (true, true) => "replaced",
                (false, true) => "deleted",
                (_, false) => "added",
            };
            match object {
                Object::Table => f.write_str("the table's flags were set")?,
                Object::Chain(name) if action.deleted => write!(f, "chain {} was {verb}", name.escape_default())?,
                Object::Chain(name) => write!(f, "chain {} was added or changed", name.escape_default())?,
                Object::Set(name) => write!(f, "set or map {} was {verb}", name.escape_default())?,
                Object::Stateful(name) => write!(f, "object {} was {verb}", name.escape_default())?,
                Object::Flowtable(name) => write!(f, "flowtable {} was {verb}", name.escape_default())?,
                Object::Rules(chain) => write!(f, "rules of chain {} were {verb}", chain.escape_default())?,
                Object::Elements(set) => write!(f, "elements of {} were {verb}", set.escape_default())?,
            }
        }
        match told.len().saturating_sub(SHOWN) {
            _ if self.more => f.write_str(" and much more"),
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

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
    /// The netlink port that it came from: mostly the process's id in its own PID namespace.
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
    /// Notifications were lost: anything can have happened in the generations after the first number, up to the second.
    pub lost: Option<(u32, u32)>,
    /// There may be more to read: call again.
    pub more: bool,
}

/// A subscription to the changes of one table of the family `inet`.
pub struct TableWatch {
    events: OwnedFd,
    queries: Tables,
    buffer: Vec<u8>,
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
        let events = socket::open(Some(netlink::NETFILTER), SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
        // A smaller buffer overruns sooner, which is noticed.
        let _ = set_socket_recv_buffer_size_force(&events, RECEIVE_BUFFER);
        socket::connect(&events, GROUP)?;
        let mut queries = Tables::open()?;
        let reader =
            Reader { table: [name.as_bytes(), &[0]].concat(), seen: queries.generation()?, ..Reader::default() };
        let lost_after = after.filter(|after| *after != reader.seen);
        Ok(TableWatch { events, queries, buffer: vec![0; BUFFER], reader, lost_after })
    }

    /// Reads what happened since the last call. Does not block.
    ///
    /// # Errors
    /// The operating system's error.
    pub fn read(&mut self) -> io::Result<Watched> {
        let mut watched = Watched::default();
        let mut drained = false;
        for _ in 0..MAX_DATAGRAMS {
            match socket::receive(&self.events, &mut self.buffer, RecvFlags::DONTWAIT) {
                Ok(length) => self.reader.datagram(&self.buffer[..length], &mut watched.transactions),
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    drained = true;
                    break;
                }
                // Too many notifications at once. It is reported before those that did fit.
                Err(error) if Errno::from_io_error(&error) == Some(Errno::NOBUFS) => {
                    self.lost_after.get_or_insert(self.reader.seen);
                }
                Err(error) => return Err(error),
            }
        }
        watched.more = !drained;
        if let Some(after) = self.lost_after {
            // What was read meanwhile can be the halves of two transactions.
            watched.transactions.clear();
            if drained {
                let until = self.queries.generation()?;
                self.reader.changes = Changes::default();
                self.reader.seen = until;
                self.lost_after = None;
                watched.lost = Some((after, until));
            }
        }
        Ok(watched)
    }

    /// The last generation that was read.
    pub fn generation(&self) -> u32 {
        self.reader.seen
    }

    /// Whether the table is there.
    ///
    /// # Errors
    /// The operating system's error.
    pub fn exists(&mut self) -> io::Result<bool> {
        self.queries.flags_by_name(&self.reader.table).map(|flags| flags.is_some())
    }
}

impl AsFd for TableWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}

impl fmt::Debug for TableWatch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("TableWatch").field("events", &self.events).finish_non_exhaustive()
    }
}

/// Reads a datagram of notifications, and prints what it reports. For the fuzz target.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(datagram: &[u8]) {
    let mut reader = Reader { table: b"proxygw\0".to_vec(), ..Reader::default() };
    let mut transactions = Vec::new();
    reader.datagram(datagram, &mut transactions);
    transactions.iter().for_each(|transaction| _ = transaction.changes.to_string());
}

/// Puts transactions together from their messages.
#[derive(Debug, Default)]
struct Reader {
    /// The table's name, with its final zero.
    table: Vec<u8>,
    /// The last generation that was reported.
    seen: u32,
    /// Changes so far of the transaction that is being reported.
    changes: Changes,
}

impl Reader {
    fn datagram(&mut self, datagram: &[u8], transactions: &mut Vec<Transaction>) {
        for message in Messages::new(datagram) {
            match message {
                Ok(message) => transactions.extend(self.message(&message)),
                // What cannot be read can be anything.
                Err(_) => self.changes.more = true,
            }
        }
    }

    /// Handles one message; at the end of a transaction that changed the table, returns it.
    fn message(&mut self, message: &Message<'_>) -> Option<Transaction> {
        const ADD: Action = Action { added: true, deleted: false };
        const DELETE: Action = Action { added: false, deleted: true };
        let kind = message.kind.checked_sub(SUBSYSTEM)?;
        let attributes = Attributes::after(message.payload, INET.len());
        if kind == NEW_GENERATION {
            return self.end(message, &attributes);
        }
        if message.payload.first() != INET.first() || attributes.clone().find(TABLE) != Some(&self.table) {
            return None;
        }
        let name = |attribute| attributes.clone().find(attribute).map(text).unwrap_or_default();
        let is_anonymous = || attributes.clone().find(SET_FLAGS).and_then(number).is_some_and(|f| f & ANONYMOUS != 0);
        let (object, action) = match kind {
            0 => (Object::Table, ADD),
            2 => (Object::Table, DELETE),
            3 => (Object::Chain(name(CHAIN_NAME)), ADD),
            5 => (Object::Chain(name(CHAIN_NAME)), DELETE),
            6 => (Object::Rules(name(RULE_CHAIN)), ADD),
            8 => (Object::Rules(name(RULE_CHAIN)), DELETE),
            // An anonymous set comes and goes with its rule.
            9 | 11 if is_anonymous() => return None,
            9 => (Object::Set(name(NAME)), ADD),
            11 => (Object::Set(name(NAME)), DELETE),
            12 => (Object::Elements(name(NAME)), ADD),
            14 => (Object::Elements(name(NAME)), DELETE),
            18 => (Object::Stateful(name(NAME)), ADD),
            20 => (Object::Stateful(name(NAME)), DELETE),
            22 => (Object::Flowtable(name(NAME)), ADD),
            24 => (Object::Flowtable(name(NAME)), DELETE),
            _ => return None,
        };
        self.changes.add(object, action);
        None
    }

    fn end(&mut self, message: &Message<'_>, attributes: &Attributes<'_>) -> Option<Transaction> {
        let find = |attribute| attributes.clone().find(attribute);
        let generation = find(GENERATION).and_then(number)?;
        self.seen = generation;
        let changes = std::mem::take(&mut self.changes);
        let id = find(PROCESS_ID).and_then(number);
        let process = id.map(|id| Process { id, name: find(PROCESS_NAME).map(text).unwrap_or_default() });
        (!changes.is_empty()).then_some(Transaction { process, port: message.port, generation, changes })
    }
}

/// `NFT_MSG_NEWGEN`.
const NEW_GENERATION: u16 = 15;

#[cfg(test)]
mod tests {
    use neli::consts::nl::NlmF;

    use super::super::super::message::Request;
    use super::*;

    const OURS: &[u8] = b"proxygw\0";

    fn reader() -> Reader {
        Reader { table: OURS.to_vec(), seen: 6, ..Reader::default() }
    }

    fn message(kind: u16, attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let request = Request::new(SUBSYSTEM | kind, &INET);
        let mut request = attributes.iter().fold(request, |request, (kind, value)| request.attribute(*kind, value));
        request.finish(NlmF::empty(), 1).to_vec()
    }

    fn end(generation: u32) -> Vec<u8> {
        let id = 412u32.to_be_bytes();
        message(NEW_GENERATION, &[(GENERATION, &generation.to_be_bytes()), (PROCESS_ID, &id), (PROCESS_NAME, b"nft\0")])
    }

    fn read(reader: &mut Reader, messages: &[Vec<u8>]) -> Vec<Transaction> {
        let mut transactions = Vec::new();
        reader.datagram(&messages.concat(), &mut transactions);
        transactions
    }

    #[test]
    fn a_transaction_names_its_process_and_what_it_changed() {
        let mut reader = reader();
        let messages = [
            message(8, &[(TABLE, OURS), (RULE_CHAIN, b"output\0")]),
            message(5, &[(TABLE, OURS), (CHAIN_NAME, b"output\0")]),
            message(12, &[(TABLE, OURS), (NAME, b"active_ip4\0")]),
            end(7),
        ];
        let transactions = read(&mut reader, &messages);
        assert_eq!(transactions.len(), 1);
        assert_eq!(transactions[0].process.as_ref().map(Process::to_string).as_deref(), Some("nft (pid 412)"));
        assert_eq!((transactions[0].generation, reader.seen), (7, 7));
        let told = transactions[0].changes.to_string();
        assert_eq!(told, "chain output was deleted, elements of active_ip4 were added");
    }

    #[test]
    fn a_transaction_may_come_in_many_datagrams() {
        let mut reader = reader();
        assert!(read(&mut reader, &[message(2, &[(TABLE, OURS)])]).is_empty());
        let transactions = read(&mut reader, &[end(8)]);
        assert!(transactions[0].changes.deleted_table());
        assert_eq!(transactions[0].changes.to_string(), "the table was deleted");
        assert!(read(&mut reader, &[end(9)]).is_empty());
    }

    #[test]
    fn transactions_on_other_tables_and_families_are_not_reported() {
        let mut reader = reader();
        let other = message(2, &[(TABLE, b"filter\0")]);
        let mut ip = message(2, &[(TABLE, OURS)]);
        ip[16] = 2;
        let anonymous = message(9, &[(TABLE, OURS), (NAME, b"__set0\0"), (SET_FLAGS, &1u32.to_be_bytes())]);
        assert!(read(&mut reader, &[other, ip, anonymous, end(7)]).is_empty());
        assert_eq!(reader.seen, 7);
    }

    #[test]
    fn a_garbled_datagram_can_be_anything() {
        let mut reader = reader();
        read(&mut reader, &[vec![1, 2, 3]]);
        let transactions = read(&mut reader, &[end(7)]);
        assert!(transactions[0].changes.more && transactions[0].changes.has(&Object::Table));
    }

    #[test]
    fn the_number_of_objects_is_bounded_and_control_characters_are_escaped() {
        let mut changes = Changes::default();
        for index in 0..10_000 {
            changes.add(Object::Chain(format!("\n{index}")), Action { added: true, deleted: true });
        }
        assert_eq!(changes.objects.len(), MAX_OBJECTS);
        assert!(changes.more && changes.has(&Object::Rules("x".to_owned())));
        let told = changes.to_string();
        assert!(told.starts_with("chain \\n0 was replaced, ") && told.ends_with(" and much more"), "{told}");
    }
}
