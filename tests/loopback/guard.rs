//! The guard table: the clients that it drops and passes, and its owner.

use std::net::UdpSocket;
use std::path::Path;

use serde_json::json;

use crate::flood::Flood;
use crate::manager::Manager;
use crate::support::setup::{SOON, always, command, config, external, warm, with};
use crate::support::{
    BACKEND_V4, Daemon, DaemonOptions, GATEWAY_V4, Lab, backend_command, eventually, nft, require_namespaces,
    second_nft, serve_udp_echo, udp_ask,
};
use crate::world::{NONE, assert_served, backend, flush, start_guarded, start_unguarded, tables};

#[test]
fn commands_do_not_inherit_the_stored_socket() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let manager = Manager::start();
    let shows = format!("env; ls -l /proc/self/fd; {}", backend_command("--tcp 127.0.0.1:8080"));
    let target = command("b", &["e=tcp/127.0.0.1:8080"], &shows);
    let setup = config(&[target], &[always("f", "tcp/0.0.0.0:80", "b:e")]);
    let (mut daemon, _nft) = start_guarded(&lab, &setup, manager.options());
    eventually("the guard's socket is stored", SOON, || manager.stored().is_some());
    daemon.kill9();
    daemon.restart();
    daemon.await_target("b", "active", SOON);
    let log = daemon.log();
    assert!(log.contains("PROXYGW_RUN=") && log.contains("pipe:"), "{log}");
    for passed in ["LISTEN_", "NOTIFY_SOCKET=", "socket:"] {
        assert!(!log.contains(passed), "{passed}: {log}");
    }
}

#[test]
fn a_stored_socket_of_another_namespace_is_not_adopted() {
    if !require_namespaces() {
        return;
    }
    let (lab, other) = (Lab::new(), Lab::new());
    let (_server, setup) = backend(&lab);
    let manager = Manager::start();
    let (mut remote, _nft) = start_guarded(&other, &setup, manager.options());
    eventually("the guard's socket is stored", SOON, || manager.stored().is_some());
    remote.kill9();
    let (daemon, _nft) = start_guarded(&lab, &setup, manager.options());
    assert!(daemon.log().contains("cannot use the stored socket"), "{}", daemon.log());
    assert!(tables(&lab).contains("table ip proxygw-guard"));
    let flood = Flood::start(&lab);
    assert_eq!(flood.while_doing(|| flush(&lab)), NONE);
    // The store has closed the old socket, and its table went with it.
    eventually("the old table is gone", SOON, || !tables(&other).contains("proxygw-guard"));
    assert_eq!(manager.stored().as_deref(), Some("proxygw-guard"));
}

#[test]
fn forged_loopback_sources_are_dropped() {
    if !require_namespaces() {
        return;
    }
    for guarded in [true, false] {
        let lab = Lab::new();
        let server = serve_udp_echo(&lab.backend, (BACKEND_V4, 5000).into(), "hello");
        let targets = [external("warm", &["e=udp/203.0.113.2:5000"]), external("cold", &["e=udp/203.0.113.2:5001"])];
        let hold = json!({"kind": "packet:hold", "options": {"packets": 1000, "per_source": 1000}});
        let frontends =
            [always("warm", "udp/0.0.0.0:53", "warm:e"), with(always("cold", "udp/0.0.0.0:54", "cold:e"), hold)];
        let setup = config(&targets, &frontends);
        let (daemon, _nft) =
            if guarded { start_guarded(&lab, &setup, DaemonOptions::default()) } else { start_unguarded(&lab, &setup) };
        daemon.await_target("warm", "active", SOON);
        lab.client().sysctl("ipv4/conf/all/route_localnet", "1");
        lab.client().ip("addr add 127.0.0.5/32 dev eth0\n");
        lab.client().run(|| {
            let socket = UdpSocket::bind("127.0.0.5:0").expect("a socket");
            for port in [53, 54].repeat(100) {
                socket.send_to(b"?", (GATEWAY_V4, port)).expect("sent");
            }
        });
        // It comes after the others.
        let answer = lab.client().run(|| udp_ask((GATEWAY_V4, 53).into(), b"?", SOON)).expect("an answer");
        assert!(answer.starts_with("hello from 198.51.100.2:"), "{answer}");
        assert_eq!(server.served(), 1, "guarded: {guarded}");
        assert_eq!(daemon.frontend("cold")["hold"]["captured"], 0, "guarded: {guarded}");
        assert_eq!(daemon.target("cold")["state"], "inactive", "guarded: {guarded}");
    }
}

#[test]
fn bridged_clients_pass_the_guard() {
    if !require_namespaces() {
        return;
    }
    // Two clients are on a bridge. Where bridge-nf-call-iptables is 1, a packet comes by prerouting twice, the second time
    // with its destination translated.
    let lab = Lab::with_clients(2);
    for call in ["1", "0"] {
        if lab.gateway.run(|| Path::new("/proc/sys/net/bridge").exists()) {
            lab.gateway.sysctl("bridge/bridge-nf-call-iptables", call);
        }
        let (_server, setup) = backend(&lab);
        let (mut daemon, _nft) = start_guarded(&lab, &setup, DaemonOptions::default());
        warm(&daemon, "b");
        assert_served(&lab, &daemon);
        assert!(daemon.terminate().success());
    }
}

#[test]
fn a_new_nft_lists_the_guard_as_json() {
    if !require_namespaces() {
        return;
    }
    let Some(nft) = second_nft() else { return };
    let lab = Lab::with_nft(&nft);
    let (_server, setup) = backend(&lab);
    let daemon = Daemon::start(&lab, &setup);
    let output = lab.gateway.command(&nft).args(["-j", "list", "tables"]).output().expect("nft");
    let listed: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let tables = listed["nftables"].as_array().expect("a list");
    let guard = tables.iter().find(|table| table["table"]["name"] == "proxygw-guard");
    assert_eq!(guard.map(|guard| guard["table"]["flags"] == "owner"), Some(true), "{listed}\n{}", daemon.log());
}

#[test]
fn a_restored_copy_of_the_guard_is_replaced() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let (_server, setup) = backend(&lab);
    nft(&lab.gateway, "table ip proxygw-guard {\n chain prerouting {\n }\n}\n");
    let (mut daemon, _nft) = start_guarded(&lab, &setup, DaemonOptions::default());
    let guard = lab.gateway.sh("nft list table ip proxygw-guard");
    assert!(guard.contains("flags owner") && guard.contains("ip saddr 127.0.0.0/8 iif != \"lo\" drop"), "{guard}");
    assert!(daemon.terminate().success());
    assert_eq!(tables(&lab), "");
}
