//! Events.

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use proxygw::netlink::conntrack::{Conntrack, Event, Subscription, TcpState};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::world::{FOREIGN, GATEWAY, LISTEN, RANGE, World};

/// The next event; panics if none comes within a few seconds.
fn next(subscription: &mut Subscription) -> Event {
    let until = Instant::now() + Duration::from_secs(5);
    loop {
        if let Some(event) = subscription.recv().expect("received") {
            return event;
        }
        assert!(Instant::now() < until, "no event");
        let mut fds = [PollFd::from_borrowed_fd(subscription.as_fd(), PollFlags::IN)];
        poll(&mut fds, Some(&Timespec { tv_sec: 1, tv_nsec: 0 })).expect("polled");
    }
}

fn source(event: &Event) -> Option<SocketAddr> {
    match event {
        Event::New(entry) | Event::Update(entry) | Event::Destroy(entry) => Some(entry.original.source),
        Event::Overrun => None,
    }
}

#[test]
fn a_connection_is_followed_from_its_start_to_its_end() {
    let Some(world) = World::new() else { return };
    let servers = world.serve();
    let (mut conntrack, mut subscription) =
        world.gateway.run(|| (Conntrack::open().expect("a socket"), Subscription::open().expect("a subscription")));
    assert_eq!(subscription.recv().expect("received"), None);
    for ip in GATEWAY {
        let _foreign = world.connect(&servers, ip, FOREIGN);
        let (near, far) = world.connect(&servers, ip, LISTEN);
        let client = near.local_addr().expect("bound");
        let first = next(&mut subscription);
        assert!(matches!(first, Event::New(entry) if entry.original.source == client), "{first:?}");
        drop((near, far));
        let mut states = Vec::new();
        while states.last() != Some(&TcpState::TimeWait) {
            let event = next(&mut subscription);
            let Event::Update(entry) = event else { panic!("{event:?}") };
            assert_eq!(entry.original.source, client);
            states.extend(entry.tcp_state);
        }
        assert!(states.contains(&TcpState::Established), "{states:?}");
        let mut entries = Vec::new();
        conntrack.dump_dnat(&mut |entry| entries.push(*entry)).expect("a dump");
        let entry = entries.iter().find(|entry| entry.original.source == client).expect("in TIME_WAIT");
        assert!(conntrack.delete(entry).expect("deleted"));
        let last = next(&mut subscription);
        let Event::Destroy(gone) = last else { panic!("{last:?}") };
        assert_eq!((gone.original, gone.id), (entry.original, entry.id));
    }
    assert_eq!(subscription.recv().expect("received"), None, "nothing of the foreign flows");
}

#[test]
fn foreign_flows_neither_wake_nor_overrun() {
    let Some(world) = World::new() else { return };
    let servers = world.serve();
    let mut subscription = world.gateway.run(|| Subscription::open().expect("a subscription"));
    rustix::net::sockopt::set_socket_recv_buffer_size(&subscription, 16 * 1024).expect("a small buffer");
    world.flood(10_000..RANGE.start);
    assert_eq!(subscription.recv().expect("received"), None);
    let near = world.datagram(&servers, GATEWAY[1], LISTEN, true);
    let event = next(&mut subscription);
    let port = near.local_addr().expect("bound").port();
    assert!(matches!(event, Event::New(entry) if entry.original.source.port() == port), "{event:?}");
}

#[test]
fn an_overrun_is_told_and_does_not_end_the_subscription() {
    let Some(world) = World::new() else { return };
    let servers = world.serve();
    let mut subscription = world.gateway.run(|| Subscription::open().expect("a subscription"));
    rustix::net::sockopt::set_socket_recv_buffer_size(&subscription, 64 * 1024).expect("a small buffer");
    world.flood(RANGE.start..RANGE.start + 1000);
    let (mut events, mut overruns) = (0, 0);
    while let Some(event) = subscription.recv().expect("received") {
        match event {
            Event::Overrun => overruns += 1,
            _ => events += 1,
        }
    }
    assert!(overruns >= 1 && events >= 10, "{overruns} overruns, {events} events");
    let near = world.datagram(&servers, GATEWAY[1], LISTEN, false);
    let port = near.local_addr().expect("bound").port();
    assert_eq!(source(&next(&mut subscription)).map(|source| source.port()), Some(port));
}

#[test]
fn the_buffer_keeps_thousands_of_events() {
    let Some(world) = World::new() else { return };
    let mut subscription = world.gateway.run(|| Subscription::open().expect("a subscription"));
    world.flood(RANGE);
    let (mut events, mut overrun_at) = (0, None);
    while let Some(event) = subscription.recv().expect("received") {
        match event {
            Event::Overrun => overrun_at = overrun_at.or(Some(events)),
            _ => events += 1,
        }
    }
    println!("{events} events kept, first overrun reported at {overrun_at:?}");
    assert!(events >= 4_000, "{events}");
}

#[test]
fn flows_older_than_the_subscription_report_if_the_kernel_is_told_so() {
    let Some(world) = World::new() else { return };
    let servers = world.serve();
    // With 2 they do not, unless someone listens in whichever namespace: so that cannot be tried beside other tests.
    world.gateway.run(|| std::fs::write("/proc/sys/net/netfilter/nf_conntrack_events", "1").expect("a sysctl"));
    let _near = world.datagram(&servers, GATEWAY[0], LISTEN, true);
    let (mut conntrack, mut subscription) =
        world.gateway.run(|| (Conntrack::open().expect("a socket"), Subscription::open().expect("a subscription")));
    let mut entries = Vec::new();
    conntrack.dump_dnat(&mut |entry| entries.push(*entry)).expect("a dump");
    assert!(conntrack.delete(&entries[0]).expect("deleted"));
    let event = next(&mut subscription);
    assert!(matches!(event, Event::Destroy(gone) if gone.id == entries[0].id), "{event:?}");
}
