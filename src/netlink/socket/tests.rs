//! Against the kernel's routing socket, which everyone may ask, and against a kernel that is played by a thread.

use std::os::unix::net::UnixDatagram;
use std::thread::JoinHandle;

use super::*;
use crate::netlink::message::HEADER;

#[test]
fn error_numbers() {
    let flags = NlmF::empty();
    let read = |payload: &[u8]| errno(&Message { kind: ERROR, flags, sequence: 1, port: 0, payload });
    assert!(read(&0i32.to_ne_bytes()).is_ok());
    assert_eq!(read(&(-2i32).to_ne_bytes()).expect_err("ENOENT").raw_os_error(), Some(2));
    assert_eq!(read(&[1, 2, 3]).expect_err("short").kind(), io::ErrorKind::InvalidData);
    assert!(read(&i32::MIN.to_ne_bytes()).is_err());
}

#[test]
fn a_refused_request_leaves_the_socket_usable() {
    let mut socket = Socket::open(None).expect("NETLINK_ROUTE");
    let error = socket.request(&mut Request::new(999, &[0; 4]), &mut |_| {}).expect_err("no such type");
    assert_eq!(error.raw_os_error(), Some(Errno::OPNOTSUPP.raw_os_error()));
    let mut links = 0;
    // RTM_GETLINK = 18, struct ifinfomsg is 16 bytes.
    socket.dump(&mut Request::new(18, &[0; 16]), &mut |_| links += 1).expect("links");
    assert!(links >= 1);
}

#[test]
fn an_unfinished_dump_is_read_away() {
    let mut socket = Socket::open(None).expect("NETLINK_ROUTE");
    let count = |socket: &mut Socket| {
        let mut count = 0;
        // RTM_GETLINK = 18, struct ifinfomsg is 16 bytes.
        socket.dump(&mut Request::new(18, &[0; 16]), &mut |_| count += 1).expect("links");
        count
    };
    let whole = count(&mut socket);
    let mut request = Request::new(18, &[0; 16]);
    send(&socket.fd, request.finish(NlmF::REQUEST | NlmF::DUMP, 12345)).expect("sent");
    socket.unfinished = true;
    assert_eq!(count(&mut socket), whole);
}

#[test]
fn a_datagram_that_does_not_fit_is_reported() {
    let socket = Socket::open(None).expect("NETLINK_ROUTE");
    send(&socket.fd, Request::new(18, &[0; 16]).finish(NlmF::REQUEST | NlmF::DUMP, 1)).expect("sent");
    let error = receive(&socket.fd, &mut [0; 20], RecvFlags::empty()).expect_err("too small");
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
}

#[test]
fn waiting_is_bounded() {
    let socket = Socket::open(None).expect("NETLINK_ROUTE");
    set_socket_timeout(&socket.fd, Timeout::Recv, Some(Duration::from_millis(20))).expect("a timeout");
    let error = receive(&socket.fd, &mut [0; 64], RecvFlags::empty()).expect_err("nothing was asked");
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
}

/// A socket whose requests a thread answers with the given datagrams, one list per request. In the messages, sequence
/// number 0 becomes the request's own.
fn played(answers: Vec<Vec<Vec<u8>>>) -> (Socket, JoinHandle<()>) {
    let (near, far) = UnixDatagram::pair().expect("a pair");
    let kernel = std::thread::spawn(move || {
        for datagrams in answers {
            let mut request = [0; 256];
            far.recv(&mut request).expect("a request");
            for mut datagram in datagrams {
                let mut at = 0;
                while let Some(header) = datagram.get_mut(at..at + HEADER) {
                    if header[8..12] == [0; 4] {
                        header[8..12].copy_from_slice(&request[8..12]);
                    }
                    at += usize::from(header[0]).max(HEADER);
                }
                far.send(&datagram).expect("sent");
            }
        }
    });
    (Socket::over(near.into()).expect("a socket"), kernel)
}

fn message(kind: u16, flags: NlmF, payload: &[u8]) -> Vec<u8> {
    Request::new(kind, payload).finish(flags, 0).to_vec()
}

/// The first bytes of the messages of a dump.
fn dumped(socket: &mut Socket) -> io::Result<Vec<u8>> {
    let mut seen = Vec::new();
    socket.dump(&mut Request::new(16, &[]), &mut |message| seen.push(message.payload[0]))?;
    Ok(seen)
}

fn object(value: u8) -> Vec<u8> {
    message(20, NlmF::MULTI, &[value, 0, 0, 0])
}

fn done(flags: NlmF, error: i32) -> Vec<u8> {
    message(DONE, NlmF::MULTI | flags, &error.to_ne_bytes())
}

#[test]
fn an_interrupted_dump_is_made_again() {
    let interrupted = message(20, NlmF::MULTI | NlmF::DUMP_INTR, &[1, 0, 0, 0]);
    let (mut socket, kernel) = played(vec![
        vec![interrupted, done(NlmF::empty(), 0)],
        vec![object(2), done(NlmF::DUMP_INTR, 0)],
        vec![[object(3), object(4)].concat(), done(NlmF::empty(), 0)],
    ]);
    assert_eq!(dumped(&mut socket).expect("a dump"), [1, 2, 3, 4]);
    kernel.join().expect("played");
}

#[test]
fn a_dump_that_is_always_interrupted_fails() {
    let (mut socket, kernel) = played(vec![vec![done(NlmF::DUMP_INTR, 0)]; DUMP_TRIES]);
    assert_eq!(dumped(&mut socket).expect_err("interrupted").kind(), io::ErrorKind::ResourceBusy);
    kernel.join().expect("played");
}

#[test]
fn answers_to_earlier_requests_are_passed_over() {
    let mut stale = object(9);
    stale[8..12].copy_from_slice(&77u32.to_ne_bytes());
    let mut stale_end = done(NlmF::empty(), 0);
    stale_end[8..12].copy_from_slice(&77u32.to_ne_bytes());
    let (mut socket, kernel) = played(vec![vec![stale, stale_end, object(1), done(NlmF::empty(), 0)]]);
    assert_eq!(dumped(&mut socket).expect("a dump"), [1]);
    kernel.join().expect("played");
}

#[test]
fn a_garbled_answer_is_an_error_and_the_next_request_is_answered() {
    let whole = [object(1), done(NlmF::empty(), 0)].concat();
    for end in (1..whole.len()).filter(|&end| end != HEADER + 4) {
        let (mut socket, kernel) = played(vec![vec![whole[..end].to_vec(), object(8)], vec![whole.clone()]]);
        assert_eq!(dumped(&mut socket).expect_err("garbled").kind(), io::ErrorKind::InvalidData, "{end}");
        // The datagram that was not read must have arrived, to be read away.
        while rustix::io::ioctl_fionread(&socket.fd).expect("FIONREAD") == 0 {
            std::thread::yield_now();
        }
        assert_eq!(dumped(&mut socket).expect("a dump"), [1], "{end}");
        kernel.join().expect("played");
    }
}

#[test]
fn an_error_at_the_end_of_a_dump_is_reported() {
    let (mut socket, kernel) = played(vec![vec![object(1), done(NlmF::empty(), -95)]]);
    assert_eq!(dumped(&mut socket).expect_err("EOPNOTSUPP").raw_os_error(), Some(95));
    kernel.join().expect("played");
}
