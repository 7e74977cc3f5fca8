//! Against the kernel's routing socket, which every user may query, and against a kernel that is played by a thread.

use rustix::net::netlink::SocketAddrNetlink;

use super::*;
use crate::netlink::message::HEADER;
use crate::netlink::testing::played;

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
    let error = socket.request(Request::new(999, &[0; 4]), &mut |_| {}).expect_err("no such type");
    assert_eq!(error.raw_os_error(), Some(Errno::OPNOTSUPP.raw_os_error()));
    let mut links = 0;
    // RTM_GETLINK = 18, struct ifinfomsg is 16 bytes.
    socket.dump(Request::new(18, &[0; 16]), &mut |_| links += 1).expect("links");
    assert!(links >= 1);
}

#[test]
fn an_unfinished_dump_is_discarded() {
    let mut socket = Socket::open(None).expect("NETLINK_ROUTE");
    let count = |socket: &mut Socket| {
        let mut count = 0;
        // RTM_GETLINK = 18, struct ifinfomsg is 16 bytes.
        socket.dump(Request::new(18, &[0; 16]), &mut |_| count += 1).expect("links");
        count
    };
    let whole = count(&mut socket);
    let mut request = Request::new(18, &[0; 16]);
    socket.raw.send(request.finish(NlmF::REQUEST | NlmF::DUMP, 12345)).expect("sent");
    socket.unread = true;
    assert_eq!(count(&mut socket), whole);
}

#[test]
fn waiting_is_bounded() {
    let mut socket = Socket::open(None).expect("NETLINK_ROUTE");
    set_socket_timeout(&socket.raw, Timeout::Recv, Some(Duration::from_millis(20))).expect("a timeout");
    // Without REQUEST, the kernel does not answer.
    let error = socket.transact(|_| Request::new(18, &[0; 16]).finish(NlmF::empty(), 1).to_vec(), &mut |_| {});
    let error = error.expect_err("no reply");
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
}

fn message(kind: u16, flags: NlmF, payload: &[u8]) -> Vec<u8> {
    Request::new(kind, payload).finish(flags, 0).to_vec()
}

/// The first bytes of the messages of a dump.
fn dumped(socket: &mut Socket) -> io::Result<Vec<u8>> {
    let mut seen = Vec::new();
    socket.dump(Request::new(16, &[]), &mut |message| seen.push(message.payload[0]))?;
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
fn results_of_earlier_requests_are_skipped() {
    let mut stale = object(9);
    stale[8..12].copy_from_slice(&77u32.to_ne_bytes());
    let mut stale_end = done(NlmF::empty(), 0);
    stale_end[8..12].copy_from_slice(&77u32.to_ne_bytes());
    let (mut socket, kernel) = played(vec![vec![stale, stale_end, object(1), done(NlmF::empty(), 0)]]);
    assert_eq!(dumped(&mut socket).expect("a dump"), [1]);
    kernel.join().expect("played");
}

#[test]
fn a_garbled_result_is_an_error_and_the_next_request_succeeds() {
    let whole = [object(1), done(NlmF::empty(), 0)].concat();
    for end in (1..whole.len()).filter(|&end| end != HEADER + 4) {
        let (mut socket, kernel) = played(vec![vec![whole[..end].to_vec(), object(8)], vec![whole.clone()]]);
        assert_eq!(dumped(&mut socket).expect_err("garbled").kind(), io::ErrorKind::InvalidData, "{end}");
        // The unread datagram must have arrived, to be discarded.
        while rustix::io::ioctl_fionread(&socket.raw).expect("FIONREAD") == 0 {
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

#[test]
fn flags_are_added_to_those_of_a_request() {
    let (mut socket, kernel) = played(vec![vec![message(ERROR, NlmF::empty(), &[0; 4])]]);
    socket.perform(Request::new(20, &[]), NlmF::CREATE | NlmF::APPEND).expect("created");
    // REQUEST | ACK, CREATE | APPEND
    assert_eq!(kernel.join().expect("played")[0][6..8], [5, 12]);
}

#[test]
fn a_transaction_reports_the_first_error() {
    let refused = message(ERROR, NlmF::empty(), &(-1i32).to_ne_bytes());
    let done = message(ERROR, NlmF::empty(), &[0; 4]);
    let (mut socket, kernel) = played(vec![vec![refused, done.clone()], vec![done]]);
    let mut commit = || socket.commit(vec![(Request::new(0xa00, &[0; 4]), NlmF::empty()); 2]);
    assert_eq!(commit().expect_err("EPERM").raw_os_error(), Some(1));
    commit().expect("committed");
    let requests = kernel.join().expect("played");
    assert_eq!(requests[0], netfilter::batch(vec![(Request::new(0xa00, &[0; 4]), NlmF::empty()); 2], 1));
}

#[test]
fn only_expected_errors_become_none() {
    let error = |errno: Errno| Err::<(), _>(io::Error::from(errno));
    assert!(matches!(unless(&[Errno::NOENT], error(Errno::NOENT)), Ok(None)));
    assert!(unless(&[Errno::NOENT], error(Errno::PERM)).is_err());
    assert!(matches!(unless(&[Errno::NOENT], Ok(7)), Ok(Some(7))));
}

#[test]
fn messages_of_netlink_itself_are_not_passed_on() {
    // NLMSG_NOOP
    let noop = message(1, NlmF::empty(), &[0; 4]);
    let (mut socket, kernel) = played(vec![vec![noop, object(1), done(NlmF::empty(), 0)]]);
    assert_eq!(dumped(&mut socket).expect("a dump"), [1]);
    kernel.join().expect("played");
}

#[test]
fn a_socket_prints_its_descriptor() {
    let socket = Socket::open(None).expect("NETLINK_ROUTE");
    assert!(format!("{socket:?}").starts_with("Socket { raw: RawSocket { fd: "));
}

#[test]
fn datagrams_of_other_processes_are_refused() {
    // Every user may send on this protocol.
    let protocol = Some(rustix::net::netlink::USERSOCK);
    let socket = Socket::open(protocol).expect("NETLINK_USERSOCK");
    let own = SocketAddrNetlink::try_from(rustix::net::getsockname(&socket.raw).expect("bound")).expect("netlink");
    let other = RawSocket::open(protocol).expect("NETLINK_USERSOCK");
    let sent =
        rustix::net::sendto(&other, &[0; 16], rustix::net::SendFlags::empty(), &SocketAddrNetlink::new(own.pid(), 0));
    assert_eq!(sent, Err(Errno::CONNREFUSED));
}
