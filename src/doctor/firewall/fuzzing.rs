//! The fuzz target of nft's listings. See [`crate::fuzzing`].

use std::net::SocketAddr;

use serde_json::Value;

use super::iptables;
use crate::config::Protocol;
use crate::dataplane::trace::{Elements, Interface, Packet, Ruleset, Segment};

/// Traces packets through a listing. The bytes are its JSON, then, after a zero byte each, the same in nft's own
/// language, and the JSON of a map.
///
/// # Panics
/// Two traces of the same packet differ, or one has no verdict.
pub fn listing(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut parts = text.split('\0');
    let json = parts.next().unwrap_or_default();
    let Ok(mut objects) = serde_json::from_str::<Value>(json) else { return };
    super::tables(&objects);
    iptables::needs_native(json);
    iptables::translate(&mut objects, parts.next().unwrap_or_default());
    let mut rules = Ruleset::read(&objects, Elements::Omitted);
    if let Some(map) = parts.next().and_then(|json| serde_json::from_str(json).ok()) {
        rules.add(&map, Elements::Listed);
    }
    rules.verdict_maps();
    let packets =
        [(Protocol::Tcp, "192.0.2.1:80", "198.51.100.1:8080"), (Protocol::Udp, "[2001:db8::1]:53", "[2001:db8::2]:53")];
    for chain in rules.base_chains() {
        rules.jumps_to(&chain.name, "f");
        for (protocol, original, destination) in packets {
            let address = |text: &str| text.parse::<SocketAddr>().expect("an address");
            let packet = Packet {
                protocol,
                source: None,
                destination: address(destination),
                translated_from: Some(address(original)),
                input: Some(Interface { name: "eth0", index: 2 }),
                output: None,
                segment: Segment::First,
                source_type: None,
                destination_type: None,
            };
            let trace = rules.trace(&chain, &packet);
            assert!(!trace.verdicts.is_empty());
            assert_eq!(trace, rules.trace(&chain, &packet));
        }
    }
}
