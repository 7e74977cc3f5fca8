//! The limits of `packet:hold`, each reached with counted packets, and the losses when packets come too fast.

mod support;

use std::net::{IpAddr, SocketAddr};

use rustix::process::Signal;
use serde_json::{Value, json};
use support::packets::{datagram, send_packets, syn};
use support::setup::{SECOND, command, config};
use support::{Daemon, GATEWAY_V4, GATEWAY_V6, Lab, backend_command, eventually, http_get, require_namespaces};

/// A frontend of kind `packet:hold` on a port of both families, with a target that never listens.
fn held(name: &str, port: u16, options: Value) -> Value {
    json!({"name": name, "kind": "packet:hold", "protocol": "udp", "listen": [format!("0.0.0.0:{port}"), format!("[::]:{port}")],
        "flow_timeout": "1m", "target": "dead:udp", "options": options})
}

/// A target that never listens.
fn dead() -> Value {
    json!({"name": "dead", "kind": "static:cmd", "idle_timeout": "5m", "readiness": {"deadline": "5m"},
        "endpoints": [{"name": "udp", "protocol": "udp", "address": ["203.0.113.1:9", "[2001:db8:2::1]:9"]}],
        "options": {"command": "exec sleep 1000", "stop_grace": "1s"}})
}

fn to(source: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(if source.is_ipv4() { GATEWAY_V4 } else { GATEWAY_V6 }, port)
}

/// Sends datagrams of `length` bytes of data to a port of the gateway.
fn send(lab: &Lab, port: u16, sources: impl IntoIterator<Item = SocketAddr>, length: usize) {
    let data = vec![b'x'; length];
    let packets: Vec<_> = sources.into_iter().map(|source| datagram(source, to(source.ip(), port), &data)).collect();
    send_packets(lab.client(), &lab.gateway, "clients", &packets);
}

/// Waits until a frontend's counters are these: waiting, captured, repeated, made_room, given_up.
#[track_caller]
fn await_counters(daemon: &Daemon, frontend: &str, wanted: [u64; 5]) {
    const KEYS: [&str; 5] = ["waiting", "captured", "repeated", "made_room", "given_up"];
    let mut last = Value::Null;
    eventually(&format!("{frontend}: {KEYS:?} = {wanted:?}"), 10 * SECOND, || {
        last = daemon.frontend(frontend)["hold"].clone();
        KEYS.iter().zip(wanted).all(|(key, wanted)| last[key] == wanted)
    });
}

fn v4(last: u8, port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::from([198, 51, 100, last]), port)
}

#[test]
fn each_limit_evicts_the_oldest() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let frontends = [
        held("packets", 80, json!({"packets": 8, "per_source": 3})),
        held("bytes", 81, json!({"bytes": 3000})),
        held("time", 82, json!({"hold_timeout": "300ms"})),
    ];
    let daemon = Daemon::start(&lab, &config(&[dead()], &frontends));
    // Five of one source, of which three may wait; then one each of ten others, and eight may wait in all.
    send(&lab, 80, (1..=5).map(|port| v4(2, port)), 10);
    await_counters(&daemon, "packets", [3, 5, 0, 2, 0]);
    send(&lab, 80, (10..20).map(|host| v4(host, 1)), 10);
    await_counters(&daemon, "packets", [8, 15, 0, 7, 0]);
    // A flow's packet again takes the place of the one before.
    send(&lab, 80, [v4(19, 1)], 20);
    await_counters(&daemon, "packets", [8, 16, 1, 7, 0]);
    // Hosts of one IPv6 network are one source.
    let host = |host: u16| SocketAddr::new(IpAddr::from([0x2001, 0xdb8, 1, 0, 0, 0, 0, host]), 1);
    send(&lab, 80, (100..104).map(host), 10);
    await_counters(&daemon, "packets", [8, 20, 1, 11, 0]);
    // 1,028 bytes each.
    send(&lab, 81, (1..=4).map(|port| v4(2, port)), 1000);
    await_counters(&daemon, "bytes", [2, 4, 0, 2, 0]);
    send(&lab, 82, (1..=4).map(|port| v4(2, port)), 10);
    await_counters(&daemon, "time", [0, 4, 0, 0, 4]);
    // The others wait for as long as before.
    await_counters(&daemon, "packets", [8, 20, 1, 11, 0]);
}

#[test]
fn an_overrun_is_counted_and_later_packets_are_held() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let serve = backend_command("--tcp 203.0.113.1:8080");
    let real = json!({"name": "real", "kind": "packet:hold", "protocol": "tcp", "listen": "0.0.0.0:80",
        "flow_timeout": "1m", "target": "b:t"});
    let targets = [dead(), command("b", &["t=tcp/203.0.113.1:8080"], &serve)];
    let mut daemon = Daemon::start(&lab, &config(&targets, &[held("flood", 81, json!({})), real]));
    // While it is stopped, nothing is read. The kernel keeps 8 MiB at most, some hundred bytes or more for each packet.
    daemon.signal(Signal::STOP);
    let sources = (0..30_000u32).map(|n| SocketAddr::new(IpAddr::from((0x6440_0000 + n).to_be_bytes()), 1));
    send(&lab, 81, sources, 100);
    // A client's first SYN is among the lost packets.
    send_packets(lab.client(), &lab.gateway, "clients", &[syn(v4(2, 1), to(GATEWAY_V4, 80))]);
    daemon.signal(Signal::CONT);
    eventually("the loss is counted", 10 * SECOND, || daemon.status()["hold"]["overruns"].as_u64() > Some(0));
    let counters = daemon.frontend("flood")["hold"].clone();
    let captured = counters["captured"].as_u64().expect("a number");
    println!("{captured} packets were kept unread");
    assert!(captured > 100 && captured < 30_000, "{counters}");
    assert_eq!(daemon.frontend("real")["hold"]["captured"], 0);
    assert_eq!(lab.client().run(|| http_get(to(GATEWAY_V4, 80), "/")).expect("it is served").0, 200);
}
