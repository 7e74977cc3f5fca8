//! Runs the data plane's monitors as services: registers their sockets, and passes what they report to the engine.

use std::os::fd::AsRawFd as _;
use std::time::Instant;

use mio::Interest;
use mio::unix::SourceFd;

use crate::dataplane::monitor::{Monitor, MonitorEvent, Progress};
use crate::engine::Message;
use crate::ids::{Change, FrontendId};
use crate::plugin::{Error, Handler, Io, Readiness};

/// The socket's key.
const SOCKET: usize = 0;

/// Handler of a monitor.
#[derive(Debug)]
pub struct Monitored<M>(pub M);

impl<M: Monitor> Monitored<M> {
    fn poll(&mut self, io: &mut Io<'_>) {
        let inbox = &io.core.inbox;
        let progress = self.0.poll(io.now(), &mut |event| match event {
            MonitorEvent::FirstPacket { frontend, source } => inbox.wake(frontend, Some(source)),
            MonitorEvent::Links(links) => inbox.report_on_link(links),
            MonitorEvent::TableChanged => inbox.send(Message::RulesChanged),
        });
        // Registering it again makes it ready again, after the other handlers.
        if progress == Progress::More
            && let Some(fd) = self.0.fd()
            && let Err(error) = io.reregister(&mut SourceFd(&fd.as_raw_fd()), SOCKET, Interest::READABLE)
        {
            log::warn!("cannot wait for reports of the kernel: {error}");
        }
    }
}

impl<M: Monitor> Handler for Monitored<M> {
    fn start(&mut self, io: &mut Io<'_>) -> Result<(), Error> {
        self.0.open(io.now())?;
        let registered = self.0.fd().map(|fd| io.register(&mut SourceFd(&fd.as_raw_fd()), SOCKET, Interest::READABLE));
        if let Some(Err(error)) = registered {
            self.0.close();
            return Err(error.into());
        }
        self.poll(io);
        Ok(())
    }

    fn stop(&mut self, io: &mut Io<'_>) {
        if let Some(fd) = self.0.fd() {
            io.deregister(&mut SourceFd(&fd.as_raw_fd()), SOCKET);
        }
        self.0.close();
    }

    fn ready(&mut self, io: &mut Io<'_>, _key: usize, _readiness: Readiness) {
        self.poll(io);
    }

    fn deadline(&self) -> Option<Instant> {
        self.0.deadline()
    }

    fn timeout(&mut self, io: &mut Io<'_>) {
        self.poll(io);
    }

    fn target_changed(&mut self, _io: &mut Io<'_>, frontend: FrontendId, change: Change) {
        self.0.target_changed(frontend, change);
    }
}
