//! Notifications of what changes in one table of the family `inet`.
//!
//! The kernel sends the messages of a transaction when it is committed, and `NFT_MSG_NEWGEN` after them, which names the
//! generation that the transaction makes and the process that committed it.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::net::netlink;

use super::changes::{Action, Changes, Object};
use super::{ANONYMOUS, CHAIN_NAME, GENERATION, INET, NAME, RULE_CHAIN, SET_FLAGS, TABLE, Tables, text};
use crate::netlink::events::{EventSocket, Received};
use crate::netlink::message::{Attributes, Message, Messages, be32};
use crate::netlink::netfilter::{NFTABLES, attributes};

/// `NFNLGRP_NFTABLES` (number 7) as a bit of `nl_groups`.
const GROUP: u32 = 1 << 6;

/// The receive buffer in bytes: the notifications of a table of some thousand frontends. Memory is used only while
/// notifications wait.
const RECEIVE_BUFFER: usize = 4 << 20;

/// Maximum number of datagrams that one call of [`TableWatch::read`] reads.
const MAX_DATAGRAMS: usize = 4096;

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
    events: EventSocket,
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
        let events = EventSocket::open(Some(netlink::NETFILTER))?;
        // A smaller buffer overruns sooner, which is noticed.
        let _ = events.set_receive_buffer(RECEIVE_BUFFER);
        TableWatch::over(events.join(GROUP)?, Tables::open()?, name, after)
    }

    fn over(events: EventSocket, mut queries: Tables, name: &str, after: Option<u32>) -> io::Result<TableWatch> {
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
            match self.events.receive(|datagram| self.reader.datagram(datagram, &mut watched.transactions))? {
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

    /// Whether the table exists.
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
        use Action::{Added, Deleted};
        let kind = message.kind.checked_sub(NFTABLES)?;
        let attributes = attributes(message);
        if kind == NEW_GENERATION {
            return self.end(message, &attributes);
        }
        let name = |attribute| attributes.find(attribute).map(text).unwrap_or_default();
        if message.payload.first() != INET.first() || name(TABLE) != self.table {
            return None;
        }
        // An anonymous set is a part of its rule. Only the message of its creation has its flags; nft names it like this.
        let is_anonymous = || {
            attributes.find(SET_FLAGS).and_then(be32).is_some_and(|flags| flags & ANONYMOUS != 0)
                || ["__set", "__map"].iter().any(|prefix| name(NAME).starts_with(prefix))
        };
        let (object, action) = match kind {
            0 => (Object::Table, Added),
            2 => (Object::Table, Deleted),
            3 => (Object::Chain(name(CHAIN_NAME)), Added),
            5 => (Object::Chain(name(CHAIN_NAME)), Deleted),
            6 => (Object::Rules(name(RULE_CHAIN)), Added),
            8 => (Object::Rules(name(RULE_CHAIN)), Deleted),
            9 | 11 | 12 | 14 if is_anonymous() => return None,
            9 => (Object::Set(name(NAME)), Added),
            11 => (Object::Set(name(NAME)), Deleted),
            12 => (Object::Elements(name(NAME)), Added),
            14 => (Object::Elements(name(NAME)), Deleted),
            18 => (Object::Stateful(name(NAME)), Added),
            20 => (Object::Stateful(name(NAME)), Deleted),
            22 => (Object::Flowtable(name(NAME)), Added),
            24 => (Object::Flowtable(name(NAME)), Deleted),
            _ => return None,
        };
        self.changes.add(object, action);
        None
    }

    fn end(&mut self, message: &Message<'_>, attributes: &Attributes<'_>) -> Option<Transaction> {
        let generation = attributes.find(GENERATION).and_then(be32)?;
        self.seen = generation;
        let changes = std::mem::take(&mut self.changes);
        let id = attributes.find(PROCESS_ID).and_then(be32);
        let process = id.map(|id| Process { id, name: attributes.find(PROCESS_NAME).map(text).unwrap_or_default() });
        (!changes.is_empty()).then_some(Transaction { process, port: message.port, generation, changes })
    }
}

