//! The holder over a kernel that fails on demand.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use super::packet::Flow;
use super::store::tests::datagram;
use super::*;
use crate::config::Protocol;
use crate::dataplane::plan::Rules;
use crate::dataplane::render::samples;
use crate::netlink::nflog::Logged;

/// One result of [`PacketIo::receive`].
enum Batch {
    Outside(Vec<Packet>),
    Local(Packet),
    Garbage,
    Overrun,
    Error,
}

/// What the kernel has done and will do.
#[derive(Default)]
struct Kernel {
    batches: VecDeque<Batch>,
    sent: Vec<(Vec<u8>, IpAddr)>,
    deleted: Vec<Flow>,
    /// Numbers of the sends that fail.
    unsendable: Vec<usize>,
    sends: usize,
}

#[derive(Clone)]
struct Fake(Arc<Mutex<Kernel>>, Arc<File>);

impl Fake {
    fn kernel(&self) -> MutexGuard<'_, Kernel> {
        self.0.lock().expect("no panic")
    }
}

impl PacketIo for Fake {
    fn fd(&self) -> BorrowedFd<'_> {
        self.1.as_fd()
    }

    fn receive(&mut self, each: &mut dyn FnMut(Logged<'_>)) -> io::Result<Received> {
        let mut logged = |packet: Packet, from_here| each(Logged { payload: &packet.into_sendable()[0], from_here });
        let Some(batch) = self.kernel().batches.pop_front() else { return Ok(Received::Nothing) };
        match batch {
            Batch::Outside(packets) => packets.into_iter().for_each(|packet| logged(packet, false)),
            Batch::Local(packet) => logged(packet, true),
            Batch::Garbage => each(Logged { payload: b"no packet", from_here: false }),
            Batch::Overrun => return Ok(Received::Overrun),
            Batch::Error => return Err(io::ErrorKind::OutOfMemory.into()),
        }
        Ok(Received::Some)
    }

    fn send(&mut self, packet: &[u8], to: IpAddr) -> io::Result<()> {
        let mut kernel = self.kernel();
        kernel.sends += 1;
        if kernel.unsendable.contains(&kernel.sends) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        kernel.sent.push((packet.to_vec(), to));
        Ok(())
    }

    fn delete_entry(&mut self, flow: &Flow) -> io::Result<()> {
        self.kernel().deleted.push(*flow);
        // The holder goes on without.
        Err(io::ErrorKind::TimedOut.into())
    }
}

const SECOND: Duration = Duration::from_secs(1);

fn options() -> HoldOptions {
    HoldOptions {
        group: 5,
        packets: 4,
        per_source: 3,
        bytes: 5000,
        timeout: 10 * SECOND,
        on_failure: OnFailure::Drop,
        replay: true,
    }
}

/// A holder of UDP packets to 192.0.2.1:80 (frontend 1), and of TCP to port 81 (frontend 2).
struct World {
    holder: Holder,
    kernel: Fake,
    now: Instant,
}

impl World {
    fn new(options: HoldOptions) -> World {
        let held = |rules| Rules { cold: ColdPath::Hold(options), ..rules };
        let plan = samples::plan([
            samples::rules(Protocol::Tcp, &["0.0.0.0:80>10.0.0.1:80"]),
            held(samples::rules(Protocol::Udp, &["192.0.2.1:80>10.0.0.1:80"])),
            held(samples::rules(Protocol::Tcp, &["0.0.0.0:81>10.0.0.1:81"])),
        ]);
        let mut holder = Holder::new(&plan).expect("it holds");
        let kernel = Fake(Arc::default(), Arc::new(File::open("/dev/null").expect("opened")));
        holder.io = Some(Box::new(kernel.clone()));
        World { holder, kernel, now: Instant::now() }
    }

    /// Polls with these batches; returns the reported clients.
    fn poll(&mut self, batches: impl IntoIterator<Item = Batch>) -> (Progress, Vec<SocketAddr>) {
        self.kernel.kernel().batches.extend(batches);
        let mut clients = Vec::new();
        let progress = self.holder.poll(self.now, &mut |event| match event {
            MonitorEvent::FirstPacket { frontend, source } => {
                assert_eq!(frontend, udp());
                clients.push(source);
            }
            other => panic!("{other:?}"),
        });
        (progress, clients)
    }

    fn capture(&mut self, packets: &[Packet]) -> Vec<SocketAddr> {
        self.poll([Batch::Outside(packets.to_vec())]).1
    }

    fn counts(&self) -> HoldStatus {
        self.holder.counters().frontends[&udp()].read()
    }

    fn totals(&self) -> TotalsStatus {
        self.holder.counters().totals.expect("it holds").read()
    }

