//! What the loop does with handlers that fail.

use std::net::SocketAddr;
use std::sync::mpsc::{self, Receiver, Sender};

use mio::Interest;
use mio::net::TcpListener;

use super::*;

/// Frontends.
const F: [FrontendId; 4] = [FrontendId::new(0), FrontendId::new(1), FrontendId::new(2), FrontendId::new(3)];

/// How long anything here may take.
const SOON: Duration = Duration::from_secs(10);

/// Greets with a panic, or without.
struct Guard {
    listener: Option<TcpListener>,
    panics: bool,
    address: Sender<SocketAddr>,
}

impl Handler for Guard {
    fn start(&mut self, io: &mut Io<'_>) -> Result<(), Error> {
        let mut listener = TcpListener::bind(([127, 0, 0, 1], 0).into())?;
        io.register(&mut listener, 0, Interest::READABLE)?;
        self.address.send(listener.local_addr()?)?;
        self.listener = Some(listener);
        Ok(())
    }

    fn stop(&mut self, io: &mut Io<'_>) {
        if let Some(mut listener) = self.listener.take() {
            io.deregister(&mut listener, 0);
        }
    }

    fn ready(&mut self, _io: &mut Io<'_>, _key: usize, _readiness: Readiness) {
        assert!(!self.panics, "a client has come");
        while self.listener.as_ref().is_some_and(|listener| listener.accept().is_ok()) {}
    }
}

/// Ends the loop whatever becomes of the test.
struct End(Orders);

impl Drop for End {
    fn drop(&mut self) {
        self.0.send(Order::End);
    }
}

fn guard(panics: bool) -> (Box<dyn Handler>, Receiver<SocketAddr>) {
    let (address, receiver) = mpsc::channel();
    (Box::new(Guard { listener: None, panics, address }), receiver)
}

fn connect(address: SocketAddr) -> io::Result<std::net::TcpStream> {
    std::net::TcpStream::connect_timeout(&address, SOON)
}

/// Waits until nothing listens. A child that another test has forked holds our descriptors until it calls exec.
#[track_caller]
fn await_refusal(address: SocketAddr) {
    let until = Instant::now() + SOON;
    loop {
        match connect(address) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return,
            other => assert!(Instant::now() < until, "it still listens: {other:?}"),
        }
        std::thread::yield_now();
    }
}

#[test]
fn a_handler_that_panics_is_closed_and_can_be_started_again_and_the_others_go_on() {
    let (bad, bad_address) = guard(true);
    let (good, good_address) = guard(false);
    let (inbox, receiver) = Inbox::new(0, 2);
    let (mut reactor, orders) = Reactor::new([(F[0], bad), (F[1], good)], Vec::new(), inbox).expect("a reactor");
    let heard = |expected: Event| match receiver.recv_timeout(SOON) {
        Ok(Message::Event(event)) => assert_eq!(event, expected),
        other => panic!("{other:?}"),
    };
    std::thread::scope(|scope| {
        scope.spawn(|| reactor.run(|_| ()).expect("it ends"));
        let _end = End(orders.clone());
        for id in [F[1], F[0]] {
            orders.send(Order::Start(id));
            heard(Event::FrontendStarted(id));
        }
        let good = good_address.recv_timeout(SOON).expect("started");
        for _ in 0..3 {
            let bad = bad_address.recv_timeout(SOON).expect("started");
            // It may be reset before connect has returned.
            let _ = connect(bad);
            heard(Event::FrontendBroke(F[0], PANICKED.to_owned()));
            await_refusal(bad);
            connect(good).expect("it still listens");
            orders.send(Order::Stop(F[0]));
            heard(Event::FrontendStopped(F[0]));
            orders.send(Order::Start(F[0]));
            heard(Event::FrontendStarted(F[0]));
        }
    });
}

/// What a [`Fragile`] service reports about itself.
#[derive(Debug, PartialEq)]
enum Heard {
    Started,
    Stopped,
    Change(FrontendId, Change),
}

