//! The mio loop.

use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use mio::Interest;
use mio::event::Source;

use crate::engine::Request;

/// What handlers reach through `Io`.
pub struct IoCore {}

#[allow(missing_docs, unused)]
impl IoCore {
    pub fn register(&mut self, o: usize, s: &mut impl Source, k: usize, i: Interest) -> io::Result<()> {
        todo!()
    }
    pub fn reregister(&mut self, o: usize, s: &mut impl Source, k: usize, i: Interest) -> io::Result<()> {
        todo!()
    }
    pub fn deregister(&mut self, o: usize, s: &mut impl Source, k: usize) {
        todo!()
    }
    pub fn now(&self) -> Instant {
        todo!()
    }
    pub fn wake(&mut self, o: usize, source: Option<SocketAddr>) {
        todo!()
    }
    pub fn request(&mut self, o: usize, tag: u64, request: Request) {
        todo!()
    }
}