    /// The flows of the packets that were sent on since the last call.
    fn sent(&self) -> Vec<SocketAddr> {
        let sent = std::mem::take(&mut self.kernel.kernel().sent);
        let source = |(packet, to): (Vec<u8>, IpAddr)| {
            let flow = Packet::parse(&packet).expect("a packet").flow;
            assert_eq!(flow.destination.ip(), to);
            flow.source
        };
        sent.into_iter().map(source).collect()
    }

    /// Where refusals were sent to since the last call.
    fn refused(&self) -> Vec<IpAddr> {
        std::mem::take(&mut self.kernel.kernel().sent).into_iter().map(|(_, to)| to).collect()
    }
}

fn udp() -> FrontendId {
    FrontendId::new(1)
}

fn client(last: u8, port: u16) -> SocketAddr {
    ([198, 51, 100, last], port).into()
}

fn packet(last: u8, port: u16) -> Packet {
    datagram(client(last, port), 100)
}

#[test]
fn only_frontends_that_hold_packets_have_a_store() {
    let world = World::new(options());
    assert_eq!(world.holder.group, 5);
    let ids: Vec<_> = world.holder.counters().frontends.into_keys().collect();
    assert_eq!(ids, [FrontendId::new(1), FrontendId::new(2)]);
    let plan = samples::plan([samples::rules(Protocol::Tcp, &["0.0.0.0:80>10.0.0.1:80"])]);
    assert!(Holder::new(&plan).is_none());
}

#[test]
fn first_packets_wait_and_go_on_in_order_once_the_target_is_active() {
    let mut world = World::new(options());
    assert_eq!(world.capture(&[packet(1, 1), packet(2, 1)]), [client(1, 1), client(2, 1)]);
    assert_eq!(world.counts(), HoldStatus { waiting: 2, captured: 2, ..HoldStatus::default() });
    assert!(world.sent().is_empty());
    world.holder.target_changed(FrontendId::new(2), Change::Active);
    assert!(world.sent().is_empty(), "it is another frontend's");
    world.holder.target_changed(udp(), Change::Active);
    assert_eq!(world.sent(), [client(1, 1), client(2, 1)]);
    assert_eq!(world.counts(), HoldStatus { captured: 2, sent: 2, ..HoldStatus::default() });
    // Captured before the DNAT was in, read after it.
    assert!(world.capture(&[packet(3, 1)]).is_empty(), "nothing to wake");
    assert_eq!(world.sent(), [client(3, 1)]);
    world.holder.target_changed(udp(), Change::Inactive);
    assert_eq!(world.capture(&[packet(4, 1)]), [client(4, 1)]);
    assert!(world.sent().is_empty());
}

#[test]
fn a_flows_next_packet_replaces_the_one_before() {
    let mut world = World::new(options());
    world.capture(&[packet(1, 1)]);
    assert_eq!(world.capture(&[packet(1, 1)]), [client(1, 1)], "a wake that was lost is made up for");
    assert_eq!(world.counts(), HoldStatus { waiting: 1, captured: 2, repeated: 1, ..HoldStatus::default() });
}

#[test]
fn packets_over_a_limit_make_space() {
    let mut world = World::new(options());
    // The source has three at most, all have four.
    world.capture(&(1..=4).map(|port| packet(1, port)).collect::<Vec<_>>());
    assert_eq!(world.counts(), HoldStatus { waiting: 3, captured: 4, made_room: 1, ..HoldStatus::default() });
    world.capture(&[packet(2, 1), packet(3, 1)]);
    assert_eq!(world.counts(), HoldStatus { waiting: 4, captured: 6, made_room: 2, ..HoldStatus::default() });
    world.capture(&[datagram(client(4, 1), 4900)]);
    assert_eq!(world.counts(), HoldStatus { waiting: 1, captured: 7, made_room: 6, ..HoldStatus::default() });
}

#[test]
fn packets_are_given_up_after_their_time_in_order_of_arrival() {
    let mut world = World::new(HoldOptions { on_failure: OnFailure::Reject, ..options() });
    assert_eq!(world.holder.deadline(), None);
    let began = world.now;
    world.capture(&[packet(1, 1)]);
    world.now += SECOND;
    world.capture(&[packet(2, 1)]);
    assert_eq!(world.holder.deadline(), Some(began + 10 * SECOND));
    world.now = began + 10 * SECOND;
    world.poll([]);
    assert_eq!(world.refused(), [client(1, 1).ip()]);
    assert_eq!(world.counts(), HoldStatus { waiting: 1, captured: 2, given_up: 1, ..HoldStatus::default() });
    assert_eq!(world.holder.deadline(), Some(began + 11 * SECOND));
    world.now = began + 11 * SECOND;
    world.kernel.kernel().unsendable = vec![2];
    world.poll([]);
    assert!(world.refused().is_empty());
    assert_eq!(world.counts(), HoldStatus { captured: 2, given_up: 2, ..HoldStatus::default() });
    assert_eq!(world.holder.deadline(), None);
}

