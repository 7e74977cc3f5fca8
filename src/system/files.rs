//! Limit of open files, and its shares.
//!
//! Clients decide how many connections there are; the daemon itself must go on without them. So the highest descriptor numbers
//! are reserved: the kernel always takes the lowest free number, so a client whose socket gets a reserved number is one too
//! many. Reading `/proc/self/fd` instead would cost time with every client.

use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::io::fcntl_dupfd_cloexec;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors for one run of nft (8), one start of a command (8), the search for a command's processes (3), a probe (1), and
/// a few more.
const OWN_WORK: usize = 24;

/// Descriptors that are open while nothing runs.
const AT_REST: usize = 36;

/// Descriptors of one running target: its stop signal, process and output.
const PER_TARGET: usize = 4;

/// Descriptors of one frontend: a client, also where others have left none.
const PER_FRONTEND: usize = 1;

/// Maximum number of control clients.
const MAX_CONTROL_CLIENTS: usize = 64;

/// The limit before it was raised.
static ORIGINAL: OnceLock<Rlimit> = OnceLock::new();

/// Descriptors that the configuration needs beyond [`OWN_WORK`].
static CONFIGURED: AtomicUsize = AtomicUsize::new(0);

/// Kinds of clients, by the descriptors that their sockets must leave free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// Clients of frontends. They leave descriptors for control clients.
    Clients,
    /// Control clients. They leave descriptors for the daemon's own work.
    Control,
}

impl Share {
    /// Maximum number of clients, of all frontends together or of the control socket.
    pub fn max_clients(self) -> usize {
        match self {
            Share::Clients => limit() / 2,
            Share::Control => control_clients(limit()),
        }
    }
}

/// Raises the soft limit of open files to the hard one, and reserves descriptors for so many targets and frontends. Commands
/// get the original limit back.
pub fn raise_limit(targets: usize, frontends: usize) {
    CONFIGURED.store(targets * PER_TARGET + frontends * PER_FRONTEND, Ordering::Relaxed);
    let limit = getrlimit(Resource::Nofile);
    ORIGINAL.get_or_init(|| limit);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        log::warn!("cannot raise the limit of open files: {error}");
    }
    let needed = AT_REST + OWN_WORK + CONFIGURED.load(Ordering::Relaxed);
    if self::limit() < needed {
        log::warn!(
            "limit of open files: {} is less than the {needed} that this configuration needs; clients may not be served",
            self::limit()
        );
    }
}

/// The limit before [`raise_limit`], if it was called; not above the present hard limit, which only a privileged process may
/// exceed.
pub fn original_limit() -> Option<Rlimit> {
    ORIGINAL.get().map(|original| below(*original, getrlimit(Resource::Nofile).maximum))
}

fn below(limit: Rlimit, maximum: Option<u64>) -> Rlimit {
    let min = |limit: Option<u64>| limit.into_iter().chain(maximum).min();
    Rlimit { current: min(limit.current), maximum: min(limit.maximum) }
}

/// The present limit of open files. Other processes can change it (prlimit(1)).
fn limit() -> usize {
    getrlimit(Resource::Nofile).current.map_or(usize::MAX, |limit| limit.try_into().unwrap_or(usize::MAX))
}

fn control_clients(limit: usize) -> usize {
    (limit / 8).clamp(2, MAX_CONTROL_CLIENTS)
}

/// The lowest descriptor number that such a client must not have.
fn first_reserved(share: Share, limit: usize, configured: usize) -> usize {
    let own_work = OWN_WORK.saturating_add(configured).min(limit / 2);
    let control = match share {
        Share::Clients => control_clients(limit),
        Share::Control => 0,
    };
    limit - own_work - control.min(limit - own_work)
}

/// True if a client's socket takes a descriptor that is reserved.
pub fn is_reserved(socket: &impl AsFd, share: Share) -> bool {
    let number = usize::try_from(socket.as_fd().as_raw_fd()).unwrap_or_default();
    number >= first_reserved(share, limit(), CONFIGURED.load(Ordering::Relaxed))
}

/// Moves a socket to the lowest free descriptor, after another one was closed for it. It must not be registered yet.
pub fn move_down<S: AsFd + From<OwnedFd>>(socket: S) -> S {
    match fcntl_dupfd_cloexec(&socket, 0) {
        Ok(lower) if lower.as_raw_fd() < socket.as_fd().as_raw_fd() => S::from(lower),
        _ => socket,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_low_limit_leaves_fewer_clients_and_always_something_for_the_daemon() {
        assert_eq!([64, 256, 512, 1 << 20].map(control_clients), [8, 32, 64, 64]);
        for limit in 0..2000 {
            for configured in [0, 1, 10, 1000, usize::MAX] {
                let [control, clients] =
                    [Share::Control, Share::Clients].map(|share| first_reserved(share, limit, configured));
                assert!(clients <= control && control <= limit);
                assert!(limit - control >= (OWN_WORK + configured.min(1000)).min(limit / 2));
                assert!(clients == 0 || control - clients == control_clients(limit));
            }
        }
        assert_eq!(first_reserved(Share::Clients, usize::MAX, 5), usize::MAX - OWN_WORK - 5 - 64);
    }

    #[test]
    fn commands_get_no_more_than_the_present_hard_limit() {
        let limit = |current, maximum| Rlimit { current, maximum };
        let original = limit(Some(1024), Some(4096));
        assert_eq!(below(original, Some(1 << 20)), original);
        assert_eq!(below(original, None), original);
        assert_eq!(below(original, Some(2000)), limit(Some(1024), Some(2000)));
        assert_eq!(below(original, Some(64)), limit(Some(64), Some(64)));
        assert_eq!(below(limit(None, None), Some(64)), limit(Some(64), Some(64)));
    }

    #[test]
    fn a_socket_moves_to_a_lower_descriptor() {
        let low = std::fs::File::open("/dev/null").expect("a file");
        let high = OwnedFd::from(std::fs::File::open("/dev/null").expect("a file"));
        let high = fcntl_dupfd_cloexec(&high, 500).expect("a descriptor");
        drop(low);
        assert!(high.as_raw_fd() >= 500);
        assert!(move_down(high).as_raw_fd() < 500);
    }
}
