//! Lock that admits one daemon per network namespace, because there is one table in each.
//!
//! The lock is an NFLOG group that the daemon binds and to which no rule logs. The kernel lets one socket of a network namespace
//! bind a group, requires `CAP_NET_ADMIN` for it, and frees the group with the process: an unprivileged process cannot take it,
//! and a crash leaves nothing.

use std::fmt;
use std::io;
use std::time::{Duration, Instant};

use neli::consts::nl::NlmF;
use rustix::io::Errno;
use rustix::net::netlink;

use super::message::Request;
use super::nflog;
use super::nftables::numbers::GET_GENERATION;
use super::socket::Socket;
use crate::ids::OUR_NUMBER;

/// The NFLOG group of the lock. `plugins.packet.group` must be another one.
pub const LOCK_GROUP: u16 = OUR_NUMBER - 1;

/// The bound groups of the network namespace: one per line, the group's number and the owner's port id first.
const GROUPS: &str = "/proc/thread-self/net/netfilter/nfnetlink_log";

/// The netlink sockets of the network namespace: the protocol is the second column of a line, the port id the third. Every user
/// can read it.
const SOCKETS: &str = "/proc/thread-self/net/netlink";

/// `NETLINK_NETFILTER`.
const NETFILTER: &str = "12";

/// Timeout for a lock without a known owner, and the pause between two attempts.
const TIMEOUT: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(10);

