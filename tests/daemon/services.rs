//! The daemon's own services after a panic: what has happened while they were down is not lost.
//!
//! The real services run on a real reactor in the gateway. A wrapper panics in their place: they have no such fault to offer.

use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::time::Duration;

use proxygw::dataplane::links::{Links, LoopbackRoutes};
use proxygw::dataplane::localnet::Localnet;
use proxygw::dataplane::watch::Watch;
use proxygw::engine::{Inbox, Message, Order, Orders};
use proxygw::ids::{Change, FrontendId};
use proxygw::plugin::{Error, Handler, Io, Readiness};
use proxygw::reactor::{Monitored, Reactor, Service};

use crate::setup::SOON;
use crate::support::{Lab, nft, require_namespaces};

const FRONTEND: FrontendId = FrontendId::new(0);

/// A service that panics when the frontend's target becomes active, and reports when it has stopped.
struct Panicking<H> {
    service: H,
    stopped: Sender<()>,
}

impl<H: Handler> Handler for Panicking<H> {
    fn start(&mut self, io: &mut Io<'_>) -> Result<(), Error> {
        self.service.start(io)
    }

    fn stop(&mut self, io: &mut Io<'_>) {
        self.service.stop(io);
        // The test listens for the first one only.
        let _ = self.stopped.send(());
    }

    fn ready(&mut self, io: &mut Io<'_>, key: usize, readiness: Readiness) {
        self.service.ready(io, key, readiness);
    }

    fn target_changed(&mut self, _io: &mut Io<'_>, frontend: FrontendId, change: Change) {
        assert_ne!((frontend, change), (FRONTEND, Change::Active));
    }
}

/// Runs a service in the gateway and lets it panic. `while_down` is called once it has stopped, half a second before its
/// restart; `then` receives what the service reports.
fn run(
    lab: &Lab,
    service: impl Handler + 'static,
    while_down: impl FnOnce() + Send,
    then: impl FnOnce(&dyn Fn(Duration) -> Option<Message>) + Send,
) {
    lab.gateway.run(|| {
        let (inbox, receiver) = Inbox::new(0, 1);
        let (stopped, wait) = mpsc::channel();
        let services = vec![Service::new("panicking", Panicking { service, stopped })];
        let (mut reactor, orders) = Reactor::new([], services, inbox).expect("a reactor");
        reactor.start_services().expect("started");
        std::thread::scope(|scope| {
            scope.spawn(|| reactor.run(|_| ()).expect("it ends"));
            let _end = End(orders.clone());
            orders.send(Order::Notify { frontend: FRONTEND, change: Change::Active });
            orders.send(Order::Notify { frontend: FRONTEND, change: Change::Inactive });
            wait.recv_timeout(SOON).expect("it stops");
            while_down();
            then(&|timeout| receiver.recv_timeout(timeout).ok());
        });
    });
}

/// Ends the reactor when the test ends, also by a panic.
struct End(Orders);

impl Drop for End {
    fn drop(&mut self) {
        self.0.send(Order::End);
    }
}

fn watch() -> Monitored<Watch> {
    Monitored(Watch::new(Arc::default(), Localnet::default()))
}

#[test]
fn changes_of_the_table_while_its_watch_is_down_are_reported() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    nft(&lab.gateway, "add table inet proxygw");
    run(
        &lab,
        watch(),
        || nft(&lab.gateway, "delete table inet proxygw"),
        |next| assert!(matches!(next(SOON), Some(Message::RulesChanged))),
    );
}

#[test]
fn a_table_that_nothing_has_changed_is_not_reported_after_a_restart() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    nft(&lab.gateway, "add table inet proxygw");
    run(
        &lab,
        watch(),
        || (),
        |next| {
            // Longer than the restart takes.
            let message = next(Duration::from_secs(2));
            assert!(message.is_none(), "{message:?}");
            nft(&lab.gateway, "delete table inet proxygw");
            assert!(matches!(next(SOON), Some(Message::RulesChanged)), "it watches again");
        },
    );
}

#[test]
fn links_that_change_while_their_watch_is_down_are_reported() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    run(
        &lab,
        Monitored(Links::new(LoopbackRoutes::Unused)),
        || lab.gateway.ip("addr add 192.0.2.1/24 dev backends\n"),
        |next| assert!(matches!(next(SOON), Some(Message::OnLink))),
    );
}
