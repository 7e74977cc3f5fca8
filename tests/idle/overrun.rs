//! More events than anybody reads.

use std::net::{TcpListener, TcpStream};
use std::time::SystemTime;

use rustix::process::Signal;
use serde_json::json;

use crate::moments::{LATE, assert_on_time, drained, draining, held, serve};
use crate::support::setup::{SECOND, SOON, at, config, external, holds, with};
use crate::support::{Client, Daemon, Lab, require_namespaces};

/// How many connections come and go unseen. Each makes six events and more, and the kernel keeps some 16,000.
const CROWD: usize = 6000;

#[test]
fn events_that_were_lost_are_made_up_for() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let _backend = serve(&lab, &[81]);
    let target = external("b", &["t=tcp/203.0.113.2:81", "crowd=tcp/203.0.113.2:90"]);
    let target = with(target, json!({"idle_timeout": "1s", "readiness": {"probe": "none"}}));
    let crowded = with(held(90, "b:t", "60s"), json!({"name": "crowd", "target": "b:crowd"}));
    let mut daemon = Daemon::start(&lab, &config(&[target], &[held(81, "b:t", "60s"), crowded]));
    let listener = lab.backend.run(|| TcpListener::bind("203.0.113.2:90")).expect("it listens");
    let gone = Client::connect(lab.client(), at("198.51.100.1:81"));
    let open = Client::connect(lab.client(), at("198.51.100.1:81"));

    let lines = daemon.process().lines();
    daemon.signal(Signal::STOP);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for connection in listener.incoming().take(CROWD) {
                drop(connection);
            }
        });
        lab.client().run(|| {
            for _ in 0..CROWD {
                drop(TcpStream::connect_timeout(&at("198.51.100.1:90"), SOON).expect("a connection"));
            }
        });
    });
    drop(gone);
    let late = Client::connect(lab.client(), at("198.51.100.1:81"));
    daemon.signal(Signal::CONT);
    daemon.process().await_line_after(lines, "events came too fast", SOON);
    assert_eq!(daemon.target("b")["flows"], json!(2), "{}", daemon.log());
    assert_eq!((&daemon.frontend("b-t")["flows"], &daemon.frontend("crowd")["flows"]), (&json!(2), &json!(0)));
    drop(open);
    holds("one is open", 3 * SECOND / 2, || !daemon.log().contains(&draining("b")));
    assert_eq!(daemon.target("b")["flows"], json!(1), "{}", daemon.log());
    let before = SystemTime::now();
    drop(late);
    let after = SystemTime::now();
    let drain = drained(&mut daemon, lines, "b", SOON);
    assert_on_time("b", drain, (before + SECOND, after + SECOND), LATE, &daemon.log());
}
