#![allow(clippy::unwrap_used)]
//! The service with real sockets and a clock that the test moves.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::client;
use super::methods;
use super::peer::STALL_TIMEOUT;
use super::service::Service;
use super::settings::Settings;
use super::socket_tests::Directory;
use super::wire::{Codec, Value};
use crate::plugin::testing::TestReactor;
use crate::plugin::{Handler, Reply, Status, TargetState, TargetStatus};

/// Number of clients with the limit of open files that tests have.
const MAX_PEERS: usize = 64;

struct Daemon {
    service: Service,
    reactor: TestReactor,
    path: PathBuf,
    /// The engine's reply to all requests; without it, none.
    reply: Option<Reply>,
    _directory: Directory,
}

impl Daemon {
    fn new(codec: Codec) -> Daemon {
        let directory = Directory::new();
        let settings = Settings { codec, ..directory.settings() };
        let path = settings.socket.clone();
        let (mut service, mut reactor) = (Service::new(settings), TestReactor::new());
        service.start(&mut reactor.io()).unwrap();
        Daemon { service, reactor, path, reply: Some(Reply::Done), _directory: directory }
    }

    fn connect(&self) -> UnixStream {
        let client = UnixStream::connect(&self.path).unwrap();
        client.set_nonblocking(true).unwrap();
        client
    }

    /// One round of the loop. Returns false if nothing happened.
    fn round(&mut self) -> bool {
        let happened = self.reactor.round(&mut self.service);
        let reply = self.reply.clone();
        reply.is_some_and(|reply| self.reactor.reply(&mut self.service, &reply)) || happened
    }

    /// Runs rounds until nothing happens.
    #[track_caller]
    fn settle(&mut self) {
        assert!((0..10_000).any(|_| !self.round()), "the loop spins");
    }

    #[track_caller]
    fn pass(&mut self, time: Duration) {
        self.reactor.pass(time);
        self.settle();
    }
}

/// The received text, and whether the connection has ended.
fn drain(client: &mut UnixStream) -> (String, bool) {
    let mut bytes = Vec::new();
    let ended = match client.read_to_end(&mut bytes) {
        Ok(_) => true,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => true,
        Err(error) => panic!("{error}"),
    };
    (String::from_utf8_lossy(&bytes).into_owned(), ended)
}

const STATUS: &[u8] = b"{\"id\":1,\"method\":2,\"body\":{}}\n";

fn large_status(targets: usize) -> Reply {
    let target = |index| TargetStatus {
        name: format!("target-{index:06}"),
        kind: "static:cmd".into(),
        state: TargetState::Active,
        since: "2026-11-23T09:14:40.123Z".into(),
        flows: Some(index as u32),
        drains_in: None,
        pid: Some(4711),
        retry_in: None,
        last_error: Some("x".repeat(200)),
        waiting_for: None,
        endpoints: Vec::new(),
    };
    let targets = (0..targets).map(target).collect();
    Reply::Status(Box::new(Status { closed: false, targets, frontends: Vec::new(), hold: None }))
}

#[test]
fn requests_in_parts_are_answered_without_wake_ups() {
    let mut daemon = Daemon::new(Codec::Json);
    daemon.settle();
    assert_eq!(daemon.service.deadline(), None);
    let mut client = daemon.connect();
    for byte in STATUS.trim_ascii_end() {
        assert_eq!(drain(&mut client), (String::new(), false));
        client.write_all(&[*byte]).unwrap();
        daemon.settle();
    }
    assert_eq!(drain(&mut client), ("{\"id\":1,\"method\":3,\"body\":{}}\n".into(), false));
    client.write_all(&STATUS.repeat(500)).unwrap();
    let mut answers = 0;
    for _ in 0..10 {
        daemon.settle();
        answers += drain(&mut client).0.lines().filter(|line| *line == "{\"id\":1,\"method\":3,\"body\":{}}").count();
    }
    assert_eq!(answers, 500);
    // That the client has taken its answers is news once.
    daemon.settle();
    assert_eq!(daemon.service.deadline(), None);
    assert!(!daemon.round());
    drop(client);
    daemon.settle();
    assert_eq!(daemon.service.deadline(), None);
}

#[test]
fn half_closed_client_gets_its_responses() {
    let mut daemon = Daemon::new(Codec::Json);
    daemon.reply = None;
    let mut client = daemon.connect();
    client.write_all(&STATUS.repeat(2)).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    daemon.settle();
    assert_eq!(drain(&mut client), (String::new(), false));
    daemon.reply = Some(large_status(5000));
    let mut all = String::new();
    let ended = (0..1000).any(|_| {
        daemon.settle();
        let (text, ended) = drain(&mut client);
        all += &text;
        ended
    });
    assert!(ended);
    assert_eq!(all.lines().count(), 2);
    assert!(all.len() > 2_000_000);
}

