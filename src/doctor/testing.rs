//! A host for unit tests. By default it is a router that is set up well: clients on `clients`, backends on `backends`.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use rustix::io::Errno;

use super::host::Host;
use super::{Caller, Context, Finding, Path, Scope};
use crate::config::Protocol;
use crate::dataplane::apply::NftError;
use crate::dataplane::plan::{ColdPath, HoldOptions, OnFailure, Plan, Timeouts};
use crate::dataplane::render;
use crate::netlink::addresses::InterfaceAddress;
use crate::netlink::conntrack::Entry;
use crate::netlink::link::Link;
use crate::netlink::nftables::Listing;
use crate::netlink::route::Route;
use crate::system::connect::Connected;

/// Indexes of the interfaces.
pub(super) const LO: u32 = 1;
pub(super) const CLIENTS: u32 = 2;
pub(super) const BACKENDS: u32 = 3;

pub(super) const REMOTE4: &str = "203.0.113.2:8080";
pub(super) const REMOTE6: &str = "[2001:db8:2::2]:8080";
pub(super) const LOCAL4: &str = "127.0.0.1:8080";

type NftCheck = Box<dyn Fn(&str) -> Result<(), NftError>>;

pub(super) struct FakeHost {
    /// By path; a file without an entry does not exist.
    pub files: HashMap<String, Result<String, Errno>>,
    pub may_write: Result<(), Errno>,
    pub daemon_runs: bool,
    pub links: Result<Vec<Link>, Errno>,
    pub addresses: Vec<InterfaceAddress>,
    pub routes: HashMap<IpAddr, Result<Option<Route>, Errno>>,
    /// By source.
    pub input_routes: HashMap<IpAddr, Result<Option<Route>, Errno>>,
    /// Addresses that cannot be bound.
    pub bound: HashMap<SocketAddr, Errno>,
    /// Results of connects; an address without an entry answers.
    pub unreachable: HashMap<SocketAddr, Errno>,
    pub connect_error: Option<Errno>,
    pub nft: HashMap<&'static str, Result<String, String>>,
    pub nft_check: NftCheck,
    /// One for each query, the last for all further ones.
    pub tables: RefCell<Vec<Result<Option<Listing>, Errno>>>,
    pub conntrack: Result<(), Errno>,
    pub flows: Result<Vec<Entry>, Errno>,
    pub slept: Cell<Duration>,
}

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

pub(super) fn at(text: &str) -> SocketAddr {
    text.parse().expect("an address and a port")
}

pub(super) fn by(interface: u32) -> Result<Option<Route>, Errno> {
    Ok(Some(Route { local: interface == LO, interface: Some(interface) }))
}

impl Default for FakeHost {
    fn default() -> FakeHost {
        let links = [(LO, "lo"), (CLIENTS, "clients"), (BACKENDS, "backends")];
        let addresses = [
            (LO, "127.0.0.1"),
            (CLIENTS, "198.51.100.1"),
            (CLIENTS, "2001:db8:1::1"),
            (BACKENDS, "203.0.113.1"),
            (BACKENDS, "2001:db8:2::1"),
        ];
        let addresses = addresses.map(|(interface, own)| {
            let (own, length) = (ip(own), if own.contains(':') { 64 } else { 24 });
            InterfaceAddress { interface, own, address: own, length }
        });
        let routes = [
            ("127.0.0.1", by(LO)),
            ("::1", by(LO)),
            ("203.0.113.2", by(BACKENDS)),
            ("2001:db8:2::2", by(BACKENDS)),
            ("198.51.100.2", by(CLIENTS)),
        ];
        let tables = || Ok(r#"{"nftables": []}"#.to_owned());
        let mut host = FakeHost {
            files: HashMap::new(),
            may_write: Ok(()),
            daemon_runs: false,
            links: Ok(links.map(|(index, name)| Link { index, name: name.to_owned() }).to_vec()),
            addresses: addresses.to_vec(),
            routes: routes.map(|(to, route)| (ip(to), route)).into(),
            input_routes: HashMap::new(),
            bound: HashMap::new(),
            unreachable: HashMap::new(),
            connect_error: None,
            nft: [
                ("--version", Ok("nftables v1.0.6 (Lester Gooch #5)\n".to_owned())),
                ("-j list tables", tables()),
                ("-j list flowtables", tables()),
            ]
            .into(),
            nft_check: Box::new(|_| Ok(())),
            tables: vec![Ok(Some(render::outline(&Plan { frontends: BTreeMap::new() })))].into(),
            conntrack: Ok(()),
            flows: Ok(Vec::new()),
            slept: Cell::default(),
        };
        host.set("net.ipv4.ip_forward", 1);
        host.set("net.ipv6.conf.all.forwarding", 1);
        host.set("net.ipv4.conf.all.route_localnet", 0);
        host.set("net.netfilter.nf_conntrack_count", 5);
        host.set("net.netfilter.nf_conntrack_max", 1000);
        host.set("net.netfilter.nf_conntrack_events", 1);
        host.write("/proc/sys/kernel/osrelease", "6.1.0-18-amd64\n");
        host.write("/proc/thread-self/status", "CapEff:\t000001ffffffffff\n");
        host
    }
}

impl FakeHost {
    pub(super) fn write(&mut self, path: &str, text: &str) {
        self.files.insert(path.to_owned(), Ok(text.to_owned()));
    }

