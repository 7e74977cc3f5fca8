//! Messages recorded from the kernel in a network namespace (`recorded/*.hex`), and a thread that plays the kernel.

use std::os::unix::net::UnixDatagram;
use std::thread::JoinHandle;

use super::message::HEADER;
use super::raw::RawSocket;
use super::socket::Socket;

/// The datagrams of a file in `recorded`.
macro_rules! recorded {
    ($name:literal) => {
        $crate::netlink::testing::datagrams(include_str!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/src/netlink/recorded/",
            $name,
            ".hex"
        )))
    };
}
pub(super) use recorded;

/// Hexadecimal digits after comments, with an empty line before each datagram.
pub(super) fn datagrams(text: &str) -> Vec<Vec<u8>> {
    let digit = |digit: u8| char::from(digit).to_digit(16).expect("a digit") as u8;
    let bytes = |hex: &str| {
        let digits: Vec<u8> = hex.bytes().filter(|byte| *byte != b'\n').map(digit).collect();
        digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
    };
    let datagrams: Vec<Vec<u8>> = text.split("\n\n").skip(1).map(bytes).collect();
    assert!(!datagrams.is_empty());
    datagrams
}

/// A socket whose requests a thread answers with the given datagrams, one list per request. Sequence numbers 0 and 1 become
/// the request's own. The thread returns the requests.
pub(super) fn played(answers: Vec<Vec<Vec<u8>>>) -> (Socket, JoinHandle<Vec<Vec<u8>>>) {
    let (near, far) = UnixDatagram::pair().expect("a pair");
    far.set_read_timeout(Some(super::socket::TIMEOUT)).expect("set");
    let answer = move |datagrams: Vec<Vec<u8>>| {
        let mut request = vec![0; 4096];
        let length = far.recv(&mut request).expect("a request");
        request.truncate(length);
        for mut datagram in datagrams {
            let mut at = 0;
            while let Some(header) = datagram.get_mut(at..at + HEADER) {
                if header[9..12] == [0; 3] && header[8] <= 1 {
                    header[8..12].copy_from_slice(&request[8..12]);
                }
                let length = u32::from_ne_bytes(*header.first_chunk().expect("a header")) as usize;
                at += length.max(HEADER).next_multiple_of(4);
            }
            far.send(&datagram).expect("sent");
        }
        request
    };
    let kernel = std::thread::spawn(move || answers.into_iter().map(answer).collect());
    (Socket::over(RawSocket::over(near.into())).expect("a socket"), kernel)
}
