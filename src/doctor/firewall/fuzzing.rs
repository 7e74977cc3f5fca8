//! The fuzz target of nft's listings. See [`crate::fuzzing`].

use std::net::SocketAddr;

use serde_json::Value;

use super::packet::Packet;
use super::ruleset::{Ruleset, base_chains};
use crate::config::Protocol;

/// Follows packets through a listing. The bytes are its JSON, then, after a zero byte each, the same in nft's own
/// language, and the JSON of a map with the name `m`.
///
/// # Panics
/// Two walks of the same packet end differently.
pub fn listing(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut parts = text.split('\0');
    let json = parts.next().unwrap_or_default();
    let Ok(objects) = serde_json::from_str::<Value>(json) else { return };
    super::tables(&objects);
    Ruleset::needs_words(json);
    let mut rules = Ruleset::read(&objects, parts.next());
    if let Some(map) = parts.next().and_then(|json| serde_json::from_str(json).ok()) {
        rules.add_map("m", &map);
    }
    rules.maps();
    let packets =
        [(Protocol::Tcp, "192.0.2.1:80", "198.51.100.1:8080"), (Protocol::Udp, "[2001:db8::1]:53", "[2001:db8::2]:53")];
    for chain in base_chains(&objects) {
        rules.jumps_to(&chain.name, "f");
        for (protocol, original, destination) in packets {
            let address = |text: &str| text.parse::<SocketAddr>().expect("an address");
            let packet = Packet {
                protocol,
                destination: address(destination),
                original: address(original),
                dnat: true,
                input: Some("eth0"),
                output: None,
            };
            assert_eq!(rules.drops(&chain, &packet), rules.drops(&chain, &packet));
        }
    }
}
