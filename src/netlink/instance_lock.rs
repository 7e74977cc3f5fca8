//! One daemon per network namespace: there is one table in each.
//!
//! The lock is an NFLOG group that the daemon binds and to which no rule logs. The kernel lets one socket of a network namespace
//! bind a group, requires `CAP_NET_ADMIN` for it, and frees the group with the process: an unprivileged process cannot take it,
//! and a crash leaves nothing.

use std::fmt;
use std::io;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::netlink;

use super::message::Request;
use super::nftables::GET_GENERATION;
use super::socket::Socket;

/// The NFLOG group of the lock. `plugins.packet.group` must be another one.
pub const LOCK_GROUP: u16 = 28774;

/// `NFNL_SUBSYS_ULOG` and in it `NFULNL_MSG_CONFIG`; `NFULA_CFG_CMD`; `NFULNL_CFG_CMD_BIND`.
const CONFIG: u16 = 4 << 8 | 1;
const COMMAND: u16 = 1;
const BIND: u8 = 1;

/// The bound groups of the network namespace: one a line, the group's number and the owner's port id first.
const GROUPS: &str = "/proc/thread-self/net/netfilter/nfnetlink_log";

/// The netlink sockets of the network namespace: the protocol is the second column of a line, the port id the third. Every user
/// can read it.
const SOCKETS: &str = "/proc/thread-self/net/netlink";

/// `NETLINK_NETFILTER`.
const NETFILTER: &str = "12";

/// Time that a lock without a known owner is waited for, and the pause between two attempts.
const TIMEOUT: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(10);

/// The lock on the network namespace, held until this is dropped or the process ends.
#[derive(Debug)]
pub struct InstanceLock(#[allow(dead_code, reason = "the open socket is the lock")] Socket);

/// Reason why the lock is not to be had.
#[derive(Debug)]
pub enum LockError {
    /// Another process has it.
    Held(Option<Holder>),
    /// The process has no `CAP_NET_ADMIN` over the network namespace.
    NotPermitted,
    /// The kernel has no NFLOG.
    NoNflog,
    /// Any other error of the operating system.
    System(io::Error),
}

/// The process that holds the lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its process id.
    pub pid: u32,
    /// Its name (`/proc/PID/comm`).
    pub name: String,
}

impl fmt::Display for LockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LockError::Held(Some(holder)) if is_our_name(&holder.name) => {
                write!(f, "another proxygw runs in this network namespace (pid {})", holder.pid)
            }
            LockError::Held(Some(Holder { pid, name })) => write!(
                f,
                "NFLOG group {LOCK_GROUP}, which must be free for the one proxygw of a network namespace, belongs to {} \
                 (pid {pid})",
                name.escape_default()
            ),
            LockError::Held(None) => write!(
                f,
                "another proxygw runs in this network namespace, or another program has bound NFLOG group {LOCK_GROUP}"
            ),
            LockError::NotPermitted => f.write_str("cannot claim this network namespace: CAP_NET_ADMIN is missing"),
            LockError::NoNflog => {
                f.write_str("cannot claim this network namespace: the kernel has no NFLOG (module nfnetlink_log)")
            }
            LockError::System(error) => write!(f, "cannot claim this network namespace: {error}"),
        }
    }
}

impl std::error::Error for LockError {}

impl InstanceLock {
    /// Claims the calling thread's network namespace, and waits a moment for a lock whose owner has died: a process that it
    /// was about to start has a copy of its socket until it runs another program, which the kernel then closes.
    /// To be called before the process has another netlink socket: the kernel then uses the process id as the port id, by
    /// which a second daemon can name this one.
    ///
    /// # Errors
    /// Another process has the lock, or it is not to be had.
    pub fn claim() -> Result<InstanceLock, LockError> {
        let until = Instant::now() + TIMEOUT;
        loop {
            match InstanceLock::try_claim() {
                Err(LockError::Held(None)) if Instant::now() < until => std::thread::sleep(PAUSE),
                result => return result,
            }
        }
    }

