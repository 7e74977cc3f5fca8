//! The host as the checks see it: files, routes, sockets, nft, conntrack. Unit tests put a host of their own in its place.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Read as _};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use neli::consts::nl::NlmF;
use rustix::fs::Access;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, netlink, sockopt};

use crate::dataplane::apply::{Language, Nft, NftError};
use crate::dataplane::render::TABLE;
use crate::netlink::addresses::{self, InterfaceAddress};
use crate::netlink::conntrack::{Conntrack, Entry};
use crate::netlink::instance_lock;
use crate::netlink::link::{self, Link};
use crate::netlink::message::Request;
use crate::netlink::nftables::{Listing, Tables};
use crate::netlink::route::{Route, Routes};
use crate::netlink::socket::Socket;
use crate::system::connect::{Connected, connect_all};

/// Maximum number of bytes that are read of a file.
const MAX_FILE: u64 = 8 << 20;

/// Timeout of a connect to an endpoint.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// `IPCTNL_MSG_CT_GET_STATS` in `NFNL_SUBSYS_CTNETLINK`: a query without effect.
const GET_STATS: u16 = 1 << 8 | 5;

/// Queries of the checks. None changes the host.
pub(super) trait Host {
    /// Returns the start of a file, [`MAX_FILE`] bytes at most.
    fn read(&self, path: &str) -> io::Result<String>;
    /// Succeeds if this process may write the file (access(2)).
    fn may_write(&self, path: &str) -> Result<(), Errno>;
    /// Returns true if a daemon runs in this network namespace.
    fn daemon_runs(&self) -> bool;
    /// Returns the interfaces and their addresses.
    fn interfaces(&self) -> io::Result<(Vec<Link>, Vec<InterfaceAddress>)>;
    /// Looks up the route of a packet from this host.
    fn route(&self, to: IpAddr) -> io::Result<Option<Route>>;
    /// Looks up the route of a packet that comes in by an interface; `None` if the kernel drops it.
    fn input_route(&self, from: IpAddr, interface: u32, to: IpAddr) -> io::Result<Option<Route>>;
    /// Binds a TCP socket as a frontend's listener would be, and closes it.
    fn bind(&self, to: SocketAddr) -> Result<(), Errno>;
    /// Connects to all addresses and returns the results.
    fn connect(&self, to: Vec<SocketAddr>) -> io::Result<Vec<Connected>>;
    /// Returns what nft prints.
    fn nft(&self, arguments: &[&str]) -> Result<String, NftError>;
    /// Lets nft and the kernel check commands in nft's own syntax.
    fn nft_check(&self, commands: &str) -> Result<(), NftError>;
    /// Lists the daemon's table, with the numbers of its rules.
    fn table(&self) -> io::Result<Option<Listing>>;
    /// Queries conntrack's statistics over netlink.
    fn conntrack(&self) -> io::Result<()>;
    /// Calls `each` with every translated flow.
    fn dnat_flows(&self, each: &mut dyn FnMut(&Entry)) -> io::Result<()>;
    /// Waits.
    fn sleep(&self, time: Duration);
}

/// The host in the calling thread's network namespace.
pub(super) struct ThisHost {
    nft: Nft,
    /// Opened by the first lookup.
    routes: RefCell<Option<Routes>>,
}

impl ThisHost {
    pub(super) fn new() -> ThisHost {
        ThisHost { nft: Nft::find(), routes: RefCell::default() }
    }

    fn look_up<T>(&self, query: impl FnOnce(&mut Routes) -> io::Result<T>) -> io::Result<T> {
        match &mut *self.routes.borrow_mut() {
            Some(routes) => query(routes),
            none => query(none.insert(Routes::open()?)),
        }
    }
}

