//! Being told when a table of nftables is deleted: firewalls that are loaded anew often begin with `flush ruleset`.
//!
//! Numbers are those of linux/netfilter/nf_tables.h and linux/netfilter/nfnetlink.h.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{RecvFlags, SocketFlags, netlink};

use super::message::{Attributes, Messages, Request};
use super::socket::{self, BUFFER, Socket};

/// `NFNLGRP_NFTABLES` (number 7) as a bit of `nl_groups`.
const GROUP: u32 = 1 << 6;

/// `NFNL_SUBSYS_NFTABLES`, and in it `NFT_MSG_GETTABLE` and `NFT_MSG_DELTABLE`.
const GET_TABLE: u16 = 10 << 8 | 1;
const DELETE_TABLE: u16 = 10 << 8 | 2;

/// `NFTA_TABLE_NAME`.
const TABLE_NAME: u16 = 1;

/// `struct nfgenmsg`: the family `NFPROTO_INET`, version 0, resource 0.
const INET: [u8; 4] = [1, 0, 0, 0];

/// Watches one table of the family `inet`.
pub struct TableWatch {
    events: OwnedFd,
    questions: Socket,
    buffer: Vec<u8>,
    name: Vec<u8>,
}

impl TableWatch {
    /// Watches the table of this name in the calling thread's network namespace.
    ///
    /// # Errors
    /// What the operating system said: `PermissionDenied` without `CAP_NET_ADMIN`; no nftables in the kernel.
    pub fn open(name: &str) -> io::Result<TableWatch> {
        let events = socket::open(Some(netlink::NETFILTER), SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
        rustix::net::bind(&events, &SocketAddrNetlink::new(0, GROUP))?;
        rustix::net::connect(&events, &SocketAddrNetlink::new(0, 0))?;
        let questions = Socket::open(Some(netlink::NETFILTER))?;
        let name = [name.as_bytes(), &[0]].concat();
        Ok(TableWatch { events, questions, buffer: vec![0; BUFFER], name })
    }

    /// Reads what has happened since the last call, and tells whether the table was deleted and is not there now. Does not
    /// block.
    ///
    /// # Errors
    /// What the operating system said.
    pub fn is_lost(&mut self) -> io::Result<bool> {
        let mut suspicious = false;
        loop {
            match socket::receive(&self.events, &mut self.buffer, RecvFlags::DONTWAIT) {
                Ok(length) => suspicious |= deletes(&self.buffer[..length], &self.name),
                Err(error) if error.kind() == io::ErrorKind::TimedOut => break,
                // Too many events at once: any of them could have been the one.
                Err(error) if error.raw_os_error() == Some(Errno::NOBUFS.raw_os_error()) => suspicious = true,
                Err(error) => return Err(error),
            }
        }
        Ok(suspicious && !self.exists()?)
    }

    fn exists(&mut self) -> io::Result<bool> {
        let mut request = Request::new(GET_TABLE, &INET).attribute(TABLE_NAME, &self.name);
        match self.questions.request(&mut request, &mut |_| {}) {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Whether one of these messages says that the table was deleted.
fn deletes(datagram: &[u8], name: &[u8]) -> bool {
    // What cannot be read could be the one.
    Messages::new(datagram).any(|message| {
        message.map_or(true, |message| {
            let named = Attributes::after(message.payload, INET.len()).find(TABLE_NAME) == Some(name);
            message.kind == DELETE_TABLE && message.payload.first() == INET.first() && named
        })
    })
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
