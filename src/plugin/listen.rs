//! A listener as every frontend wants it.

use std::io;
use std::net::SocketAddr;

use mio::net::TcpListener;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, sockopt};

/// How many connections the kernel keeps until they are accepted.
const BACKLOG: i32 = 1024;

/// Listens for TCP connections: non-blocking, at once after an end of the daemon, and on one address family alone, so that
/// `[::]:80` and `0.0.0.0:80` can be two frontends.
///
/// # Errors
/// What the operating system said.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(TcpListener::from_std(std::net::TcpListener::from(socket)))
}
