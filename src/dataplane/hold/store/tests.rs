//! The store against a model of it: a list that is searched from the front.

use std::net::SocketAddr;

use super::*;
use crate::config::Protocol;
use crate::dataplane::plan::OnFailure;
use crate::random::Random;

/// A datagram from a source, with `length` bytes of data.
pub(in super::super) fn datagram(source: SocketAddr, length: usize) -> Packet {
    let udp = [&source.port().to_be_bytes()[..], &[0, 80], &(8 + length as u16).to_be_bytes(), &vec![0; 2 + length]];
    let udp = udp.concat();
    let bytes = match source.ip() {
        IpAddr::V4(address) => {
            let total = (20 + udp.len() as u16).to_be_bytes();
            let header = [0x45, 0, total[0], total[1], 0, 0, 0, 0, 64, 17, 0, 0];
            [&header[..], &address.octets(), &[192, 0, 2, 1], &udp].concat()
        }
        IpAddr::V6(address) => {
            let payload = (udp.len() as u16).to_be_bytes();
            let header = [0x60, 0, 0, 0, payload[0], payload[1], 17, 64];
            [&header[..], &address.octets(), &[0x20; 16], &udp].concat()
        }
    };
    Packet::parse(&bytes).expect("a datagram")
}

/// A source: eight addresses, among them two networks of IPv6 with two hosts each.
fn source(random: &mut Random) -> SocketAddr {
    const ALL: [&str; 8] = [
        "198.51.100.1",
        "198.51.100.2",
        "203.0.113.1",
        "203.0.113.2",
        "2001:db8:0:1::1",
        "2001:db8:0:1:ffff::2",
        "2001:db8:0:2::1",
        "2001:db8:0:2::2",
    ];
    let address = ALL[random.below(8) as usize].parse().expect("an address");
    SocketAddr::new(address, 1 + random.below(6) as u16)
}

/// Source that a packet counts for, computed in another way than in the store.
fn network(flow: &Flow) -> String {
    match flow.source.ip() {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("{:?}", &address.segments()[..4]),
    }
}

/// The waiting packets, oldest first.
#[derive(Default)]
struct Model(Vec<(Packet, Instant)>);

impl Model {
    fn bytes(&self) -> usize {
        self.0.iter().map(|(packet, _)| packet.len()).sum()
    }

    fn insert(&mut self, packet: Packet, now: Instant, limits: &HoldOptions) -> (Arrival, u64) {
        let before = self.0.len();
        let again = self.0.iter_mut().find(|(other, _)| other.flow == packet.flow);
        let kept = match again {
            Some((other, _)) => {
                *other = packet;
                Arrival::Repeated
            }
            None => {
                let own = network(&packet.flow);
                let of_source = |(other, _): &(Packet, Instant)| network(&other.flow) == own;
                if self.0.iter().filter(|waiting| of_source(waiting)).count() == limits.per_source as usize {
                    let oldest = self.0.iter().position(of_source).expect("one of them");
                    self.0.remove(oldest);
                }
                self.0.push((packet, now));
                Arrival::First
            }
        };
        while self.0.len() > limits.packets as usize || self.bytes() > limits.bytes as usize {
            self.0.remove(0);
        }
        let added = usize::from(kept == Arrival::First);
        (kept, (before + added - self.0.len()) as u64)
    }

    fn pop(&mut self) -> Option<Packet> {
        (!self.0.is_empty()).then(|| self.0.remove(0).0)
    }
}

#[test]
fn the_store_behaves_like_its_model() {
    let mut seen = [0; 5];
    for seed in 0..300 {
        let mut random = Random(seed);
        let limits = HoldOptions {
            group: 1,
            packets: 1 + random.below(12) as u32,
            per_source: 1 + random.below(5) as u32,
            bytes: 100 + random.below(1500) as u32,
            timeout: Duration::from_millis(500),
            on_failure: OnFailure::Drop,
            replay: true,
        };
        let (mut store, mut model) = (Store::default(), Model::default());
        let mut now = Instant::now();
        for _ in 0..200 {
            now += Duration::from_millis(random.below(60));
            match random.below(10) {
                0 => assert_eq!(store.pop(), model.pop()),
                1 => loop {
                    let due = model.0.first().is_some_and(|(_, since)| now - *since >= limits.timeout);
                    let expired = store.pop_expired(now, limits.timeout);
                    assert_eq!(expired, if due { model.pop() } else { None });
                    seen[0] += u32::from(due);
                    if !due {
                        break;
                    }
                },
                _ => {
                    let length = if random.below(20) == 0 { 2000 } else { random.below(300) as usize };
                    let packet = datagram(source(&mut random), length);
                    assert_eq!(packet.flow.protocol, Protocol::Udp);
                    let kept = model.insert(packet.clone(), now, &limits);
                    seen[1] += u32::from(kept.0 == Arrival::Repeated);
                    seen[2] += u32::from(kept.1 > 1);
                    seen[3] += u32::from(kept.1 == 1 && model.0.len() < limits.packets as usize);
                    seen[4] += u32::from(model.0.is_empty());
                    assert_eq!(store.insert(packet, now, &limits), kept, "seed {seed}");
                }
            }
            assert_eq!((store.len(), store.bytes), (model.0.len(), model.bytes()), "seed {seed}");
            assert_eq!(store.by_flow.len(), model.0.len());
            assert_eq!(store.by_source.values().map(VecDeque::len).sum::<usize>(), model.0.len());
            let expires = model.0.first().map(|(_, since)| *since + limits.timeout);
            assert_eq!(store.expires(limits.timeout), expires);
        }
        while let Some(packet) = model.pop() {
            assert_eq!(store.pop(), Some(packet), "seed {seed}");
        }
        assert!(store.pop().is_none() && store.by_flow.is_empty() && store.by_source.is_empty());
    }
    // Each case has come: expiry, a flow's again, several evicted, one evicted by another limit, one too large to wait.
    assert!(seen.iter().all(|count| *count > 20), "{seen:?}");
}

#[test]
fn a_source_over_its_limit_takes_constant_time() {
    let limits = |packets| HoldOptions {
        group: 1,
        packets,
        per_source: 1,
        bytes: u32::MAX,
        timeout: Duration::from_secs(1),
        on_failure: OnFailure::Drop,
        replay: true,
    };
    let time = |packets: u32| {
        let (mut store, now) = (Store::default(), Instant::now());
        for source in 0..packets {
            let source = SocketAddr::new(std::net::Ipv4Addr::from(0x0a00_0000 + source).into(), 1);
            store.insert(datagram(source, 0), now, &limits(packets + 1));
        }
        let last: SocketAddr = "198.51.100.1:1".parse().expect("an address");
        let all: Vec<_> = (1..2000).map(|port| datagram(SocketAddr::new(last.ip(), port), 0)).collect();
        let began = Instant::now();
        for packet in all {
            store.insert(packet, now, &limits(packets + 1));
        }
        assert_eq!(store.len(), packets as usize + 1);
        began.elapsed()
    };
    // The shortest of three, since the machine has other work. A search from the front takes a thousand times as long.
    let best = |packets| (0..3).map(|_| time(packets)).min().unwrap_or_default();
    let (few, many) = (best(20), best(20_000));
    assert!(many < few * 30, "{few:?} with 20 packets, {many:?} with 20,000");
}
