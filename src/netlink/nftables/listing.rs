//! Queries about the tables of the family `inet`: the generation of the rule sets, and the structure of one table.
//!
//! nft is not used: 1.0.6 can abort while it lists other programs' tables, and its listings depend on the host's files.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;

use neli::consts::nl::NlmF;
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{SocketFlags, netlink};

use super::super::batch;
use super::super::message::{Attributes, Message, Request};
use super::super::socket::{self, Socket};
use super::{
    ANONYMOUS, CHAIN_HOOK, CHAIN_NAME, CHAIN_POLICY, CHAIN_TYPE, GET_GENERATION, GET_TABLE, HOOK_NUMBER, HOOK_PRIORITY,
    INET, NAME, OBJECT_TYPE, RULE_CHAIN, SET_FLAGS, SUBSYSTEM, TABLE, TABLE_FLAGS, number, text,
};

/// `NFT_MSG_DELTABLE`.
const DELETE_TABLE: u16 = SUBSYSTEM | 2;
/// `NFT_MSG_GET…`.
const GET_CHAIN: u16 = SUBSYSTEM | 4;
const GET_RULE: u16 = SUBSYSTEM | 7;
const GET_SET: u16 = SUBSYSTEM | 10;
const GET_OBJECT: u16 = SUBSYSTEM | 19;
const GET_FLOWTABLE: u16 = SUBSYSTEM | 23;

/// `NFT_TABLE_F_DORMANT`.
const DORMANT: u32 = 1;

/// `NFT_SET_MAP` and `NFT_SET_OBJECT`.
const MAP: u32 = 0x8 | 0x40;

/// `NFTA_GEN_ID`.
const GENERATION: u16 = 1;

/// The structure of a table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// It is switched off (`flags dormant`).
    pub dormant: bool,
    /// Its chains.
    pub chains: BTreeMap<String, Chain>,
    /// Its named sets and maps.
    pub sets: BTreeMap<String, SetKind>,
    /// Its stateful objects by their name and type (`NFT_OBJECT_…`).
    pub objects: BTreeSet<(String, u32)>,
    /// Its flowtables.
    pub flowtables: BTreeSet<String>,
}

/// Kind of a named set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetKind {
    /// A set of keys.
    Set,
    /// Keys and values.
    Map,
}

/// A chain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chain {
    /// Its hook, if it is a base chain.
    pub base: Option<Base>,
    /// The number of its rules, once they are counted.
    pub rules: usize,
}

/// Hook of a base chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// `filter`, `nat` or `route`.
    pub kind: String,
    /// The hook's number (`NF_INET_…`).
    pub hook: u32,
    /// The priority at that hook.
    pub priority: i32,
    /// Whether packets that meet no verdict are accepted.
    pub accept: bool,
}

/// A socket for queries about tables.
#[derive(Debug)]
pub struct Tables(Socket);

impl Tables {
    /// A socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// The operating system's error.
    pub fn open() -> io::Result<Tables> {
        Socket::open(Some(netlink::NETFILTER)).map(Tables)
    }

