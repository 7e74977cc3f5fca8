//! The watch over interfaces that fail on demand.

use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard};

use super::super::render::samples::{ip, prefix};
use super::*;

/// What the kernel has done and will do.
#[derive(Default)]
struct Kernel {
    addresses: Vec<InterfaceAddress>,
    /// Whether something fails, and with which error.
    changed: Option<io::Result<bool>>,
    unlistable: bool,
    unwatchable: bool,
    unroutable: Option<io::ErrorKind>,
    watch: Option<Arc<File>>,
    routes: BTreeSet<u32>,
    removals: u32,
}

/// A file outlives the lock.
#[derive(Clone, Default)]
struct Fake(Arc<Mutex<Kernel>>, Option<Arc<File>>);

impl Fake {
    fn kernel(&self) -> MutexGuard<'_, Kernel> {
        self.0.lock().expect("no panic")
    }
}

impl Interfaces for Fake {
    fn open(&mut self) -> io::Result<()> {
        if self.kernel().unwatchable {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        self.1 = Some(Arc::new(File::open("/dev/null")?));
        self.kernel().watch = self.1.clone();
        Ok(())
    }

    fn close(&mut self) {
        self.1 = None;
        self.kernel().watch = None;
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.1.as_ref().map(|file| file.as_fd())
    }

    fn changed(&mut self) -> io::Result<bool> {
        self.kernel().changed.take().unwrap_or(Ok(false))
    }

    fn addresses(&self) -> io::Result<Vec<InterfaceAddress>> {
        let kernel = self.kernel();
        if kernel.unlistable { Err(io::ErrorKind::Interrupted.into()) } else { Ok(kernel.addresses.clone()) }
    }

    fn add_route(&mut self, interface: u32) -> io::Result<()> {
        let mut kernel = self.kernel();
        kernel.routes.insert(interface);
        kernel.unroutable.map_or(Ok(()), |kind| Err(kind.into()))
    }

    fn remove_routes(&mut self) -> io::Result<()> {
        self.kernel().routes.clear();
        self.kernel().removals += 1;
        Err(io::ErrorKind::Interrupted.into())
    }
}

fn address(interface: u32, text: &str) -> InterfaceAddress {
    let (own, length) = text.split_once('/').expect("ADDRESS/LENGTH");
    InterfaceAddress { interface, own: ip(own), address: ip(own), length: length.parse().expect("a length") }
}

fn addresses() -> Vec<InterfaceAddress> {
    vec![
        address(1, "127.0.0.1/8"),
        address(1, "::1/128"),
        address(2, "192.0.2.1/24"),
        address(2, "192.0.2.9/28"),
        address(2, "fe80::1/64"),
        address(3, "2001:db8::1/64"),
        address(3, "192.0.2.2/24"),
        address(4, "198.51.100.1/24"),
    ]
}

fn links() -> BTreeSet<OnLink> {
    let all = [(2, "192.0.2.0/24"), (3, "2001:db8::/64"), (3, "192.0.2.0/24"), (4, "198.51.100.0/24")];
    all.map(|(interface, text)| OnLink { interface, prefix: prefix(text) }).into()
}

/// An open watch.
fn world(routes: LoopbackRoutes) -> (Links, Fake, Instant) {
    let fake = Fake::default();
    fake.kernel().addresses = addresses();
    let mut links = Links::new(routes);
    links.interfaces = Box::new(fake.clone());
    let now = Instant::now();
    links.open(now).expect("opened");
    (links, fake, now)
}

/// Polls; returns the reported links.
fn poll(watch: &mut Links, now: Instant) -> Vec<BTreeSet<OnLink>> {
    let mut reports = Vec::new();
    let progress = watch.poll(now, &mut |event| match event {
        MonitorEvent::Links(links) => reports.push(links),
        other => panic!("{other:?}"),
    });
    assert_eq!(progress, Progress::Drained);
    reports
}

#[test]
fn prefixes_are_those_of_each_link_without_loopback_and_link_local() {
    assert_eq!(on_link_of(&addresses()), links());
}

#[test]
fn a_change_of_addresses_is_reported() {
    let (mut watch, fake, now) = world(LoopbackRoutes::Unused);
    assert!(watch.fd().is_some() && watch.deadline().is_none());
    assert!(poll(&mut watch, now).is_empty(), "nothing has changed");
    fake.kernel().changed = Some(Ok(true));
    assert_eq!(poll(&mut watch, now), [links()]);
    fake.kernel().changed = Some(Err(io::ErrorKind::OutOfMemory.into()));
    assert!(poll(&mut watch, now).is_empty());
}

#[test]
fn routes_are_added_through_each_interface_with_ipv6_and_removed_at_the_end() {
    let (mut watch, fake, now) = world(LoopbackRoutes::Added);
    assert_eq!(fake.kernel().removals, 1);
    assert_eq!(fake.kernel().routes, [2, 3].into());
    // The kernel deletes those of an interface that goes down.
    fake.kernel().routes.clear();
    fake.kernel().changed = Some(Ok(true));
    poll(&mut watch, now);
    assert_eq!(fake.kernel().routes, [2, 3].into());
    watch.close();
    assert!(fake.kernel().routes.is_empty() && watch.fd().is_none());

    let (mut watch, fake, _) = world(LoopbackRoutes::Unused);
    assert!(fake.kernel().routes.is_empty());
    watch.close();
    assert_eq!(fake.kernel().removals, 1, "those of a crashed daemon only");
    assert!(fake.kernel().watch.is_none());
}

#[test]
fn a_query_that_fails_is_tried_again_a_few_times() {
    let (mut watch, fake, mut now) = world(LoopbackRoutes::Unused);
    fake.kernel().unlistable = true;
    fake.kernel().changed = Some(Ok(true));
    assert!(poll(&mut watch, now).is_empty());
    let mut tries = 1;
    while let Some(due) = watch.deadline() {
        assert_eq!(due, now + RETRY);
        assert!(poll(&mut watch, due - RETRY / 2).is_empty());
        assert_eq!(watch.deadline(), Some(due), "too early");
        now = due;
        assert!(poll(&mut watch, now).is_empty());
        tries += 1;
    }
    assert_eq!(tries, MAX_TRIES);
    // The next change begins again.
    fake.kernel().changed = Some(Ok(true));
    poll(&mut watch, now);
    let due = watch.deadline().expect("tried again");
    fake.kernel().unlistable = false;
    assert_eq!(poll(&mut watch, due), [links()]);
    assert_eq!((watch.deadline(), watch.failures), (None, 0));
}

#[test]
fn a_route_that_cannot_be_added_is_tried_again_and_the_links_are_reported() {
    for kind in [io::ErrorKind::NetworkDown, io::ErrorKind::PermissionDenied] {
        let (mut watch, fake, now) = world(LoopbackRoutes::Added);
        fake.kernel().unroutable = Some(kind);
        fake.kernel().routes.clear();
        fake.kernel().changed = Some(Ok(true));
        assert_eq!(poll(&mut watch, now), [links()]);
        assert_eq!(fake.kernel().routes, [2, 3].into(), "each is tried");
        assert_eq!(watch.deadline(), Some(now + RETRY));
        let error = watch.add_routes(&addresses()).expect_err("refused");
        assert_eq!(error.kind(), kind);
        assert!(error.to_string().starts_with("no route through interface 3: "), "{error}");
    }
}

#[test]
fn a_restart_reports_the_links_and_needs_its_subscription() {
    let (mut watch, fake, now) = world(LoopbackRoutes::Unused);
    watch.close();
    fake.kernel().unwatchable = true;
    watch.open(now).expect_err("tried again later");
    fake.kernel().unwatchable = false;
    watch.open(now).expect("opened");
    assert_eq!(poll(&mut watch, now), [links()]);
}

#[test]
fn a_first_start_works_without_a_subscription() {
    let fake = Fake::default();
    fake.kernel().unwatchable = true;
    fake.kernel().addresses = addresses();
    let mut watch = Links::new(LoopbackRoutes::Added);
    watch.interfaces = Box::new(fake.clone());
    watch.open(Instant::now()).expect("without");
    assert!(watch.fd().is_none());
    assert_eq!(fake.kernel().routes, [2, 3].into());
}