#[test]
fn clients_of_a_target_that_fails_are_refused_if_the_options_want_that() {
    for on_failure in [OnFailure::Reject, OnFailure::Drop] {
        let mut world = World::new(HoldOptions { on_failure, ..options() });
        world.capture(&[packet(1, 1), packet(2, 1)]);
        world.holder.target_changed(udp(), Change::Inactive);
        assert_eq!(world.counts().waiting, 2, "its start has not ended");
        world.holder.target_changed(udp(), Change::Failed);
        let refused = if on_failure == OnFailure::Reject { vec![client(1, 1).ip(), client(2, 1).ip()] } else { vec![] };
        assert_eq!(world.refused(), refused);
        assert_eq!(world.counts(), HoldStatus { captured: 2, given_up: 2, ..HoldStatus::default() });
        assert_eq!(world.capture(&[packet(3, 1)]), [client(3, 1)], "the next start");
    }
}

#[test]
fn packets_that_cannot_be_sent_on_are_counted() {
    let mut world = World::new(options());
    world.capture(&[packet(1, 1), packet(2, 1)]);
    world.kernel.kernel().unsendable = vec![1];
    world.holder.target_changed(udp(), Change::Active);
    assert_eq!(world.sent(), [client(2, 1)]);
    assert_eq!(world.counts(), HoldStatus { captured: 2, sent: 1, unsent: 1, ..HoldStatus::default() });
}

#[test]
fn without_replay_packets_are_not_sent_on() {
    let mut world = World::new(HoldOptions { replay: false, ..options() });
    world.capture(&[packet(1, 1)]);
    world.holder.target_changed(udp(), Change::Active);
    world.capture(&[packet(2, 1)]);
    assert!(world.sent().is_empty());
    assert_eq!(world.counts(), HoldStatus { captured: 2, ..HoldStatus::default() });
}

#[test]
fn packets_of_this_host_lose_their_conntrack_entry() {
    let mut world = World::new(options());
    let local = datagram(([127, 0, 0, 1], 1).into(), 0);
    assert_eq!(world.poll([Batch::Local(local.clone())]).1, [local.flow.source]);
    assert_eq!(world.kernel.kernel().deleted, [local.flow]);
    world.holder.target_changed(udp(), Change::Active);
    world.poll([Batch::Local(local.clone()), Batch::Outside(vec![packet(1, 1)])]);
    assert_eq!(world.kernel.kernel().deleted, [local.flow, local.flow]);
    assert_eq!(world.sent().len(), 3);
}

#[test]
fn forged_and_unfit_packets_and_those_of_no_frontend_are_dropped() {
    let mut world = World::new(options());
    let forged = datagram(([127, 0, 0, 1], 1).into(), 0);
    let unknown = datagram("[2001:db8::1]:1".parse().expect("an address"), 0);
    assert!(world.capture(&[forged, unknown]).is_empty());
    assert_eq!(world.totals(), TotalsStatus { forged: 1, ..TotalsStatus::default() });
    world.poll([Batch::Garbage]);
    assert_eq!(world.totals(), TotalsStatus { forged: 1, unfit: 1, overruns: 0 });
    assert_eq!(world.counts(), HoldStatus::default());
}

#[test]
fn an_overrun_is_counted_and_reading_goes_on() {
    let mut world = World::new(options());
    let read = world.poll([Batch::Overrun, Batch::Outside(vec![packet(1, 1)])]);
    assert_eq!(read, (Progress::Drained, vec![client(1, 1)]));
    assert_eq!(world.totals(), TotalsStatus { overruns: 1, ..TotalsStatus::default() });
}

#[test]
fn an_error_ends_a_poll_and_the_next_reads_on() {
    let mut world = World::new(options());
    let read = world.poll([Batch::Error, Batch::Outside(vec![packet(1, 1)])]);
    assert_eq!(read, (Progress::Drained, vec![]));
    assert_eq!(world.poll([]).1, [client(1, 1)]);
}

#[test]
fn a_poll_has_a_bound() {
    let mut world = World::new(options());
    let flood = (0..MAX_READS + 5).map(|_| Batch::Outside(vec![packet(1, 1)]));
    let (progress, clients) = world.poll(flood);
    assert_eq!((progress, clients.len()), (Progress::More, MAX_READS));
    let (progress, clients) = world.poll([]);
    assert_eq!((progress, clients.len()), (Progress::Drained, 5));
}

#[test]
fn a_closed_holder_keeps_its_packets_and_sends_none() {
    let mut world = World::new(options());
    world.capture(&[packet(1, 1)]);
    assert!(world.holder.fd().is_some());
    world.holder.close();
    assert!(world.holder.fd().is_none());
    world.now += 100 * SECOND;
    assert_eq!(world.poll([]), (Progress::Drained, vec![]));
    world.holder.target_changed(udp(), Change::Active);
    assert!(world.sent().is_empty());
    assert_eq!(world.counts().waiting, 1);
}
