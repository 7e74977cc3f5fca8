//! Packets made by hand, and how they leave a namespace unchecked.

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::process::Stdio;

use super::Namespace;

/// `IPPROTO_TCP` and `IPPROTO_UDP`.
const TCP: u8 = 6;
const UDP: u8 = 17;

/// Sends packets from a namespace's `eth0` to the link-layer address of an interface of another one.
///
/// # Panics
/// If they cannot be sent.
#[track_caller]
pub fn send_packets(from: &Namespace, to: &Namespace, interface: &str, packets: &[Vec<u8>]) {
    let link = to.command("ip").args(["-j", "link", "show", interface]).output().expect("ip");
    let link: serde_json::Value = serde_json::from_slice(&link.stdout).expect("JSON");
    let mac = link[0]["address"].as_str().expect("an Ethernet address");
    let mut command = from.command("/usr/bin/python3");
    command.args([concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/send_packets.py"), "eth0", mac]);
    let mut sender = command.stdin(Stdio::piped()).spawn().expect("python3");
    let mut stdin = sender.stdin.take().expect("piped");
    for packet in packets {
        let line: String = packet.iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(stdin, "{line}").expect("the sender reads");
    }
    drop(stdin);
    assert!(sender.wait().expect("a child").success());
}

/// A first SYN without options.
pub fn syn(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let mut segment =
        [ports(source, destination), vec![0, 0, 0, 1, 0, 0, 0, 0, 5 << 4, 2, 0xfa, 0, 0, 0, 0, 0]].concat();
    fill_checksum(&mut segment, 16, source.ip(), destination.ip(), TCP);
    ip(source.ip(), destination.ip(), TCP, &[], &segment)
}

/// A datagram.
pub fn datagram(source: SocketAddr, destination: SocketAddr, data: &[u8]) -> Vec<u8> {
    ip(source.ip(), destination.ip(), UDP, &[], &udp(source, destination, data))
}

/// An IPv6 datagram with destination options of `options` bytes, as two fragments, the first of which has
/// `first` bytes behind its fragment header.
pub fn fragmented(
    source: SocketAddr,
    destination: SocketAddr,
    options: usize,
    data: &[u8],
    first: usize,
) -> [Vec<u8>; 2] {
    const FRAGMENT: u8 = 44;
    let whole = [destination_options(UDP, options), udp(source, destination, data)].concat();
    let fragment = |offset: usize, part: &[u8], more: u16| {
        let field = offset as u16 | more;
        let header = [&[DESTINATION_OPTIONS, 0][..], &field.to_be_bytes(), &[0, 0, 0x12, 0x34]].concat();
        ip(source.ip(), destination.ip(), FRAGMENT, &header, part)
    };
    [fragment(0, &whole[..first], 1), fragment(first, &whole[first..], 0)]
}

const DESTINATION_OPTIONS: u8 = 60;

/// A header of destination options full of padding, `length` bytes long in all.
fn destination_options(next: u8, length: usize) -> Vec<u8> {
    const PAD_N: u8 = 1;
    assert!(length.is_multiple_of(8) && (8..=2048).contains(&length));
    let mut header = vec![next, (length / 8 - 1) as u8];
    while header.len() < length {
        let padding = (length - header.len() - 2).min(255);
        // Nothing shorter than two bytes may be left.
        let padding = if length - header.len() - 2 - padding == 1 { padding - 1 } else { padding };
        header.extend([PAD_N, padding as u8]);
        header.resize(header.len() + padding, 0);
    }
    header
}

fn ports(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    [source.port().to_be_bytes(), destination.port().to_be_bytes()].concat()
}

fn udp(source: SocketAddr, destination: SocketAddr, data: &[u8]) -> Vec<u8> {
    let mut segment = ports(source, destination);
    segment.extend(((8 + data.len()) as u16).to_be_bytes());
    segment.extend([0, 0]);
    segment.extend(data);
    fill_checksum(&mut segment, 6, source.ip(), destination.ip(), UDP);
    segment
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// A packet with an IP header and `extension` headers before its payload; `next` is what the IP header names.
fn ip(source: IpAddr, destination: IpAddr, next: u8, extension: &[u8], payload: &[u8]) -> Vec<u8> {
    let length = extension.len() + payload.len();
    let mut packet = match source {
        IpAddr::V4(_) => {
            let mut header = vec![0x45, 0];
            header.extend(((20 + length) as u16).to_be_bytes());
            header.extend([0, 0, 0, 0, 64, next, 0, 0]);
            header
        }
        IpAddr::V6(_) => {
            let mut header = vec![0x60, 0, 0, 0];
            header.extend((length as u16).to_be_bytes());
            header.extend([next, 64]);
            header
        }
    };
    packet.extend(octets(source));
    packet.extend(octets(destination));
    if source.is_ipv4() {
        let sum = internet_checksum(&packet);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    [packet, extension.to_vec(), payload.to_vec()].concat()
}

fn fill_checksum(segment: &mut [u8], at: usize, source: IpAddr, destination: IpAddr, protocol: u8) {
    let length = (segment.len() as u32).to_be_bytes().to_vec();
    let whole = [octets(source), octets(destination), length, vec![0, 0, 0, protocol], segment.to_vec()].concat();
    let sum = internet_checksum(&whole);
    segment[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

/// The checksum of RFC 1071.
fn internet_checksum(bytes: &[u8]) -> u16 {
    let pairs = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u32 = pairs.sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !(sum as u16)
}
