//! What the loop does with handlers that fail.

use std::net::SocketAddr;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

use mio::Interest;
use mio::net::TcpListener;

use super::*;

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

fn guard(panics: bool) -> (Option<Box<dyn Handler>>, Receiver<SocketAddr>) {
    let (address, receiver) = mpsc::channel();
    (Some(Box::new(Guard { listener: None, panics, address })), receiver)
}

#[test]
fn a_handler_that_panics_is_closed_and_can_be_started_again_and_the_others_go_on() {
    let (bad, bad_address) = guard(true);
    let (good, good_address) = guard(false);
    let (inbox, receiver) = Inbox::new(0, 2);
    let (mut reactor, orders) = Reactor::new(vec![bad, good], Vec::new(), inbox).expect("a reactor");
    let heard = |expected: Event| match receiver.recv_timeout(SOON) {
        Ok(Message::Event(event)) => assert_eq!(event, expected),
        other => panic!("{other:?}"),
    };
    let connect = |address| std::net::TcpStream::connect_timeout(&address, SOON);
    std::thread::scope(|scope| {
        scope.spawn(|| reactor.run(|_| ()).expect("it ends"));
        let _end = End(orders.clone());
        for id in [1, 0] {
            orders.send(Order::Start(id));
            heard(Event::FrontendStarted(id));
        }
        let good = good_address.recv_timeout(SOON).expect("started");
        for _ in 0..3 {
            let bad = bad_address.recv_timeout(SOON).expect("started");
            // It may be reset before connect has returned.
            let _ = connect(bad);
            heard(Event::FrontendBroke(0, PANICKED.to_owned()));
            let error = connect(bad).expect_err("it listens no more");
            assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
            connect(good).expect("it still listens");
            orders.send(Order::Stop(0));
            heard(Event::FrontendStopped(0));
            orders.send(Order::Start(0));
            heard(Event::FrontendStarted(0));
        }
    });
}