/// A service that panics where a test wants it to.
struct Fragile {
    heard: Sender<Heard>,
    /// Panics at this change.
    trap: Option<(FrontendId, Change)>,
    /// Starts that fail after the first one; every other of them by a panic.
    failing_starts: u32,
    starts: u32,
    timer: Option<Instant>,
}

impl Handler for Fragile {
    fn start(&mut self, _io: &mut Io<'_>) -> Result<(), Error> {
        self.starts += 1;
        if (2..2 + self.failing_starts).contains(&self.starts) {
            assert!(!self.starts.is_multiple_of(2), "start {}", self.starts);
            return Err("not yet".into());
        }
        self.heard.send(Heard::Started)?;
        Ok(())
    }

    fn stop(&mut self, _io: &mut Io<'_>) {
        self.heard.send(Heard::Stopped).expect("the test listens");
    }

    fn ready(&mut self, _io: &mut Io<'_>, _key: usize, _readiness: Readiness) {}

    fn deadline(&self) -> Option<Instant> {
        self.timer
    }

    fn timeout(&mut self, _io: &mut Io<'_>) {
        panic!("a timer has fired");
    }

    fn target_changed(&mut self, _io: &mut Io<'_>, frontend: FrontendId, change: Change) {
        self.heard.send(Heard::Change(frontend, change)).expect("the test listens");
        if self.trap.take_if(|trap| *trap == (frontend, change)).is_some() {
            panic!("a target has changed");
        }
    }
}

fn fragile(heard: Sender<Heard>) -> Fragile {
    Fragile { heard, trap: None, failing_starts: 0, starts: 0, timer: None }
}

/// Runs a reactor with these services while `test` runs.
fn with_services(services: Vec<Service>, test: impl FnOnce(&Orders)) {
    let (inbox, _receiver) = Inbox::new(0, 4);
    let (mut reactor, orders) = Reactor::new([], services, inbox).expect("a reactor");
    reactor.start_services().expect("they start");
    std::thread::scope(|scope| {
        scope.spawn(|| reactor.run(|_| ()).expect("it ends"));
        let _end = End(orders.clone());
        test(&orders);
    });
}

#[test]
fn a_service_that_panics_restarts_and_learns_what_it_missed() {
    let (sender, heard) = mpsc::channel();
    let trap = Some((F[2], Change::Inactive));
    let service = Service::new("fragile", Fragile { trap, ..fragile(sender) });
    let (other_sender, other) = mpsc::channel();
    let next = |from: &Receiver<Heard>| from.recv_timeout(SOON).expect("it reports");
    with_services(vec![service, Service::new("sound", fragile(other_sender))], |orders| {
        let tell = |frontend, change| orders.send(Order::Notify { frontend, change });
        assert_eq!((next(&heard), next(&other)), (Heard::Started, Heard::Started));
        let began = Instant::now();
        let told = [(F[0], Change::Active), (F[1], Change::Active), (F[3], Change::Failed), (F[2], Change::Inactive)];
        for (frontend, change) in told {
            tell(frontend, change);
            assert_eq!(next(&heard), Heard::Change(frontend, change));
            assert_eq!(next(&other), Heard::Change(frontend, change));
        }
        assert_eq!(next(&heard), Heard::Stopped);
        // While it is down: one target drains, one fails.
        for (frontend, change) in [(F[0], Change::Inactive), (F[2], Change::Failed)] {
            tell(frontend, change);
            assert_eq!(next(&other), Heard::Change(frontend, change));
        }
        assert_eq!(next(&heard), Heard::Started);
        assert!(began.elapsed() >= service::FIRST_PAUSE);
        let state =
            [(F[0], Change::Inactive), (F[1], Change::Active), (F[2], Change::Failed), (F[3], Change::Inactive)];
        for (frontend, change) in state {
            assert_eq!(next(&heard), Heard::Change(frontend, change));
        }
        tell(F[1], Change::Inactive);
        assert_eq!(next(&heard), Heard::Change(F[1], Change::Inactive));
        assert_eq!(next(&other), Heard::Change(F[1], Change::Inactive));
    });
    assert_eq!(heard.try_iter().chain(other.try_iter()).collect::<Vec<_>>(), [Heard::Stopped, Heard::Stopped]);
}

#[test]
fn failed_restarts_are_retried_with_growing_pauses() {
    let (sender, heard) = mpsc::channel();
    let service = Fragile { trap: Some((F[0], Change::Active)), failing_starts: 2, ..fragile(sender) };
    with_services(vec![Service::new("fragile", service)], |orders| {
        let next = || heard.recv_timeout(SOON).expect("it reports");
        assert_eq!(next(), Heard::Started);
        orders.send(Order::Notify { frontend: F[0], change: Change::Active });
        assert_eq!((next(), next()), (Heard::Change(F[0], Change::Active), Heard::Stopped));
        let began = Instant::now();
        assert_eq!(next(), Heard::Started);
        assert!(began.elapsed() >= service::FIRST_PAUSE * (1 + 2 + 4) - Duration::from_millis(50));
        assert_eq!(next(), Heard::Change(F[0], Change::Active));
    });
}

#[test]
fn a_service_that_is_down_at_the_end_is_not_started() {
    let (sender, heard) = mpsc::channel();
    let service = Fragile { timer: Some(Instant::now()), ..fragile(sender) };
    with_services(vec![Service::new("fragile", service)], |_| {
        let next = || heard.recv_timeout(SOON).expect("it reports");
        assert_eq!((next(), next()), (Heard::Started, Heard::Stopped));
    });
    assert_eq!(heard.try_recv().ok(), None);
}

#[test]
fn a_service_that_panics_at_its_first_start_is_named() {
    struct Broken;
    impl Handler for Broken {
        fn start(&mut self, _io: &mut Io<'_>) -> Result<(), Error> {
            panic!("a start");
        }
        fn stop(&mut self, _io: &mut Io<'_>) {}
        fn ready(&mut self, _io: &mut Io<'_>, _key: usize, _readiness: Readiness) {}
    }
    let (inbox, _receiver) = Inbox::new(0, 0);
    let (mut reactor, _orders) = Reactor::new([], vec![Service::new("broken", Broken)], inbox).expect("a reactor");
    let error = reactor.start_services().expect_err("it panics");
    assert_eq!(error.to_string(), format!("service broken: {PANICKED}"));
}

/// A service that repeats a request whenever it is refused.
struct Insistent(Sender<()>);

impl Handler for Insistent {
    fn start(&mut self, io: &mut Io<'_>) -> Result<(), Error> {
        io.request(0, crate::engine::Request::Status);
        Ok(())
    }

    fn stop(&mut self, _io: &mut Io<'_>) {}

    fn ready(&mut self, _io: &mut Io<'_>, _key: usize, _readiness: Readiness) {}

    fn reply(&mut self, io: &mut Io<'_>, tag: u64, reply: Reply) {
        assert!(matches!(reply, Reply::Refused(_)));
        self.0.send(()).expect("the test listens");
        io.request(tag, crate::engine::Request::Status);
    }
}

#[test]
fn requests_without_end_do_not_keep_the_reactor_from_its_orders() {
    let (sender, refusals) = mpsc::channel();
    // Without a receiver, the engine's inbox refuses every request.
    let (inbox, receiver) = Inbox::new(0, 0);
    drop(receiver);
    let services = vec![Service::new("insistent", Insistent(sender))];
    let (mut reactor, orders) = Reactor::new([], services, inbox).expect("a reactor");
    reactor.start_services().expect("it starts");
    let (end, ended) = mpsc::channel();
    std::thread::spawn(move || end.send(reactor.run(|_| ()).is_ok()));
    for _ in 0..3 {
        refusals.recv_timeout(SOON).expect("a refusal");
    }
    orders.send(Order::End);
    assert_eq!(ended.recv_timeout(SOON), Ok(true));
}
