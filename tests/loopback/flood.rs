//! Datagrams from the wire that must not arrive, 20,000 in a second, and the sockets that must not see them.

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::support::{Lab, Namespace, eventually};

/// Datagrams per second, half of them to each of the two sockets.
const RATE: usize = 20_000;

/// Timeout for packets on a busy machine.
const SOON: Duration = Duration::from_secs(20);

/// A client that sends to 127.0.0.9 of the gateway, and from 127.0.0.5 to the gateway's own address.
pub struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicUsize>,
    to_loopback: Arc<AtomicUsize>,
    from_loopback: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<()>>,
}

impl Flood {
    /// Starts it. The first client of the lab routes 127.0.0.9 to the gateway from now on.
    pub fn start(lab: &Lab) -> Flood {
        lab.client().sysctl("ipv4/conf/all/route_localnet", "1");
        lab.client().ip(
            "route del 127.0.0.0/8 dev lo table local\nroute add 127.0.0.9/32 via 198.51.100.1\naddr add 127.0.0.5/32 dev lo\n",
        );
        let mut flood = Flood {
            stop: Arc::default(),
            sent: Arc::default(),
            to_loopback: Arc::default(),
            from_loopback: Arc::default(),
            threads: Vec::new(),
        };
        flood.receive(&lab.gateway, "127.0.0.9:5000", Arc::clone(&flood.to_loopback));
        flood.receive(&lab.gateway, "0.0.0.0:5001", Arc::clone(&flood.from_loopback));
        let bind = |address| lab.client().run(move || UdpSocket::bind(address)).expect("a socket");
        let sockets = [(bind("198.51.100.2:0"), "127.0.0.9:5000"), (bind("127.0.0.5:0"), "198.51.100.1:5001")];
        let (stop, sent) = (Arc::clone(&flood.stop), Arc::clone(&flood.sent));
        flood.threads.push(std::thread::spawn(move || {
            let began = Instant::now();
            for count in 0.. {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                for (socket, address) in &sockets {
                    // An error is an ICMP message about an earlier one.
                    let _ = socket.send_to(b"?", address);
                    sent.fetch_add(1, Ordering::SeqCst);
                }
                let due = Duration::from_secs_f64(2.0 * count as f64 / RATE as f64);
                if let Some(early) = due.checked_sub(began.elapsed()).filter(|early| early.as_micros() > 500) {
                    std::thread::sleep(early);
                }
            }
        }));
        flood
    }

    fn receive(&mut self, namespace: &Namespace, address: &'static str, count: Arc<AtomicUsize>) {
        let socket = namespace.run(|| UdpSocket::bind(address)).expect("a socket");
        socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a socket");
        let stop = Arc::clone(&self.stop);
        self.threads.push(std::thread::spawn(move || {
            while !stop.load(Ordering::SeqCst) {
                count.fetch_add(usize::from(socket.recv_from(&mut [0; 16]).is_ok()), Ordering::SeqCst);
            }
        }));
    }

    /// Waits until that many more have been sent.
    #[track_caller]
    pub fn go_on(&self, count: usize) {
        let until = self.sent.load(Ordering::SeqCst) + count;
        eventually("the flood goes on", SOON, || self.sent.load(Ordering::SeqCst) >= until);
    }

    /// Numbers of packets that reached the socket on 127.0.0.9, and from 127.0.0.5 the other one, so far.
    pub fn reached(&self) -> (usize, usize) {
        (self.to_loopback.load(Ordering::SeqCst), self.from_loopback.load(Ordering::SeqCst))
    }

    /// Runs `action` during the flood; returns the numbers of packets that reached the sockets meanwhile.
    #[track_caller]
    pub fn while_doing(&self, action: impl FnOnce()) -> (usize, usize) {
        let mut before = self.reached();
        eventually("earlier packets are read", SOON, || {
            self.go_on(500);
            std::mem::replace(&mut before, self.reached()) == self.reached()
        });
        action();
        self.go_on(2000);
        let after = self.reached();
        (after.0 - before.0, after.1 - before.1)
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}