#[test]
fn late_reply_reaches_no_other_client() {
    let mut daemon = Daemon::new(Codec::Json);
    daemon.reply = None;
    let mut gone = daemon.connect();
    gone.write_all(STATUS).unwrap();
    daemon.settle();
    let late = std::mem::take(&mut daemon.reactor.requests);
    assert_eq!(late.len(), 1);
    // The newcomers replace it.
    daemon.reactor.pass(Duration::from_secs(1));
    let mut others: Vec<UnixStream> = Vec::new();
    for _ in 0..MAX_PEERS {
        let mut other = daemon.connect();
        other.write_all(STATUS).unwrap();
        daemon.settle();
        others.push(other);
    }
    assert_eq!(drain(&mut gone), (String::new(), true));
    assert_eq!(daemon.reactor.requests.len(), MAX_PEERS);
    daemon.service.reply(&mut daemon.reactor.io(), late[0].0, Reply::Done);
    for other in &mut others {
        assert_eq!(drain(other), (String::new(), false));
    }
    daemon.reply = Some(Reply::Done);
    daemon.settle();
    for other in &mut others {
        assert_eq!(drain(other).0, "{\"id\":1,\"method\":3,\"body\":{}}\n");
    }
}

#[test]
fn idlest_client_is_replaced() {
    let mut daemon = Daemon::new(Codec::Json);
    let mut clients = Vec::new();
    for _ in 0..MAX_PEERS {
        clients.push(daemon.connect());
        daemon.pass(Duration::from_millis(1));
    }
    clients[0].write_all(STATUS).unwrap();
    daemon.pass(Duration::from_millis(1));
    let mut newcomer = daemon.connect();
    newcomer.write_all(STATUS).unwrap();
    daemon.settle();
    assert!(drain(&mut newcomer).0.starts_with("{\"id\":1,"));
    let ended: Vec<bool> = clients.iter_mut().map(|client| drain(client).1).collect();
    assert_eq!(ended.iter().position(|&ended| ended), Some(1));
    assert_eq!(ended.iter().filter(|&&ended| ended).count(), 1);
}

#[test]
fn a_thousand_connections_do_not_block_others() {
    let mut daemon = Daemon::new(Codec::Json);
    let mut crowd = Vec::new();
    for index in 0..1000 {
        crowd.push(daemon.connect());
        if index % 100 == 99 {
            daemon.settle();
        }
    }
    let mut client = daemon.connect();
    client.write_all(STATUS).unwrap();
    daemon.settle();
    assert_eq!(drain(&mut client), ("{\"id\":1,\"method\":3,\"body\":{}}\n".into(), false));
    let alive = crowd.iter_mut().filter_map(|client| (!drain(client).1).then_some(())).count();
    assert_eq!(alive, MAX_PEERS - 1);
}

#[test]
fn client_that_does_not_read_is_closed() {
    let mut daemon = Daemon::new(Codec::Json);
    daemon.reply = Some(large_status(10_000));
    let mut stalled = daemon.connect();
    let mut slow = daemon.connect();
    stalled.write_all(STATUS).unwrap();
    slow.write_all(STATUS).unwrap();
    daemon.settle();
    assert_eq!(daemon.service.deadline(), Some(daemon.reactor.now() + STALL_TIMEOUT));
    let mut chunk = vec![0; 300_000];
    for _ in 0..3 {
        daemon.pass(STALL_TIMEOUT - Duration::from_millis(2));
        let mut taken = 0;
        while taken < chunk.len() {
            taken += slow.read(&mut chunk[taken..]).unwrap_or(chunk.len());
        }
        daemon.settle();
        daemon.pass(Duration::from_millis(1));
    }
    // The stalled one has been closed meanwhile, the slow one has not.
    let text = drain(&mut stalled);
    assert!(text.1 && !text.0.ends_with('\n'));
    let whole = (0..1000).any(|_| {
        daemon.settle();
        drain(&mut slow).0.ends_with('\n')
    });
    assert!(whole);
    daemon.settle();
    assert_eq!(daemon.service.deadline(), None);
    slow.write_all(b"{\"id\":2,\"method\":9}").unwrap();
    daemon.settle();
    assert!(drain(&mut slow).0.starts_with("{\"id\":2,\"method\":1,"));
}