/// The lock on the network namespace, held until this is dropped or the process ends.
#[derive(Debug)]
pub struct InstanceLock(#[allow(dead_code, reason = "the open socket is the lock")] Socket);

/// Reason why the lock is unavailable.
#[derive(Debug)]
pub enum LockError {
    /// Another process holds it.
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
    /// Claims the calling thread's network namespace. Waits a moment for a lock whose owner has died: a child that the owner
    /// has just forked holds a copy of its socket until it executes its program.
    ///
    /// Call it before the process opens another netlink socket: the kernel then uses the process id as the port id, by which a
    /// second daemon can name this one.
    ///
    /// # Errors
    /// Another process holds the lock, or it is unavailable.
    pub fn claim() -> Result<InstanceLock, LockError> {
        let open = || Socket::open(Some(netlink::NETFILTER)).map_err(LockError::System);
        retry(TIMEOUT, || InstanceLock::over(open()?))
    }

    /// One attempt.
    fn over(mut socket: Socket) -> Result<InstanceLock, LockError> {
        let Err(error) = socket.perform(nflog::bind(LOCK_GROUP), NlmF::empty()) else {
            return Ok(InstanceLock(socket));
        };
        Err(match Errno::from_io_error(&error) {
            // The kernel has the same error for a group of another socket and for a missing capability. The second query has no
            // arguments that could be wrong, and needs CAP_NET_ADMIN, as all of nfnetlink does.
            Some(Errno::PERM) if socket.perform(Request::new(GET_GENERATION, &[0; 4]), NlmF::empty()).is_err() => {
                LockError::NotPermitted
            }
            Some(Errno::PERM | Errno::BUSY) => LockError::Held(holder()),
            // No such subsystem, and no module that provides it.
            Some(Errno::INVAL) => LockError::NoNflog,
            _ => LockError::System(error),
        })
    }
}

/// Repeats attempts until the timeout while the owner is unknown.
fn retry<T>(timeout: Duration, mut attempt: impl FnMut() -> Result<T, LockError>) -> Result<T, LockError> {
    let until = Instant::now() + timeout;
    loop {
        match attempt() {
            Err(LockError::Held(None)) if Instant::now() < until => std::thread::sleep(PAUSE),
            result => return result,
        }
    }
}

/// True if a daemon runs in the calling thread's network namespace. Without the right to read NFLOG's groups, a process of
/// this program's name with a netfilter socket counts as one.
pub fn is_claimed() -> bool {
    let is_daemon = |pid| pid != std::process::id() && name_of(pid).is_some_and(|name| is_our_name(&name));
    let sockets = || std::fs::read_to_string(SOCKETS).unwrap_or_default();
    is_claimed_by(std::fs::read_to_string(GROUPS), sockets, is_daemon)
}

fn is_claimed_by(
    groups: io::Result<String>,
    sockets: impl FnOnce() -> String,
    is_daemon: impl FnMut(u32) -> bool,
) -> bool {
    match groups {
        Ok(groups) => owner_in(&groups).is_some(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(_) => netfilter_ports(&sockets()).any(is_daemon),
    }
}

/// The port ids of the netfilter sockets in [`SOCKETS`].
fn netfilter_ports(sockets: &str) -> impl Iterator<Item = u32> {
    sockets.lines().filter_map(|line| {
        let mut columns = line.split_whitespace().skip(1);
        (columns.next() == Some(NETFILTER)).then(|| columns.next()?.parse().ok())?
    })
}

/// The process that holds the lock, if it is known: the port id of a process's first netlink socket is its process id.
fn holder() -> Option<Holder> {
    let pid = owner_in(&std::fs::read_to_string(GROUPS).ok()?)?;
    Some(Holder { pid, name: name_of(pid)? })
}

/// The port id of the lock's owner.
fn owner_in(groups: &str) -> Option<u32> {
    groups.lines().find_map(|line| {
        let mut columns = line.split_whitespace();
        (columns.next()?.parse() == Ok(LOCK_GROUP)).then(|| columns.next()?.parse().ok())?
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
    fn netfilter_sockets_are_found_among_others() {
        let sockets = "sk               Eth Pid        Groups   Rmem\n\
                       00000000da7c9b5c 0   1          00000000 0\n\
                       000000001f0ba1e8 12  412        00000000 0\n\
                       00000000a5b0c3d2 12  x\n00000000a5b0c3d2 12\n\n\
                       00000000a5b0c3d2 12  4065937688 00000000 0\n";
        assert_eq!(netfilter_ports(sockets).collect::<Vec<_>>(), [412, 4_065_937_688]);
    }

    #[test]
    fn a_claim_is_read_from_the_groups_or_else_from_the_sockets() {
        let sockets = || "0 12 412\n0 12 413\n".to_owned();
        let claimed = |groups, daemon| is_claimed_by(groups, sockets, |pid| pid == daemon);
        assert!(claimed(Ok("28774 412 0\n".to_owned()), 0));
        assert!(!claimed(Ok("28775 412 0\n".to_owned()), 412));
        assert!(!claimed(Err(Errno::NOENT.into()), 412));
        assert!(claimed(Err(Errno::ACCESS.into()), 413));
        assert!(!claimed(Err(Errno::ACCESS.into()), 414));
    }

    #[test]
    fn attempts_are_repeated_while_the_owner_is_unknown_until_the_timeout() {
        let minute = Duration::from_secs(60);
        let mut results = vec![Ok(7), Err(LockError::Held(None)), Err(LockError::Held(None))];
        assert!(matches!(retry(minute, || results.pop().expect("one more")), Ok(7)));
        let mut results = vec![Ok(7), Err(LockError::NoNflog)];
        assert!(matches!(retry(minute, || results.pop().expect("one more")), Err(LockError::NoNflog)));
        let mut results = vec![Ok(7), Err(LockError::Held(None))];
        assert!(matches!(retry(Duration::ZERO, || results.pop().expect("one more")), Err(LockError::Held(None))));
    }

    #[test]
    fn a_process_has_the_name_that_the_kernel_shows() {
        let own = std::fs::read_to_string("/proc/self/comm").expect("read");
        assert_eq!(name_of(std::process::id()).as_deref(), Some(own.trim_end()));
        assert_eq!(name_of(u32::MAX), None);
    }

    #[test]
    fn a_refusal_becomes_its_reason() {
        use crate::netlink::testing::played;

        // In another process's place: its lock is not this test's.
        let claim = |errors: &[i32]| {
            let answer = |errno: &i32| vec![Request::new(2, &(-errno).to_ne_bytes()).finish(NlmF::empty(), 0).to_vec()];
            let (socket, kernel) = played(errors.iter().map(answer).collect());
            let result = InstanceLock::over(socket);
            let requests = kernel.join().expect("played");
            // NFULNL_MSG_CONFIG of group 28774: NFULNL_CFG_CMD_BIND
            assert_eq!(requests[0][4..8], [1, 4, 5, 0]);
            assert_eq!(requests[0][16..], [0, 0, 0x70, 0x66, 5, 0, 1, 0, 1, 0, 0, 0]);
            result.map(drop)
        };
        assert!(matches!(claim(&[0]), Ok(())));
        // EPERM, and whether the second query succeeds.
        assert!(matches!(claim(&[1, 0]), Err(LockError::Held(_))));
        assert!(matches!(claim(&[1, 1]), Err(LockError::NotPermitted)));
        // EBUSY, EINVAL, ENOMEM
        assert!(matches!(claim(&[16]), Err(LockError::Held(_))));
        assert!(matches!(claim(&[22]), Err(LockError::NoNflog)));
        assert!(matches!(claim(&[12]), Err(LockError::System(error)) if error.raw_os_error() == Some(12)));
    }

    #[test]
    fn each_error_names_its_reason() {
        let texts = [LockError::Held(None), LockError::NotPermitted, LockError::NoNflog].map(|error| error.to_string());
        for (text, reason) in texts.iter().zip(["NFLOG group 28774", "CAP_NET_ADMIN", "nfnetlink_log"]) {
            assert!(text.contains(reason), "{text}");
        }
        let error = LockError::System(Errno::MFILE.into()).to_string();
        assert!(error.starts_with("cannot claim this network namespace: Too many open files"), "{error}");
    }

    #[test]
    fn the_error_names_the_holder() {
        let held = |name: &str| LockError::Held(Some(Holder { pid: 412, name: name.to_owned() })).to_string();
        let own = name_of(std::process::id()).expect("it has a name");
        assert_eq!(held(&own), "another proxygw runs in this network namespace (pid 412)");
        assert!(held("ulogd\x1b").contains("belongs to ulogd\\u{1b} (pid 412)"), "{}", held("ulogd\x1b"));
    }
}