    /// One attempt.
    fn try_claim() -> Result<InstanceLock, LockError> {
        let mut socket = Socket::open(Some(netlink::NETFILTER)).map_err(LockError::System)?;
        let [high, low] = LOCK_GROUP.to_be_bytes();
        let mut request = Request::new(CONFIG, &[0, 0, high, low]).attribute(COMMAND, &[BIND]);
        match socket.request(&mut request, &mut |_| {}) {
            Ok(()) => Ok(InstanceLock(socket)),
            // The kernel has the same error for a group of another socket and for a missing capability.
            Err(error) if Errno::from_io_error(&error) == Some(Errno::PERM) => {
                // A query without arguments that takes CAP_NET_ADMIN, as all of nfnetlink does.
                let query = socket.request(&mut Request::new(GET_GENERATION, &[0; 4]), &mut |_| {});
                Err(if query.is_ok() { LockError::Held(holder()) } else { LockError::NotPermitted })
            }
            Err(error) if Errno::from_io_error(&error) == Some(Errno::BUSY) => Err(LockError::Held(holder())),
            // No such subsystem, and no module that would bring it.
            Err(error) if Errno::from_io_error(&error) == Some(Errno::INVAL) => Err(LockError::NoNflog),
            Err(error) => Err(LockError::System(error)),
        }
    }
}

/// Whether a daemon runs in the calling thread's network namespace. Without the right to read NFLOG's groups, a process of
/// this program's name with a socket for netfilter is taken for one.
pub fn is_claimed() -> bool {
    match std::fs::read_to_string(GROUPS) {
        Ok(groups) => owner_in(&groups).is_some(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(_) => {
            let sockets = std::fs::read_to_string(SOCKETS).unwrap_or_default();
            let mut ports = sockets.lines().filter_map(|line| {
                let mut words = line.split_whitespace().skip(1);
                (words.next() == Some(NETFILTER)).then(|| words.next()?.parse::<u32>().ok())?
            });
            ports.any(|pid| pid != std::process::id() && name_of(pid).is_some_and(|name| is_our_name(&name)))
        }
    }
}

/// The process whose socket has the group, if it can be known: a first netlink socket's port id is its process's id.
fn holder() -> Option<Holder> {
    let pid = owner_in(&std::fs::read_to_string(GROUPS).ok()?)?;
    Some(Holder { pid, name: name_of(pid)? })
}

/// The port id of the lock's owner.
fn owner_in(groups: &str) -> Option<u32> {
    groups.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next()?.parse() == Ok(LOCK_GROUP)).then(|| words.next()?.parse().ok())?
    })
}

fn name_of(pid: u32) -> Option<String> {
    Some(std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.trim_end().to_owned())
}

fn is_our_name(name: &str) -> bool {
    name_of(std::process::id()).as_deref() == Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_is_found_among_other_groups() {
        let groups =
            "    1   4133     0 2 65531    100  1\n28775 300 0 2 1 1 1\n28774    412     0 2 65531    100  1\n";
        assert_eq!(owner_in(groups), Some(412));
        assert_eq!(owner_in("28775 28774 0\n"), None);
        for garbage in ["", "\n", "28774", "28774 x", "28774 -1 0"] {
            assert_eq!(owner_in(garbage), None, "{garbage:?}");
        }
    }

    #[test]
    fn the_error_names_the_holder() {
        let held = |name: &str| LockError::Held(Some(Holder { pid: 412, name: name.to_owned() })).to_string();
        let own = name_of(std::process::id()).expect("it has a name");
        assert_eq!(held(&own), "another proxygw runs in this network namespace (pid 412)");
        assert!(held("ulogd\x1b").contains("belongs to ulogd\\u{1b} (pid 412)"), "{}", held("ulogd\x1b"));
    }
}