#[test]
fn malformed_bytes_close_their_connection() {
    let mut daemon = Daemon::new(Codec::Json);
    let mut good = daemon.connect();
    let garbage: [&[u8]; 4] = [b"\xff\x00garbage", b"GET / HTTP/1.1\r\n\r\n", b"{\"id\":}", b"]"];
    for bytes in garbage {
        let mut bad = daemon.connect();
        bad.write_all(bytes).unwrap();
        daemon.settle();
        assert_eq!(drain(&mut bad), (String::new(), true));
    }
    let mut long = daemon.connect();
    let mut sent = 0;
    let chunk = [b'x'; 8192];
    long.write_all(b"{\"id\":1,\"method\":2,\"body\":\"").unwrap();
    while long.write_all(&chunk).is_ok() {
        sent += chunk.len();
        daemon.settle();
        assert!(sent < 100_000_000);
    }
    assert!(sent < 1_000_000);
    let (text, ended) = drain(&mut long);
    assert!(ended);
    assert_eq!(text, "{\"id\":1,\"method\":1,\"body\":{\"msg\":\"the packet is longer than 65536 bytes\"}}\n");
    good.write_all(STATUS).unwrap();
    daemon.settle();
    assert!(drain(&mut good).0.starts_with("{\"id\":1,\"method\":3,"));
}

#[test]
fn busy_client_leaves_others_their_turn() {
    let mut daemon = Daemon::new(Codec::Json);
    let mut talker = daemon.connect();
    // Each is refused without the engine, so that nothing but the turn's end ever stops it.
    let _ = talker.write(&b"{\"id\":1,\"method\":99}".repeat(5000)).unwrap();
    let mut client = daemon.connect();
    client.write_all(STATUS).unwrap();
    let rounds = (1..100).find(|_| {
        daemon.round();
        drain(&mut client).0.starts_with("{\"id\":1,\"method\":3,")
    });
    assert!(rounds.unwrap() <= 3, "{rounds:?}");
    assert!(daemon.service.deadline().is_some());
    let mut answers = 0;
    for _ in 0..1000 {
        daemon.settle();
        answers += drain(&mut talker).0.lines().count();
    }
    assert_eq!(answers, 5000);
}

#[test]
fn client_and_server_exchange_packets() {
    for codec in Codec::ALL {
        let mut daemon = Daemon::new(codec);
        daemon.reply = Some(large_status(1000));
        let path = daemon.path.clone();
        let ask = move |codec, method, name: Option<&'static str>| {
            let path = path.clone();
            std::thread::spawn(move || client::exchange(&path, codec, method, name, Duration::from_secs(10)))
        };
        let finish = |daemon: &mut Daemon, thread: std::thread::JoinHandle<Result<Value, _>>| {
            while !thread.is_finished() {
                daemon.settle();
                std::thread::sleep(Duration::from_millis(1));
            }
            thread.join().unwrap()
        };
        let body = finish(&mut daemon, ask(codec, methods::STATUS, None)).unwrap();
        let keys: Vec<&str> = body.as_map().unwrap().iter().filter_map(|(key, _)| key.as_text()).collect();
        assert_eq!(keys, ["closed", "targets", "frontends"]);

        daemon.reply = Some(Reply::Refused("there is no target \"x\"".into()));
        let refused = finish(&mut daemon, ask(codec, methods::WARM_TARGET, Some("x"))).unwrap_err();
        assert_eq!(refused.to_string(), "there is no target \"x\"");

        let other = if codec == Codec::Json { Codec::Cbor } else { Codec::Json };
        let wrong = finish(&mut daemon, ask(other, methods::STATUS, None)).unwrap_err().to_string();
        assert!(wrong.contains(&format!("does it use another codec than {}?", other.name())), "{wrong}");
    }
}

#[test]
fn client_times_out() {
    let directory = Directory::new();
    let path = directory.settings().socket;
    let ask = |patience| {
        let began = Instant::now();
        let error = client::exchange(&path, Codec::Json, methods::STATUS, None, patience).unwrap_err().to_string();
        assert!(began.elapsed() < Duration::from_secs(5));
        error
    };
    let short = Duration::from_millis(50);
    assert!(ask(short).ends_with("no such file; is proxygw running?"));
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    assert!(ask(short).ends_with("the daemon does not respond"));
    // Its queue is full now.
    let mut clients = Vec::new();
    while let Ok(client) = mio::net::UnixStream::connect(&path) {
        clients.push(client);
    }
    assert!(ask(short).ends_with("the daemon does not respond"));
    drop((listener, clients));
    assert!(ask(short).ends_with("connection refused; is proxygw running?"));
}