impl Host for ThisHost {
    fn read(&self, path: &str) -> io::Result<String> {
        let mut bytes = Vec::new();
        File::open(path)?.take(MAX_FILE).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn may_write(&self, path: &str) -> Result<(), Errno> {
        rustix::fs::access(path, Access::WRITE_OK)
    }

    fn daemon_runs(&self) -> bool {
        instance_lock::is_claimed()
    }

    fn interfaces(&self) -> io::Result<(Vec<Link>, Vec<InterfaceAddress>)> {
        Ok((link::all()?, addresses::dump()?))
    }

    fn route(&self, to: IpAddr) -> io::Result<Option<Route>> {
        self.look_up(|routes| routes.look_up(to))
    }

    fn input_route(&self, from: IpAddr, interface: u32, to: IpAddr) -> io::Result<Option<Route>> {
        self.look_up(|routes| routes.look_up_input(from, interface, to))
    }

    fn bind(&self, to: SocketAddr) -> Result<(), Errno> {
        let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, Some(ipproto::TCP))?;
        sockopt::set_socket_reuseaddr(&socket, true)?;
        if to.is_ipv6() {
            sockopt::set_ipv6_v6only(&socket, true)?;
        }
        rustix::net::bind(&socket, &to)
    }

    fn connect(&self, to: Vec<SocketAddr>) -> io::Result<Vec<Connected>> {
        connect_all(to.into_iter(), PROBE_TIMEOUT)
    }

    fn nft(&self, arguments: &[&str]) -> Result<String, NftError> {
        self.nft.query(arguments)
    }

    fn nft_check(&self, commands: &str) -> Result<(), NftError> {
        self.nft.check(Language::Native, commands)
    }

    fn table(&self) -> io::Result<Option<Listing>> {
        let mut tables = Tables::open()?;
        let Some(mut listing) = tables.list(TABLE)? else { return Ok(None) };
        tables.count_rules(TABLE, &mut listing)?;
        Ok(Some(listing))
    }

    fn conntrack(&self) -> io::Result<()> {
        Socket::open(Some(netlink::NETFILTER))?.perform(Request::new(GET_STATS, &[0; 4]), NlmF::empty())
    }

    fn dnat_flows(&self, each: &mut dyn FnMut(&Entry)) -> io::Result<()> {
        Conntrack::open()?.dump_dnat(each)
    }

    fn sleep(&self, time: Duration) {
        std::thread::sleep(time);
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn files_are_read_as_text() {
        let host = ThisHost::new();
        assert!(host.read("/proc/self/status").expect("a file").contains("CapEff:"));
        assert_eq!(host.read("/proc/self/none").map_err(|error| error.kind()), Err(io::ErrorKind::NotFound));
        assert_eq!(host.may_write("/proc/self/none"), Err(Errno::NOENT));
        assert_eq!(host.may_write("/dev/null"), Ok(()));
    }

    #[test]
    fn kernel_answers_queries_about_the_loopback_interface() {
        let host = ThisHost::new();
        let (links, addresses) = host.interfaces().expect("interfaces");
        let lo = links.iter().find(|link| link.name == "lo").expect("it exists");
        assert!(addresses.iter().all(|address| links.iter().any(|link| link.index == address.interface)));
        for _ in 0..2 {
            let route = host.route(IpAddr::from([127, 0, 0, 1])).expect("a result").expect("a route");
            assert_eq!(route, Route { local: true, interface: Some(lo.index) });
        }
        // A martian source.
        let dropped = host.input_route(IpAddr::from([127, 0, 0, 1]), lo.index, IpAddr::from([192, 0, 2, 1]));
        assert_eq!(dropped.expect("a result"), None);
    }

    #[test]
    fn bound_port_is_in_use_and_connects() {
        let host = ThisHost::new();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        assert_eq!(host.bind(address), Err(Errno::ADDRINUSE));
        assert_eq!(host.bind("192.0.2.1:80".parse().expect("an address")), Err(Errno::ADDRNOTAVAIL));
        let has_ipv6 = TcpListener::bind("[::1]:0").is_ok();
        assert_eq!(host.bind("[::1]:0".parse().expect("an address")).is_ok(), has_ipv6);
        assert_eq!(host.bind("127.0.0.1:0".parse().expect("an address")), Ok(()));
        let connected = host.connect(vec![address]).expect("descriptors");
        assert!(matches!(connected[..], [(to, Ok(()))] if to == address), "{connected:?}");
    }

    #[test]
    fn sleep_takes_its_time() {
        let began = std::time::Instant::now();
        ThisHost::new().sleep(Duration::from_millis(5));
        assert!(began.elapsed() >= Duration::from_millis(5));
    }
}
