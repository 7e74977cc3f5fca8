//! System signals, as events of the reactor.

use std::fmt;
use std::io::{self, Read};

use mio::net::UnixStream;
use mio::{Interest, Registry, Token};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::low_level::pipe;

use crate::dataplane::apply;
use crate::system::children;

/// A signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM: shut down.
    Terminate,
    /// SIGINT: shut down.
    Interrupt,
    /// SIGCHLD, for process 1: a child has ended, perhaps an adopted one.
    Child,
    /// SIGHUP: the log file was moved away; open it again.
    Reopen,
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Signal::Terminate => "SIGTERM",
            Signal::Interrupt => "SIGINT",
            Signal::Child => "SIGCHLD",
            Signal::Reopen => "SIGHUP",
        })
    }
}

/// Signals that were received and not handled yet. Each arrives as a byte in a socket pair of its own.
pub struct Signals(Vec<(Signal, UnixStream)>);

impl Signals {
    /// Installs the signal handlers.
    ///
    /// # Errors
    /// The operating system's error.
    pub(super) fn register(registry: &Registry, token: Token) -> io::Result<Signals> {
        let mut all = Vec::new();
        let child = children::adopts_orphans().then_some((Signal::Child, SIGCHLD));
        let always = [(Signal::Terminate, SIGTERM), (Signal::Interrupt, SIGINT), (Signal::Reopen, SIGHUP)];
        for (signal, number) in always.into_iter().chain(child) {
            let (read, write) = std::os::unix::net::UnixStream::pair()?;
            write.set_nonblocking(true)?;
            read.set_nonblocking(true)?;
            pipe::register(number, write)?;
            if matches!(signal, Signal::Terminate | Signal::Interrupt) {
                flag::register(number, apply::ends())?;
            }
            let mut read = UnixStream::from_std(read);
            registry.register(&mut read, token, Interest::READABLE)?;
            all.push((signal, read));
        }
        Ok(Signals(all))
    }

    /// Takes the next signal.
    pub(super) fn next(&mut self) -> Option<Signal> {
        let mut byte = [0];
        self.0.iter_mut().find_map(|(signal, read)| matches!(read.read(&mut byte), Ok(1)).then_some(*signal))
    }
}
