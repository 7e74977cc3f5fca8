//! The plugin's parts by themselves. The whole daemon with the plugin in it is tested by tests/plugins.rs.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use proxygw::assemble::{self, Setup};
use proxygw::engine::core::Event;
use proxygw::engine::{Inbox, Message, Order};
use proxygw::plugin::{Registry, StopSignal, TargetContext};
use proxygw::reactor::Reactor;

/// A configuration with one target at an address and one frontend on its port, as the loader hands it to the daemon.
fn load(address: SocketAddr, options: &str) -> Result<Setup, String> {
    let port = address.port();
    let text = format!(
        "version: v1
targets:
  - {{name: host, kind: demo:greeter, idle_timeout: 1m, endpoints: [{{name: door, protocol: tcp, address: '{address}'}}],
     options: {{greeting: welcome, boot: 50ms}}}}
frontends:
  - {{name: door, kind: demo:knock, protocol: tcp, listen: '0.0.0.0:{port}', flow_timeout: 1m, target: 'host:door',
     options: {{{options}}}}}
"
    );
    let mut registry = Registry::default();
    registry.add("demo", crate::plugin());
    assemble::parse("test.yaml", &text, &mut registry).map_err(|error| error.to_string())
}

/// An address that is free at the moment.
fn free() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("it is bound")
}

#[test]
fn options_are_checked() {
    assert!(load(free(), "secret: sesame").is_ok());
    let error = load(free(), "sekret: sesame").expect_err("the key is misspelt");
    assert!(error.contains("options: secret is missing: a string is required"), "{error}");
    assert!(error.contains("unknown key \"sekret\": did you mean secret?"), "{error}");
}

#[test]
fn the_greeter_boots_greets_and_stops() {
    let address = free();
    let mut setup = load(address, "secret: sesame").expect("a good configuration");
    let target = &mut setup.targets[0].handler;
    let stop = StopSignal::new().expect("a signal");
    let context = TargetContext::new("host", stop.clone());

    let began = Instant::now();
    target.start(&context).expect("the port is free");
    while let Some(Err(_)) = target.probe(&context) {
        assert!(began.elapsed() < Duration::from_secs(10), "it does not boot");
        thread::sleep(Duration::from_millis(1));
    }
    assert!(began.elapsed() >= Duration::from_millis(50), "it is ready after {:?}", began.elapsed());
    assert!(matches!(target.probe(&context), Some(Ok(()))), "it has booted");

    let client = thread::spawn(move || {
        let mut text = String::new();
        TcpStream::connect(address).and_then(|mut stream| stream.read_to_string(&mut text)).expect("a greeting");
        stop.set();
        text
    });
    while !context.stopping() {
        target.wait(&context, None).expect("it runs");
    }
    target.stop(&context).expect("it stops");
    assert_eq!(client.join().expect("a greeting"), "welcome, 127.0.0.1\n");
    assert!(TcpStream::connect(address).is_err(), "the port is closed");
}

#[test]
fn only_the_secret_wakes() {
    let address = free();
    let setup = load(address, "secret: sesame").expect("a good configuration");
    let id = setup.frontends[0].id;
    // The engine's side of the daemon: `messages` receives what the handler sends.
    let (inbox, messages) = Inbox::new(1, 1);
    let (mut reactor, orders) = Reactor::new(setup.handlers, Vec::new(), inbox).expect("a reactor");
    orders.send(Order::Start(id));
    let client = thread::spawn(move || {
        let within = Duration::from_secs(10);
        let started = messages.recv_timeout(within).expect("an answer to the order");
        assert!(matches!(started, Message::Event(Event::FrontendStarted(started)) if started == id), "{started:?}");
        assert_eq!(ask(address, "status\n"), "inactive\n");
        assert_eq!(ask(address, "knock pumpkin\n"), "unknown command\n");
        assert!(messages.is_empty(), "no wake");
        assert_eq!(ask(address, "knock sesame\n"), "starting, connect again\n");
        let woken = messages.recv_timeout(within).expect("a wake");
        assert!(
            matches!(woken, Message::Event(Event::Wake { frontend, source: Some(_) }) if frontend == id),
            "{woken:?}"
        );
        orders.send(Order::End);
    });
    reactor.run(|_| ()).expect("an orderly end");
    client.join().expect("the client's checks hold");
}

/// Sends a request and returns the answer.
fn ask(address: SocketAddr, text: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("a listener");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    stream.write_all(text.as_bytes()).expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}
