//! The classic BPF program that lets only the events of DNATed flows into a subscription's socket, so that foreign
//! flows, however many, neither wake us nor fill its buffer (`linux/filter.h`).

use std::io;
use std::os::fd::AsFd;

use socket2::{SockFilter, SockRef};

use super::{GENERIC_HEADER, Status, cta};
use crate::netlink::message::HEADER;

/// `BPF_LD | BPF_IMM`: A = k.
const LOAD: u16 = 0x00;
/// `BPF_LDX | BPF_IMM`: X = k.
const LOAD_X: u16 = 0x01;
/// `BPF_LD | BPF_W | BPF_ABS`: A = the big-endian word at k, or an extension's result.
const LOAD_WORD: u16 = 0x20;
/// `BPF_LD | BPF_W | BPF_IND`: A = the big-endian word at X + k.
const LOAD_WORD_AT_X: u16 = 0x40;
/// `BPF_MISC | BPF_TAX`: X = A.
const MOVE_TO_X: u16 = 0x07;
/// `BPF_JMP | BPF_JEQ | BPF_K`.
const JUMP_IF_EQUAL: u16 = 0x15;
/// `BPF_JMP | BPF_JSET | BPF_K`.
const JUMP_IF_ANY: u16 = 0x45;
/// `BPF_RET | BPF_K`: let k bytes pass.
const RETURN: u16 = 0x06;
/// `SKF_AD_OFF + SKF_AD_NLATTR`: A = where the attribute of type X is, searched from A; 0 if there is none.
const FIND_ATTRIBUTE: u32 = (-0x1000i32 + 12) as u32;

/// Lets only messages pass whose `CTA_STATUS` has `IPS_DST_NAT`.
const ONLY_DNAT: [SockFilter; 9] = [
    SockFilter::new(LOAD, 0, 0, (HEADER + GENERIC_HEADER) as u32),
    SockFilter::new(LOAD_X, 0, 0, cta::STATUS as u32),
    SockFilter::new(LOAD_WORD, 0, 0, FIND_ATTRIBUTE),
    SockFilter::new(JUMP_IF_EQUAL, 4, 0, 0),
    SockFilter::new(MOVE_TO_X, 0, 0, 0),
    // The value is behind the attribute's header of four bytes.
    SockFilter::new(LOAD_WORD_AT_X, 0, 0, 4),
    SockFilter::new(JUMP_IF_ANY, 0, 1, Status::DST_NAT),
    SockFilter::new(RETURN, 0, 0, u32::MAX),
    SockFilter::new(RETURN, 0, 0, 0),
];

/// Attaches the program to a socket.
///
/// # Errors
/// What the operating system said.
pub(super) fn only_dnat(socket: &impl AsFd) -> io::Result<()> {
    SockRef::from(socket).attach_filter(&ONLY_DNAT)
}
