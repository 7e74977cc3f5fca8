//! Clients that come just when their target drains.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::moments::held;
use crate::support::setup::{PAGE, SOON, at, command, config, page, with};
use crate::support::{Daemon, Lab, backend_command, http_get, require_namespaces, udp_ask};

/// For how long.
const RACE: Duration = Duration::from_secs(10);

/// Moments between two, by a generator of its own for each client.
fn moments(seed: u32, from: u64, to: u64) -> impl FnMut() -> Duration {
    let mut state = seed;
    move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        Duration::from_millis(from + u64::from(state >> 8) % (to - from))
    }
}

#[test]
fn a_client_that_races_with_a_drain_gets_its_answer() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::with_clients(3);
    let backend = |name: &str, port: u16| {
        let place = format!("127.0.0.1:{port}");
        let (tcp, udp) = (format!("t=tcp/{place}"), format!("u=udp/{place}"));
        let target = command(name, &[&tcp, &udp], &backend_command(&format!("--tcp {place} --udp {place}")));
        with(target, json!({"idle_timeout": "200ms"}))
    };
    let targets = [backend("hold", 8081), backend("page", 8082), backend("datagram", 8083)];
    let frontends =
        [held(81, "hold:t", "60s"), page("page", "198.51.100.1:82", "page:t"), held(83, "datagram:u", "1s")];
    let daemon = Daemon::start(&lab, &config(&targets, &frontends));
    let until = Instant::now() + RACE;
    let race = |client: usize, (from, to): (u64, u64), ask: &(dyn Fn() -> std::io::Result<String> + Sync)| {
        let mut moment = moments(client as u32 + 1, from, to);
        let mut asked = 0;
        lab.clients[client].run(|| {
            while Instant::now() < until {
                let answer = ask().unwrap_or_else(|error| panic!("client {client}: {error}\n{}", daemon.log()));
                assert!(answer.contains("\"peer\"") || client == 1 && answer == PAGE, "{answer}");
                asked += 1;
                std::thread::sleep(moment());
            }
        });
        assert!(asked > 5, "{asked}");
    };
    std::thread::scope(|scope| {
        // A drain takes about 50 ms, and begins 200 ms after the answer.
        scope.spawn(|| race(0, (190, 280), &|| Ok(http_get(at("198.51.100.1:81"), "/")?.1)));
        scope.spawn(|| race(1, (190, 280), &|| Ok(http_get(at("198.51.100.1:82"), "/")?.1)));
        scope.spawn(|| race(2, (1150, 1500), &|| udp_ask(at("198.51.100.1:83"), b"?", SOON)));
    });
    let log = daemon.log();
    for target in ["hold", "page", "datagram"] {
        let count = |what: &str| log.matches(&format!("target {target}: {what}")).count();
        assert!(count("inactive") > 2, "{target} slept too rarely\n{log}");
        println!("{target}: {} drains, {} called off", count("draining"), count("active again"));
    }
}
