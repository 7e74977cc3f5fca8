//! A frontend that says a word to whoever comes, and wakes the target.

use std::io::{ErrorKind, Write};
use std::net::SocketAddr;

use proxygw::config::{FrontendSpec, Section};
use proxygw::plugin::mio::Interest;
use proxygw::plugin::mio::net::TcpListener;
use proxygw::plugin::{ColdPath, Error, Frontend, Handler, Io, Readiness};

/// The key of the only socket.
const LISTENER: usize = 0;

pub fn frontend(greeting: &str, spec: &FrontendSpec, options: &mut Section<'_>) -> Option<Frontend> {
    let greeting: String = options.optional("greeting").unwrap_or_else(|| greeting.to_owned());
    if greeting.len() > 100 {
        options.problem("greeting", "it is too long: at most 100 bytes");
        return None;
    }
    let handler = Knock { listen: spec.listen, greeting, listener: None };
    Some(Frontend { cold: ColdPath::Local, keeps_warm: false, handler: Some(Box::new(handler)) })
}

struct Knock {
    listen: SocketAddr,
    greeting: String,
    listener: Option<TcpListener>,
}

impl Handler for Knock {
    fn start(&mut self, io: &mut Io<'_>) -> Result<(), Error> {
        let mut listener = TcpListener::bind(self.listen)?;
        io.register(&mut listener, LISTENER, Interest::READABLE)?;
        self.listener = Some(listener);
        Ok(())
    }

    fn stop(&mut self, io: &mut Io<'_>) {
        if let Some(mut listener) = self.listener.take() {
            io.deregister(&mut listener, LISTENER);
        }
    }

    fn ready(&mut self, io: &mut Io<'_>, _key: usize, _readiness: Readiness) {
        // Edge-triggered: accept until there is nobody left.
        while let Some(listener) = &self.listener {
            match listener.accept() {
                Ok((mut stream, peer)) => {
                    io.wake(Some(peer));
                    // A few bytes always fit into an empty socket buffer.
                    let _ = writeln!(stream, "{}", self.greeting);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }
}
