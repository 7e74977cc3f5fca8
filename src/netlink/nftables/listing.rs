//! Queries about the tables of the family `inet`: the generation of the rule sets, and the structure of one table.
//!
//! nft is not used: 1.0.6 can abort while it lists other programs' tables, and its listings depend on the host's files.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;

use neli::consts::nl::NlmF;
use rustix::io::Errno;
use rustix::net::netlink;

use super::numbers::{
    ACCEPT, ANONYMOUS, CHAIN_HOOK, CHAIN_NAME, CHAIN_POLICY, CHAIN_TYPE, DELETE_TABLE, GENERATION, GET_GENERATION,
    GET_TABLE, HOOK_NUMBER, HOOK_PRIORITY, INET, NAME, RULE_CHAIN, SET_FLAGS, TABLE, TABLE_FLAGS,
};
use crate::netlink::message::{Attributes, Message, Request};
use crate::netlink::netfilter::{NFTABLES, attributes};
use crate::netlink::socket::{Socket, unless};

/// `NFT_MSG_GET…`.
const GET_CHAIN: u16 = NFTABLES | 4;
const GET_RULE: u16 = NFTABLES | 7;
const GET_SET: u16 = NFTABLES | 10;
const GET_OBJECT: u16 = NFTABLES | 19;
const GET_FLOWTABLE: u16 = NFTABLES | 23;

/// `NFTA_OBJ_TYPE`.
const OBJECT_TYPE: u16 = 3;

/// `NFT_TABLE_F_DORMANT`.
const DORMANT: u32 = 1;

/// `NFT_SET_MAP` and `NFT_SET_OBJECT`.
const MAP: u32 = 0x8 | 0x40;

/// The structure of a table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// The table is switched off (`flags dormant`).
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
    /// Verdict on packets that no rule decided about.
    pub policy: Policy,
}

/// Policy of a base chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// `NF_ACCEPT`.
    Accept,
    /// `NF_DROP`.
    Drop,
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

    #[cfg(test)]
    pub(super) fn over(socket: Socket) -> Tables {
        Tables(socket)
    }

    /// The number of the last transaction on any table of the network namespace.
    ///
    /// # Errors
    /// The operating system's error; `InvalidData` if the kernel sends no number.
    pub fn generation(&mut self) -> io::Result<u32> {
        let request = Request::new(GET_GENERATION, &INET);
        let found = self.0.find(request, &[], |message| attributes(message).be32(GENERATION))?;
        found.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "nftables reports no generation"))
    }

    /// The structure of the table of this name, without the numbers of rules; `None` if there is no such table.
    ///
    /// # Errors
    /// The operating system's error.
    pub fn list(&mut self, table: &str) -> io::Result<Option<Listing>> {
        let Some(flags) = self.flags(table)? else { return Ok(None) };
        let chain = |found: &Attributes<'_>| Some((found.text(CHAIN_NAME)?, Chain { base: base(found), rules: 0 }));
        let set = |found: &Attributes<'_>| {
            let flags = found.be32(SET_FLAGS).unwrap_or_default();
            let kind = if flags & MAP != 0 { SetKind::Map } else { SetKind::Set };
            found.text(NAME).filter(|_| flags & ANONYMOUS == 0).map(|name| (name, kind))
        };
        Ok(Some(Listing {
            dormant: flags & DORMANT != 0,
            chains: self.objects(GET_CHAIN, table, chain)?,
            sets: self.objects(GET_SET, table, set)?,
            objects: self.objects(GET_OBJECT, table, |found| found.text(NAME).zip(found.be32(OBJECT_TYPE)))?,
            flowtables: self.objects(GET_FLOWTABLE, table, |found| found.text(NAME))?,
        }))
    }

    /// Counts the rules of each chain of a table.
    ///
    /// # Errors
    /// The operating system's error.
    pub fn count_rules(&mut self, table: &str, listing: &mut Listing) -> io::Result<()> {
        let chains: Vec<_> = self.objects(GET_RULE, table, |found| found.text(RULE_CHAIN))?;
        listing.chains.values_mut().for_each(|chain| chain.rules = 0);
        chains.into_iter().for_each(|chain| listing.chains.entry(chain).or_default().rules += 1);
        Ok(())
    }

    /// The flags of the table of this name; `None` if there is no such table.
    pub(super) fn flags(&mut self, table: &str) -> io::Result<Option<u32>> {
        let request = Request::new(GET_TABLE, &INET).string(TABLE, table);
        let flags = |message: &Message<'_>| Some(attributes(message).be32(TABLE_FLAGS).unwrap_or_default());
        self.0.find(request, &[Errno::NOENT], flags)
    }

    /// The values that `parse` finds in the table's objects of one kind. Older kernels dump those of all tables.
    fn objects<T, C: FromIterator<T>>(
        &mut self,
        kind: u16,
        table: &str,
        parse: impl Fn(&Attributes<'_>) -> Option<T>,
    ) -> io::Result<C> {
        let found = self.0.list(Request::new(kind, &INET).string(TABLE, table), |message| {
            let found = attributes(message);
            let is_ours = message.payload.first() == INET.first() && found.text(TABLE).as_deref() == Some(table);
            if is_ours { parse(&found) } else { None }
        })?;
        Ok(found.into_iter().collect())
    }
}

/// Deletes a table of the family `inet` with all that is in it, from the calling thread's network namespace. Needs no other
/// program, and only one descriptor.
///
/// # Errors
/// The kernel's error. A table that does not exist is no error.
pub fn delete_table(name: &str) -> io::Result<()> {
    delete_table_over(&mut Socket::open(Some(netlink::NETFILTER))?, name)
}

fn delete_table_over(socket: &mut Socket, name: &str) -> io::Result<()> {
    let request = Request::new(DELETE_TABLE, &INET).string(TABLE, name);
    unless(&[Errno::NOENT], socket.commit(vec![(request, NlmF::empty())])).map(drop)
}

impl fmt::Display for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const HOOKS: [&str; 5] = ["prerouting", "input", "forward", "output", "postrouting"];
        let hook = HOOKS.get(self.hook as usize).copied().unwrap_or("another hook");
        let policy = if self.policy == Policy::Accept { "accept" } else { "drop" };
        write!(f, "type {} hook {hook} priority {}; policy {policy}", self.kind.escape_default(), self.priority)
    }
}

fn base(chain: &Attributes<'_>) -> Option<Base> {
    let hook = chain.find_nested(CHAIN_HOOK)?;
    Some(Base {
        kind: chain.text(CHAIN_TYPE).unwrap_or_default(),
        hook: hook.be32(HOOK_NUMBER)?,
        priority: hook.be32(HOOK_PRIORITY)?.cast_signed(),
        policy: if chain.be32(CHAIN_POLICY) == Some(ACCEPT) { Policy::Accept } else { Policy::Drop },
    })
}

#[cfg(test)]
mod tests;