    /// The number of the last transaction on any table of the network namespace.
    ///
    /// # Errors
    /// The operating system's error; `InvalidData` if the kernel sends no number.
    pub fn generation(&mut self) -> io::Result<u32> {
        let mut found = None;
        self.0.request(&mut Request::new(GET_GENERATION, &INET), &mut |message| {
            found = found.or(attributes(message).find(GENERATION).and_then(number));
        })?;
        found.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "nftables has no generation"))
    }

    /// The structure of the table of this name, without the numbers of rules; `None` if there is no such table.
    ///
    /// # Errors
    /// The operating system's error.
    pub fn list(&mut self, table: &str) -> io::Result<Option<Listing>> {
        let name = [table.as_bytes(), &[0]].concat();
        let Some(flags) = self.flags_by_name(&name)? else { return Ok(None) };
        let mut listing = Listing { dormant: flags & DORMANT != 0, ..Listing::default() };
        self.each(GET_CHAIN, &name, &mut |found| {
            if let Some(chain) = found.clone().find(CHAIN_NAME) {
                listing.chains.insert(text(chain), Chain { base: base(found), rules: 0 });
            }
        })?;
        self.each(GET_SET, &name, &mut |found| {
            let flags = found.clone().find(SET_FLAGS).and_then(number).unwrap_or_default();
            let set = found.clone().find(NAME).filter(|_| flags & ANONYMOUS == 0);
            let kind = if flags & MAP != 0 { SetKind::Map } else { SetKind::Set };
            listing.sets.extend(set.map(|set| (text(set), kind)));
        })?;
        self.each(GET_OBJECT, &name, &mut |found| {
            let kind = found.clone().find(OBJECT_TYPE).and_then(number);
            listing.objects.extend(found.clone().find(NAME).map(text).zip(kind));
        })?;
        self.each(GET_FLOWTABLE, &name, &mut |found| {
            listing.flowtables.extend(found.clone().find(NAME).map(text));
        })?;
        Ok(Some(listing))
    }

    /// Counts the rules of each chain of a table.
    ///
    /// # Errors
    /// The operating system's error.
    pub fn count_rules(&mut self, table: &str, listing: &mut Listing) -> io::Result<()> {
        let name = [table.as_bytes(), &[0]].concat();
        // A dump can be made again, so each rule counts once, by its handle.
        let mut rules = BTreeMap::<String, BTreeSet<Vec<u8>>>::new();
        self.each(GET_RULE, &name, &mut |found| {
            if let Some((chain, handle)) = found.clone().find(RULE_CHAIN).zip(found.clone().find(RULE_HANDLE)) {
                rules.entry(text(chain)).or_default().insert(handle.to_vec());
            }
        })?;
        for (chain, handles) in rules {
            listing.chains.entry(chain).or_default().rules = handles.len();
        }
        Ok(())
    }

    /// The flags of the table of this name, which ends with a zero; `None` if there is no such table.
    pub(super) fn flags_by_name(&mut self, name: &[u8]) -> io::Result<Option<u32>> {
        let mut flags = 0;
        let mut request = Request::new(GET_TABLE, &INET).attribute(TABLE, name);
        let result = self.0.request(&mut request, &mut |message| {
            flags = attributes(message).find(TABLE_FLAGS).and_then(number).unwrap_or_default();
        });
        match result {
            Ok(()) => Ok(Some(flags)),
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Gives `each` what the table has of one sort. Older kernels dump those of all tables.
    fn each(&mut self, kind: u16, table: &[u8], each: &mut dyn FnMut(&Attributes<'_>)) -> io::Result<()> {
        let mut request = Request::new(kind, &INET).attribute(TABLE, table);
        self.0.dump(&mut request, &mut |message| {
            let found = attributes(message);
            if message.payload.first() == INET.first() && found.clone().find(TABLE) == Some(table) {
                each(&found);
            }
        })
    }
}

/// Deletes a table of the family `inet` with all that is in it, from the calling thread's network namespace. Needs no other
/// program, and no descriptor but one.
///
/// # Errors
/// The kernel's error; a table that is not there is none.
pub fn delete_table(name: &str) -> io::Result<()> {
    let fd = socket::open(Some(netlink::NETFILTER), SocketFlags::CLOEXEC)?;
    rustix::net::connect(&fd, &SocketAddrNetlink::new(0, 0))?;
    let name = [name.as_bytes(), &[0]].concat();
    match batch::commit(&fd, vec![(Request::new(DELETE_TABLE, &INET).attribute(TABLE, &name), NlmF::empty())]) {
        Err(error) if error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => Ok(()),
        result => result,
    }
}

impl fmt::Display for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const HOOKS: [&str; 5] = ["prerouting", "input", "forward", "output", "postrouting"];
        let hook = HOOKS.get(self.hook as usize).copied().unwrap_or("another hook");
        let policy = if self.accept { "accept" } else { "drop" };
        write!(f, "type {} hook {hook} priority {}; policy {policy}", self.kind.escape_default(), self.priority)
    }
}

/// `NFTA_RULE_HANDLE`.
const RULE_HANDLE: u16 = 3;

fn attributes<'m>(message: &Message<'m>) -> Attributes<'m> {
    Attributes::after(message.payload, INET.len())
}

fn base(chain: &Attributes<'_>) -> Option<Base> {
    let hook = Attributes::nested(chain.clone().find(CHAIN_HOOK)?);
    Some(Base {
        kind: chain.clone().find(CHAIN_TYPE).map(text).unwrap_or_default(),
        hook: hook.clone().find(HOOK_NUMBER).and_then(number)?,
        priority: hook.find(HOOK_PRIORITY).and_then(number)?.cast_signed(),
        // NF_ACCEPT
        accept: chain.clone().find(CHAIN_POLICY).and_then(number) == Some(1),
    })
}