/// `NFT_MSG_NEWGEN`.
const NEW_GENERATION: u16 = 15;

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;
    use std::thread::JoinHandle;

    use neli::consts::nl::NlmF;

    use super::*;
    use crate::netlink::message::Request;
    use crate::netlink::recorded::{played, recorded};

    const OURS: &[u8] = b"proxygw\0";

    fn reader() -> Reader {
        Reader::new("proxygw", 6)
    }

    fn message(kind: u16, attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let request = Request::new(NFTABLES | kind, &INET);
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
        let printed = transactions[0].changes.to_string();
        assert_eq!(printed, "chain output was deleted, elements of active_ip4 were added");
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
    fn recorded_transactions_name_each_object_and_its_process() {
        let mut transactions = Vec::new();
        let mut reader = Reader::new("proxygw", 0);
        recorded!("nft_events").iter().for_each(|datagram| reader.datagram(datagram, &mut transactions));
        let printed: Vec<_> = transactions.iter().map(|transaction| transaction.changes.to_string()).collect();
        let expected = [
            "the table's flags were set, chain cold-x was added or changed, chain forward was added or changed and 4 more",
            "elements of cold were added",
            "elements of cold were deleted",
            "rules of chain forward were deleted",
            "chain output was deleted",
            "set or map known was deleted",
            "object slow was deleted",
            "the table was deleted",
        ];
        assert_eq!(printed, expected);
        let objects: Vec<_> = transactions[0].changes.objects.keys().cloned().collect();
        let name = str::to_owned;
        let created = [
            Object::Table,
            Object::Chain(name("cold-x")),
            Object::Chain(name("forward")),
            Object::Chain(name("output")),
            Object::Set(name("cold")),
            Object::Set(name("known")),
            Object::Stateful(name("slow")),
            Object::Rules(name("cold-x")),
            Object::Rules(name("forward")),
            Object::Elements(name("known")),
        ];
        assert_eq!(objects, created);
        for (before, after) in transactions.iter().zip(&transactions[1..]) {
            assert!(before.generation < after.generation && after.generation <= reader.seen);
        }
        let process = transactions[0].process.as_ref().expect("named");
        assert!(process.name == "nft" && process.id > 1 && transactions[0].port > 0);
    }

    #[test]
    fn each_message_is_a_change_of_its_object() {
        use Action::{Added, Deleted};
        let name = || "x".to_owned();
        for (kind, attribute, object, action) in [
            (0, NAME, Object::Table, Added),
            (2, NAME, Object::Table, Deleted),
            (3, CHAIN_NAME, Object::Chain(name()), Added),
            (5, CHAIN_NAME, Object::Chain(name()), Deleted),
            (6, RULE_CHAIN, Object::Rules(name()), Added),
            (8, RULE_CHAIN, Object::Rules(name()), Deleted),
            (9, NAME, Object::Set(name()), Added),
            (11, NAME, Object::Set(name()), Deleted),
            (12, NAME, Object::Elements(name()), Added),
            (14, NAME, Object::Elements(name()), Deleted),
            (18, NAME, Object::Stateful(name()), Added),
            (20, NAME, Object::Stateful(name()), Deleted),
            (22, NAME, Object::Flowtable(name()), Added),
            (24, NAME, Object::Flowtable(name()), Deleted),
        ] {
            let transactions = read(&mut reader(), &[message(kind, &[(TABLE, OURS), (attribute, b"x\0")]), end(7)]);
            assert_eq!(transactions[0].changes.objects, [(object, action)].into(), "{kind}");
        }
        // A set with other flags, and messages of other kinds and subsystems.
        let set = message(9, &[(TABLE, OURS), (NAME, b"x\0"), (SET_FLAGS, &0xeu32.to_be_bytes())]);
        assert_eq!(read(&mut reader(), &[set, end(7)]).len(), 1);
        let mut other = message(2, &[(TABLE, OURS)]);
        other[5] = 9;
        let anonymous = message(9, &[(TABLE, OURS), (NAME, b"x\0"), (SET_FLAGS, &1u32.to_be_bytes())]);
        let map = message(12, &[(TABLE, OURS), (NAME, b"__map1\0")]);
        assert!(read(&mut reader(), &[message(1, &[(TABLE, OURS)]), other, anonymous, map, end(7)]).is_empty());
    }

    /// A watch of the notifications that the socket sends, and a kernel that reports these generations.
    fn watch(generations: &[u32], after: Option<u32>) -> (TableWatch, UnixDatagram, JoinHandle<Vec<Vec<u8>>>) {
        let report = |generation: &u32| {
            let acknowledged = Request::new(2, &[0; 4]).finish(NlmF::empty(), 0).to_vec();
            let report = Request::new(NFTABLES | NEW_GENERATION, &INET).be32(GENERATION, *generation);
            vec![{ report }.finish(NlmF::empty(), 0).to_vec(), acknowledged]
        };
        let (queries, kernel) = played(generations.iter().map(report).collect());
        let (near, far) = UnixDatagram::pair().expect("a pair");
        let events = EventSocket::over(near.into());
        (TableWatch::over(events, Tables::over(queries), "proxygw", after).expect("a watch"), far, kernel)
    }

    #[test]
    fn a_watch_reads_what_waits_and_then_nothing() {
        let (mut watch, notifications, kernel) = watch(&[6], Some(6));
        assert_eq!(watch.generation(), 6);
        let watched = watch.read().expect("read");
        assert!(watched.transactions.is_empty() && watched.lost.is_none() && !watched.more);
        notifications.send(&message(2, &[(TABLE, OURS)])).expect("sent");
        notifications.send(&end(7)).expect("sent");
        let watched = watch.read().expect("read");
        assert!(watched.transactions.len() == 1 && watched.lost.is_none() && !watched.more);
        assert_eq!(watch.generation(), 7);
        kernel.join().expect("played");
    }

    #[test]
    fn a_watch_finds_out_whether_its_table_exists() {
        for (recorded, exists) in [(recorded!("nft_table"), true), (recorded!("nft_no_table"), false)] {
            let (queries, kernel) = played(vec![recorded]);
            let (near, _far) = UnixDatagram::pair().expect("a pair");
            let (events, queries) = (EventSocket::over(near.into()), Tables::over(queries));
            let mut watch = TableWatch { events, queries, reader: reader(), lost_after: None };
            assert_eq!(watch.exists().expect("a result"), exists);
            // NFT_MSG_GETTABLE of the table
            assert_eq!(kernel.join().expect("played")[0][24..], *b"proxygw\0");
        }
    }

    #[test]
    fn changes_between_two_watches_count_as_lost() {
        let (mut watch, notifications, kernel) = watch(&[9, 11], Some(6));
        notifications.send(&message(2, &[(TABLE, OURS)])).expect("sent");
        notifications.send(&end(10)).expect("sent");
        notifications.send(&message(5, &[(TABLE, OURS), (CHAIN_NAME, b"x\0")])).expect("sent");
        let watched = watch.read().expect("read");
        assert_eq!((watched.lost, watched.transactions.len()), (Some((6, 11)), 0), "halves are dropped");
        assert_eq!(watch.generation(), 11);
        notifications.send(&end(12)).expect("sent");
        let watched = watch.read().expect("read");
        assert!(watched.transactions.is_empty() && watched.lost.is_none(), "once");
        kernel.join().expect("played");
    }
}
