//! Being told of each DNATed flow that begins, changes and ends.

use std::fmt;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use neli::consts::nl::NlmF;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SocketFlags, netlink};

use super::{DELETE, Entry, NEW, filter};
use crate::netlink::message::{Message, Messages};
use crate::netlink::socket::{self, BUFFER};

/// The groups `NFNLGRP_CONNTRACK_NEW`, `_UPDATE` and `_DESTROY` (numbers 1 to 3) as the bits of `nl_groups`.
const GROUPS: u32 = 0b111;

/// How many bytes of unread events the kernel is asked to keep. It counts close to 1 KiB for each.
const KEPT: usize = 8 * 1024 * 1024;

/// A change in the conntrack table that concerns a DNATed flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A flow began.
    New(Entry),
    /// A flow was answered, assured, or (TCP) changed its state.
    Update(Entry),
    /// An entry is gone. This can come late: the kernel removes an expired entry when it next happens upon it.
    Destroy(Entry),
    /// Events were lost because too many were unread (`ENOBUFS`): dump, and compare. Events that are kept still follow.
    Overrun,
}

/// A socket that receives the events of DNATed flows of one network namespace.
///
/// It becomes readable when there is one. Flows that are older than the subscription may never have an event: with
/// `net.netfilter.nf_conntrack_events=2`, the default since Linux 5.19, an entry reports only if some subscription
/// existed when it was made. So dump after opening, and ask of those flows again when they could have expired.
pub struct Subscription {
    fd: OwnedFd,
    buffer: Vec<u8>,
    /// What of the buffer was received and not read yet.
    unread: Range<usize>,
}

impl Subscription {
    /// Subscribes in the calling thread's network namespace.
    ///
    /// # Errors
    /// The operating system's error: `PermissionDenied` without `CAP_NET_ADMIN`; no netfilter netlink in the kernel.
    pub fn open() -> io::Result<Subscription> {
        let fd = socket::open(Some(netlink::NETFILTER), SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
        // Before joining, so that nothing foreign is ever queued.
        filter::only_dnat(&fd)?;
        socket::set_receive_buffer(&fd, KEPT)?;
        socket::connect(&fd, GROUPS)?;
        Ok(Subscription { fd, buffer: vec![0; BUFFER], unread: 0..0 })
    }

    /// The next event, or `None` if none waits; does not block.
    ///
    /// # Errors
    /// The operating system's error; `InvalidData` for a message that could not be read, after which the next can be.
    pub fn recv(&mut self) -> io::Result<Option<Event>> {
        loop {
            let unread = std::mem::take(&mut self.unread);
            let mut messages = Messages::new(&self.buffer[unread.clone()]);
            while let Some(message) = messages.next() {
                let event = parse(&message?);
                if event.is_some() {
                    self.unread = unread.end - messages.left()..unread.end;
                    return Ok(event);
                }
            }
            match socket::receive(&self.fd, &mut self.buffer, RecvFlags::DONTWAIT) {
                Ok(length) => self.unread = 0..length,
                Err(error) if error.kind() == io::ErrorKind::TimedOut => return Ok(None),
                Err(error) if Errno::from_io_error(&error) == Some(Errno::NOBUFS) => {
                    return Ok(Some(Event::Overrun));
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// The event in a message; `None` if it is none of ours.
pub(in crate::netlink) fn parse(message: &Message<'_>) -> Option<Event> {
    let entry = Entry::parse(message.payload).filter(|entry| entry.status.dnat())?;
    match message.kind {
        NEW if message.flags.contains(NlmF::CREATE) => Some(Event::New(entry)),
        NEW => Some(Event::Update(entry)),
        DELETE => Some(Event::Destroy(entry)),
        _ => None,
    }
}

impl AsFd for Subscription {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Subscription").field("fd", &self.fd).finish_non_exhaustive()
    }
}
