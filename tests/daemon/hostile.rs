//! Clients of the control socket that mean no good: each harms itself and nobody else.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::panic::AssertUnwindSafe;
use std::time::Instant;

use crate::control::{STATUS, connect, start};
use crate::setup::{SECOND, SOON, assert_answers, ctl, memory};
use crate::support::{Daemon, GATEWAY_V4, Lab, eventually, http_get, require_namespaces};

/// Writes until the other side closes; returns how many bytes it took.
fn pour(stream: &mut UnixStream, bytes: &[u8], most: usize) -> usize {
    let mut sent = 0;
    while sent < most {
        match stream.write(bytes) {
            Ok(count) => sent += count,
            Err(_) => return sent,
        }
    }
    sent
}

/// For two seconds.
#[track_caller]
fn assert_all_is_answered(lab: &Lab, daemon: &Daemon) {
    let until = Instant::now() + 2 * SECOND;
    while Instant::now() < until {
        let began = Instant::now();
        daemon.status();
        lab.client().run(|| http_get((GATEWAY_V4, 80).into(), "/nothing")).expect("an answer");
        // The others never stop sending requests: a request that waits for one of them is not answered at all.
        assert!(began.elapsed() < 5 * SECOND, "{:?}", began.elapsed());
    }
}

#[test]
fn a_client_that_never_ends_asking_keeps_nobody_waiting() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let daemon = start(&lab, "json");
    for packet in [
        "{\"id\":1,\"method\":98,\"body\":{}}\n",
        "{\"id\":0,\"method\":98,\"body\":{}}\n",
        "{\"id\":1,\"method\":2,\"body\":{}}\n",
    ] {
        let packets = packet.repeat(1000);
        let packets = packets.as_bytes();
        let streams: Vec<UnixStream> = (0..2).map(|_| connect(daemon.socket())).collect();
        std::thread::scope(|scope| {
            for stream in &streams {
                scope.spawn(move || while { stream }.write_all(packets).is_ok() {});
                scope.spawn(move || while { stream }.read(&mut [0; 65536]).is_ok_and(|read| read > 0) {});
            }
            let asked = std::panic::catch_unwind(AssertUnwindSafe(|| assert_all_is_answered(&lab, &daemon)));
            for stream in &streams {
                let _ = stream.shutdown(std::net::Shutdown::Both);
            }
            assert!(asked.is_ok(), "{packet}");
        });
    }
}

#[test]
fn hostile_clients_harm_only_themselves() {
    if !require_namespaces() {
        return;
    }
    for codec in ["json", "cbor"] {
        let lab = Lab::new();
        let daemon = start(&lab, codec);
        assert_answers(&daemon);
        let before = memory(&daemon);
        let check = |what: &str| {
            assert_answers(&daemon);
            let now = memory(&daemon);
            assert!(now < before + 16 * 1024, "{what}: {before} KiB before, {now} KiB now");
        };

        connect(daemon.socket()).write_all(b"GET / HTTP/1.1\r\n\r\n\xff\x00\xfe").expect("sent");
        check("garbage");

        let mut half = connect(daemon.socket());
        half.write_all(&STATUS[..10]).expect("sent");
        check("half a packet");

        let json = b"{\"id\":1,\"method\":2,\"body\":{\"x\":\"";
        // Text of 2^32 bytes as a body.
        let cbor = b"\xa3\x62id\x01\x66method\x02\x64body\x7b\x00\x00\x00\x01\x00\x00\x00\x00";
        let mut huge = connect(daemon.socket());
        huge.write_all(if codec == "json" { json } else { cbor }).expect("sent");
        let taken = pour(&mut huge, &[b'x'; 65536], 100 << 20);
        assert!(taken < 4 << 20, "{taken} bytes of a packet were taken");
        check("100 MB");

        let mut deep = connect(daemon.socket());
        deep.write_all(if codec == "json" { &json[..26] } else { &cbor[..18] }).expect("sent");
        pour(&mut deep, &[if codec == "json" { b'[' } else { 0x81 }; 65536], 10 << 20);
        check("deep nesting");

        let crowd: Vec<UnixStream> = (0..1000).map(|_| connect(daemon.socket())).collect();
        check("1,000 connections");
        drop(crowd);

        // It asks and asks, and never reads.
        let greedy = connect(daemon.socket());
        greedy.set_nonblocking(true).expect("a socket");
        let status = b"\xa3\x62\x69\x64\x01\x66\x6d\x65\x74\x68\x6f\x64\x02\x64\x62\x6f\x64\x79\xa0";
        let many = if codec == "json" { STATUS } else { &status[..] }.repeat(1000);
        let began = Instant::now();
        while began.elapsed() < 2 * SECOND {
            match (&greedy).write(&many) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => check("statuses that nobody reads"),
                Err(_) => break,
            }
        }
        check("statuses that nobody reads");

        // Ordinary work goes on among them.
        assert!(ctl(&daemon, &["warm", "b"]).status.success());
        eventually("it is warm", SOON, || assert_answers(&daemon)["targets"][0]["state"] == "active");
        drop((half, greedy, deep, huge));
    }
}
