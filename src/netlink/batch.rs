//! A transaction of nftables over netlink: all of its messages take effect, or none.
//!
//! Numbers are those of linux/netfilter/nfnetlink.h.

use std::io;
use std::os::fd::OwnedFd;

use neli::consts::nl::NlmF;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{RecvFlags, SendFlags};

use super::message::{Messages, Request};
use super::socket::{self, TIMEOUT};

/// `NFNL_MSG_BATCH_BEGIN` and `NFNL_MSG_BATCH_END`.
const BEGIN: u16 = 16;
const END: u16 = 17;

/// `NFNL_SUBSYS_NFTABLES`: the upper byte of its messages' types, and the resource of a batch.
pub(super) const NFTABLES: u8 = 10;

/// Sends messages as one transaction, and waits for the kernel's acknowledgement of the last one: an error of any other is
/// reported before it.
///
/// # Errors
/// The kernel's error for the first message that it refused; `TimedOut` after [`TIMEOUT`].
pub(super) fn commit(fd: &OwnedFd, mut messages: Vec<(Request, NlmF)>) -> io::Result<()> {
    const ERROR: u16 = 2;
    // A passed socket can still hold an acknowledgement that the process before this one did not read.
    let sequence = std::process::id();
    let limit = |kind| (Request::new(kind, &[0, 0, 0, NFTABLES]), NlmF::empty());
    if let Some((_, flags)) = messages.last_mut() {
        *flags |= NlmF::ACK;
    }
    let mut bytes = Vec::new();
    for (mut message, flags) in std::iter::once(limit(BEGIN)).chain(messages).chain([limit(END)]) {
        bytes.extend_from_slice(message.finish(NlmF::REQUEST | flags, sequence));
    }
    set_socket_timeout(fd, Timeout::Recv, Some(TIMEOUT))?;
    rustix::io::retry_on_intr(|| rustix::net::send(fd, &bytes, SendFlags::empty()))?;
    let mut buffer = vec![0; socket::BUFFER];
    loop {
        let length = socket::receive(fd, &mut buffer, RecvFlags::empty())?;
        for message in Messages::new(&buffer[..length]) {
            let message = message?;
            if message.kind == ERROR && message.sequence == sequence {
                return match message.payload.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes)) {
                    Some(0) => Ok(()),
                    Some(number) => Err(io::Error::from_raw_os_error(number.saturating_neg())),
                    None => Err(io::ErrorKind::InvalidData.into()),
                };
            }
        }
    }
}
