//! The server as a handler of the reactor. Creates the socket again when its file or directory is removed.

use std::time::{Duration, Instant};

use mio::Interest;
use mio::unix::SourceFd;

use super::file_watch::FileWatch;
use super::server::Server;
use super::settings::Settings;
use super::socket::{self, SocketFile};
use crate::plugin::{Error, Handler, Io, Readiness, Reply};

/// Key of the watch on the socket's file. The server's keys count up from 0.
const WATCH: usize = usize::MAX;

/// Time between a removal and the first attempt to create the socket again, so that a removal of its directory can finish.
const FIRST_RETRY: Duration = Duration::from_millis(500);

/// Time between further attempts.
const RETRY: Duration = Duration::from_secs(2);

/// The control socket, started and stopped by the reactor.
pub(super) struct Service {
    settings: Settings,
    running: Option<Running>,
    /// Continues after a restart, so that a late reply reaches no other client.
    next_serial: u64,
}

struct Running {
    server: Server,
    file: File,
}

/// The socket's file.
enum File {
    Present { file: SocketFile, watch: Option<FileWatch> },
    Missing { retry_at: Instant, problem: Option<String> },
}

impl File {
    /// The socket's file with a watch on it, if one is possible.
    fn present(file: SocketFile, io: &mut Io<'_>) -> File {
        let watch = FileWatch::open(file.path()).and_then(|watch| {
            io.register(&mut SourceFd(&watch.number()), WATCH, Interest::READABLE)?;
            Ok(watch)
        });
        let watch = watch.inspect_err(|error| {
            log::warn!(
                "ctl: cannot watch {}: {error}; the socket is not created again if the file is removed",
                file.path().display()
            );
        });
        File::Present { file, watch: watch.ok() }
    }

    /// Removes the watch. Returns the file if it is there.
    fn unwatch(self, io: &mut Io<'_>) -> Option<SocketFile> {
        let File::Present { file, watch } = self else { return None };
        if let Some(watch) = watch {
            io.deregister(&mut SourceFd(&watch.number()), WATCH);
        }
        Some(file)
    }
}

impl Service {
    pub(super) fn new(settings: Settings) -> Service {
        Service { settings, running: None, next_serial: 1 }
    }

    fn server(&mut self) -> Option<&mut Server> {
        self.running.as_mut().map(|running| &mut running.server)
    }
}

impl Running {
    /// Checks that the file is still there.
    fn check(&mut self, io: &mut Io<'_>) {
        let File::Present { file, watch: Some(watch) } = &self.file else { return };
        watch.drain();
        if file.is_ours() {
            return;
        }
        log::warn!("ctl: {} was removed; creating it again", file.path().display());
        let missing = File::Missing { retry_at: io.now() + FIRST_RETRY, problem: None };
        std::mem::replace(&mut self.file, missing).unwatch(io);
    }

    /// Creates the socket again.
    fn reopen(&mut self, settings: &Settings, io: &mut Io<'_>) {
        let File::Missing { retry_at, problem } = &mut self.file else { return };
        if *retry_at > io.now() {
            return;
        }
        match socket::open(settings) {
            Ok((listener, file)) => match self.server.listen_on(listener, io) {
                Ok(()) => {
                    log::info!("ctl: created {} again", settings.socket.display());
                    self.file = File::present(file, io);
                    return;
                }
                Err(error) => {
                    file.remove();
                    log::debug!("ctl: cannot register the new socket: {error}");
                }
            },
            Err(error) => {
                let error = error.to_string();
                if problem.as_ref() != Some(&error) {
                    log::warn!("ctl: cannot create the socket again: {error}");
                    *problem = Some(error);
                }
            }
        }
        *retry_at = io.now() + RETRY;
    }
}

impl Handler for Service {
    fn start(&mut self, io: &mut Io<'_>) -> Result<(), Error> {
        let (listener, file) = socket::open(&self.settings)?;
        match Server::start(listener, self.settings.codec, self.next_serial, io) {
            Ok(server) => {
                self.running = Some(Running { server, file: File::present(file, io) });
                Ok(())
            }
            Err(error) => {
                file.remove();
                Err(format!("{}: cannot register the socket: {error}", self.settings.socket.display()).into())
            }
        }
    }

    fn stop(&mut self, io: &mut Io<'_>) {
        if let Some(Running { server, file }) = self.running.take() {
            // First, so that no client finds a socket that refuses connections.
            if let Some(file) = file.unwatch(io) {
                file.remove();
            }
            self.next_serial = server.stop(io);
        }
    }

    fn ready(&mut self, io: &mut Io<'_>, key: usize, _readiness: Readiness) {
        match &mut self.running {
            Some(running) if key == WATCH => running.check(io),
            Some(running) => running.server.ready(io, key),
            None => {}
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let running = self.running.as_ref()?;
        let retry_at = match &running.file {
            File::Missing { retry_at, .. } => Some(*retry_at),
            File::Present { .. } => None,
        };
        running.server.deadline().into_iter().chain(retry_at).min()
    }

    fn timeout(&mut self, io: &mut Io<'_>) {
        if let Some(running) = &mut self.running {
            running.reopen(&self.settings, io);
            running.server.timeout(io);
        }
    }

    fn reply(&mut self, io: &mut Io<'_>, tag: u64, reply: Reply) {
        if let Some(server) = self.server() {
            server.reply(io, tag, &reply);
        }
    }
}
