//! `packet:hold` against packets that an attacker made: none ends the daemon, and none goes where it must not.

mod support;

use std::net::SocketAddr;

use serde_json::{Value, json};
use support::packets::{fragmented, send_packets};
use support::setup::{SECOND, command, config};
use support::{Daemon, GATEWAY_V6, Lab, backend_command, http_get, require_namespaces, udp_ask};

/// A frontend of kind `packet:hold`.
fn held(name: &str, listen: &str, target: &str, changes: Value) -> Value {
    let (protocol, listen) = listen.split_once('/').expect("PROTOCOL/…");
    let frontend = json!({"name": name, "kind": "packet:hold", "protocol": protocol, "listen": listen,
        "flow_timeout": "1m", "target": target});
    support::setup::with(frontend, changes)
}

#[test]
fn fragments_with_long_extension_headers_leave_the_daemon_alive() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let endpoint = "[2001:db8:1::1]:8080";
    let serve = backend_command(&format!("--tcp {endpoint} --udp {endpoint} --delay 0.2"));
    let target = command("b", &[&format!("t=tcp/{endpoint}"), &format!("u=udp/{endpoint}")], &serve);
    let frontends = [held("t", "tcp/[::]:80", "b:t", json!({})), held("u", "udp/[::]:80", "b:u", json!({}))];
    let mut daemon = Daemon::start(&lab, &config(&[target], &frontends));
    let (client, gateway): (SocketAddr, SocketAddr) = ((Lab::client_v6(0), 40_000).into(), (GATEWAY_V6, 80).into());
    // 1,232 bytes of options leave no space for a payload within the minimum MTU, and 1,240 less than none.
    for (port, options) in [(40_000, 1224), (40_001, 1232), (40_002, 1240), (40_003, 1400)] {
        let client = SocketAddr::new(client.ip(), port);
        let parts = fragmented(client, gateway, options, &[b'x'; 400], options + 48);
        send_packets(lab.client(), &lab.gateway, "clients", &parts);
    }
    daemon.await_target("b", "active", 10 * SECOND);
    let answer = lab.client().run(|| udp_ask(gateway, b"hello", 5 * SECOND)).expect("it is answered");
    assert!(answer.contains("2001:db8:1::2"), "{answer}");
    assert_eq!(lab.client().run(|| http_get(gateway, "/")).expect("it is served").0, 200);
    let status = daemon.status();
    assert_eq!(daemon.process().try_wait(), None);
    let counted = &daemon.frontend("u")["hold"];
    // The first has space for the UDP header alone in its first fragment; the others cannot be sent within the minimum MTU.
    assert_eq!((&status["hold"]["unfit"], &counted["sent"]), (&json!(3), &json!(1)), "{status:#}");
}
