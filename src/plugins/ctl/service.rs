//! The server as a handler of the reactor.

use std::io;
use std::time::Instant;

use mio::Interest;
use mio::event::Source;

use super::server::{Reactor, Server};
use super::settings::Settings;
use super::socket::{self, SocketFile};
use crate::engine::{Reply, Request};
use crate::plugin::{Error, Handler, Io, Readiness};

/// The control socket, started and stopped by the reactor.
pub(super) struct Service {
    settings: Settings,
    running: Option<(Server, SocketFile)>,
    /// Goes on after a restart: a late reply must not reach a client that did not ask for it.
    next_serial: u64,
}

impl Service {
    pub(super) fn new(settings: Settings) -> Service {
        Service { settings, running: None, next_serial: 1 }
    }

    fn server(&mut self) -> Option<&mut Server> {
        self.running.as_mut().map(|(server, _)| server)
    }
}

impl Handler for Service {
    fn start(&mut self, io: &mut Io<'_>) -> Result<(), Error> {
        let (listener, file) = socket::open(&self.settings)?;
        match Server::start(listener, self.settings.codec, self.next_serial, io) {
            Ok(server) => {
                self.running = Some((server, file));
                Ok(())
            }
            Err(error) => {
                file.remove();
                Err(format!("{}: cannot watch it: {error}", self.settings.socket.display()).into())
            }
        }
    }

    fn stop(&mut self, io: &mut Io<'_>) {
        if let Some((server, file)) = self.running.take() {
            // First, so that nobody finds a socket that refuses.
            file.remove();
            self.next_serial = server.stop(io);
        }
    }

    fn ready(&mut self, io: &mut Io<'_>, key: usize, _readiness: Readiness) {
        if let Some(server) = self.server() {
            server.ready(io, key);
        }
    }

    fn deadline(&self) -> Option<Instant> {
        self.running.as_ref().and_then(|(server, _)| server.deadline())
    }

    fn timeout(&mut self, io: &mut Io<'_>) {
        if let Some(server) = self.server() {
            server.timeout(io);
        }
    }

    fn reply(&mut self, io: &mut Io<'_>, tag: u64, reply: Reply) {
        if let Some(server) = self.server() {
            server.reply(io, tag, &reply);
        }
    }
}

impl Reactor for Io<'_> {
    fn register(&mut self, source: &mut impl Source, key: usize) -> io::Result<()> {
        Io::register(self, source, key, Interest::READABLE | Interest::WRITABLE)
    }

    fn deregister(&mut self, source: &mut impl Source, key: usize) {
        Io::deregister(self, source, key);
    }

    fn now(&self) -> Instant {
        Io::now(self)
    }

    fn request(&mut self, tag: u64, request: Request) {
        Io::request(self, tag, request);
    }
}
