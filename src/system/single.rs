//! One daemon per network namespace: there is one table in each.

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};

/// The name of an abstract Unix socket. Such names belong to the network namespace, exactly what is to be guarded, and the
/// kernel forgets them with the process, so that a crash leaves nothing.
const NAME: &str = "proxygw/network-namespace";

/// Held for as long as the daemon runs.
#[derive(Debug)]
pub struct SingleInstance(#[allow(dead_code, reason = "it is the lock")] UnixListener);

impl SingleInstance {
    /// Claims this network namespace.
    ///
    /// # Errors
    /// Another daemon has it: [`io::ErrorKind::AddrInUse`].
    pub fn claim() -> io::Result<SingleInstance> {
        Ok(SingleInstance(UnixListener::bind_addr(&SocketAddr::from_abstract_name(NAME)?)?))
    }
}