    /// Sets a sysctl without a dot or a slash in its parts.
    pub(super) fn set(&mut self, name: &str, value: i64) {
        self.write(&format!("/proc/sys/{}", name.replace('.', "/")), &format!("{value}\n"));
    }
}

impl Host for FakeHost {
    fn read(&self, path: &str) -> io::Result<String> {
        Ok(self.files.get(path).cloned().unwrap_or(Err(Errno::NOENT))?)
    }

    fn may_write(&self, _: &str) -> Result<(), Errno> {
        self.may_write
    }

    fn daemon_runs(&self) -> bool {
        self.daemon_runs
    }

    fn interfaces(&self) -> io::Result<(Vec<Link>, Vec<InterfaceAddress>)> {
        Ok((self.links.clone()?, self.addresses.clone()))
    }

    fn route(&self, to: IpAddr) -> io::Result<Option<Route>> {
        Ok(self.routes.get(&to).copied().unwrap_or(Ok(None))?)
    }

    fn input_route(&self, from: IpAddr, _: u32, _: IpAddr) -> io::Result<Option<Route>> {
        Ok(self.input_routes.get(&from).copied().unwrap_or(by(LO))?)
    }

    fn bind(&self, to: SocketAddr) -> Result<(), Errno> {
        self.bound.get(&to).map_or(Ok(()), |errno| Err(*errno))
    }

    fn connect(&self, to: Vec<SocketAddr>) -> io::Result<Vec<Connected>> {
        let result = |to| (to, self.unreachable.get(&to).map_or(Ok(()), |errno| Err((*errno).into())));
        self.connect_error.map_or_else(|| Ok(to.into_iter().map(result).collect()), |errno| Err(errno.into()))
    }

    fn nft(&self, arguments: &[&str]) -> Result<String, NftError> {
        let output = self.nft.get(arguments.join(" ").as_str()).cloned();
        output.unwrap_or(Err("No such file or directory".to_owned())).map_err(NftError::Failed)
    }

    fn nft_check(&self, commands: &str) -> Result<(), NftError> {
        (self.nft_check)(commands)
    }

    fn table(&self) -> io::Result<Option<Listing>> {
        let mut tables = self.tables.borrow_mut();
        Ok(if tables.len() > 1 { tables.remove(0)? } else { tables[0].clone()? })
    }

    fn conntrack(&self) -> io::Result<()> {
        Ok(self.conntrack?)
    }

    fn dnat_flows(&self, each: &mut dyn FnMut(&Entry)) -> io::Result<()> {
        self.flows.clone()?.iter().for_each(each);
        Ok(())
    }

    fn sleep(&self, time: Duration) {
        self.slept.set(self.slept.get() + time);
    }
}

/// A configuration on a host.
pub(super) struct Case {
    pub host: FakeHost,
    pub paths: Vec<Path>,
    pub caller: Caller,
}

impl Case {
    pub(super) fn new(paths: impl IntoIterator<Item = Path>) -> Case {
        Case { host: FakeHost::default(), paths: paths.into_iter().collect(), caller: Caller::Operator }
    }

    pub(super) fn scope(&self) -> Scope {
        Scope { paths: self.paths.clone(), plan: Plan { frontends: BTreeMap::new() } }
    }

    /// Runs one check.
    pub(super) fn run<T>(&self, check: impl FnOnce(&Context<'_>, &mut Vec<Finding>) -> T) -> Vec<Finding> {
        let (mut scope, mut findings) = (self.scope(), Vec::new());
        scope.locate(&self.host);
        check(&Context::new(&scope, &self.host, self.caller, &mut Vec::new()), &mut findings);
        findings
    }

    /// The codes that one check finds.
    pub(super) fn codes<T>(&self, check: impl FnOnce(&Context<'_>, &mut Vec<Finding>) -> T) -> Vec<&'static str> {
        codes(&self.run(check))
    }
}

pub(super) fn codes(findings: &[Finding]) -> Vec<&'static str> {
    findings.iter().map(|finding| finding.code).collect()
}

/// Asserts that there is one finding.
#[track_caller]
pub(super) fn only(findings: Vec<Finding>, code: &str) -> Finding {
    assert_eq!(codes(&findings), [code], "{findings:#?}");
    findings.into_iter().next().expect("one")
}

/// A path of a frontend `f` with packet:hold to the endpoint `b:http`.
pub(super) fn held(listen: &str, address: &str) -> Path {
    let hold = HoldOptions {
        group: crate::ids::OUR_NUMBER,
        packets: 1,
        per_source: 1,
        bytes: 1,
        timeout: Duration::from_secs(1),
        on_failure: OnFailure::Drop,
        replay: true,
    };
    Path {
        frontend: "f".to_owned(),
        protocol: Protocol::Tcp,
        listen: at(listen),
        endpoint: "b:http".to_owned(),
        address: at(address),
        timeouts: Timeouts::new(Duration::from_secs(300)),
        local: at(address).ip().is_loopback(),
        external: true,
        cold: ColdPath::Hold(hold),
        allow: Vec::new(),
        interfaces: Vec::new(),
    }
}

/// The same path with a socket of the daemon.
pub(super) fn answered(listen: &str, address: &str) -> Path {
    Path { cold: ColdPath::Local, ..held(listen, address) }
}
