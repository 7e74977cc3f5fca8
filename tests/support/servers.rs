//! Servers that are threads of the test itself, inside a namespace.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::net::Shutdown;

use super::Namespace;

/// How long a server waits for a slow client.
const PATIENCE: Duration = Duration::from_secs(10);

/// A server thread. Ends on drop.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    socket: OwnedFd,
    stopping: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Where it listens; of use if the port was 0.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections or datagrams it has seen.
    pub fn served(&self) -> usize {
        self.served.load(Ordering::SeqCst)
    }

    fn start(address: SocketAddr, socket: OwnedFd, serve: impl Fn(&AtomicUsize) -> bool + Send + 'static) -> Server {
        let stopping = Arc::new(AtomicBool::new(false));
        let served = Arc::new(AtomicUsize::new(0));
        let (stop, count) = (Arc::clone(&stopping), Arc::clone(&served));
        let run = move || while serve(&count) && !stop.load(Ordering::SeqCst) {};
        Server { address, socket, stopping, served, thread: Some(std::thread::spawn(run)) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        // Ends a blocked accept or receive; an unconnected UDP socket says ENOTCONN and does it all the same.
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Serves HTTP in the namespace: every request is answered with `BODY from PEER`, PEER being the client's address and
/// port as the server sees them.
///
/// # Panics
/// If the address cannot be bound.
#[track_caller]
pub fn serve_http(namespace: &Namespace, address: SocketAddr, body: &str) -> Server {
    let listener = bind(namespace, address, || TcpListener::bind(address));
    let address = listener.local_addr().expect("bound");
    let socket = listener.try_clone().expect("a file descriptor").into();
    let body: Arc<str> = body.into();
    Server::start(address, socket, move |served| {
        let Ok((stream, peer)) = listener.accept() else { return false };
        served.fetch_add(1, Ordering::SeqCst);
        let body = Arc::clone(&body);
        // A client that went away is not the server's business.
        std::thread::spawn(move || answer(stream, peer, &body).ok());
        true
    })
}

fn answer(mut stream: TcpStream, peer: SocketAddr, body: &str) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    while reader.read_line(&mut line)? > 2 {
        line.clear();
    }
    let text = format!("{body} from {peer}\n");
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}", text.len())
}

/// Binds a socket. A child that another test forks holds the sockets of this process until its exec, also those that are
/// closed here already.
#[track_caller]
fn bind<S: Send>(namespace: &Namespace, address: SocketAddr, bind: impl Fn() -> io::Result<S> + Sync) -> S {
    let until = Instant::now() + PATIENCE;
    loop {
        match namespace.run(&bind) {
            Ok(socket) => return socket,
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < until => {
                std::thread::yield_now()
            }
            Err(error) => panic!("bind {address}: {error}"),
        }
    }
}

/// Answers every UDP datagram in the namespace with `BODY from PEER: DATAGRAM`.
///
/// # Panics
/// If the address cannot be bound.
#[track_caller]
pub fn serve_udp_echo(namespace: &Namespace, address: SocketAddr, body: &str) -> Server {
    let listener = bind(namespace, address, || UdpSocket::bind(address));
    let address = listener.local_addr().expect("bound");
    let socket = listener.try_clone().expect("a file descriptor").into();
    let body = body.to_owned();
    Server::start(address, socket, move |served| {
        let mut datagram = [0; 65536];
        // An error can be an ICMP message about an earlier answer.
        if let Ok((length, peer)) = listener.recv_from(&mut datagram) {
            served.fetch_add(1, Ordering::SeqCst);
            let mut text = format!("{body} from {peer}: ").into_bytes();
            text.extend_from_slice(&datagram[..length]);
            let _ = listener.send_to(&text, peer);
        }
        true
    })
}
