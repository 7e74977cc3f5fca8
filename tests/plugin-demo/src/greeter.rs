//! The target kind `greeter`: a backend without a process. It boots for a while, and then greets each client.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use proxygw::plugin::{Error, Protocol, Section, Target, TargetContext, TargetSpec, log};

/// Reads the options `greeting` and `boot`.
pub fn target(spec: &TargetSpec, options: &mut Section<'_>) -> Option<Box<dyn Target>> {
    let greeting: Option<String> = options.required("greeting");
    let boot: Duration = options.optional("boot").unwrap_or_default();
    if greeting.as_ref().is_some_and(|greeting| greeting.len() > 1000) {
        options.problem("greeting", "it is longer than 1000 bytes");
    }
    let [endpoint] = spec.endpoints.as_slice() else {
        options.problem("", "demo:greeter has one endpoint only");
        return None;
    };
    if endpoint.protocol != Protocol::Tcp {
        options.problem("", "demo:greeter supports tcp only");
    }
    let [address] = endpoint.addresses.as_slice() else {
        options.problem("", "demo:greeter has one address only");
        return None;
    };
    if address.ports.is_range() {
        options.problem("", "demo:greeter has one port only");
    }
    let (address, greeting) = (address.first(), greeting?);
    (!options.failed()).then(|| Box::new(Greeter { address, greeting, boot, run: None }) as Box<dyn Target>)
}

struct Greeter {
    address: SocketAddr,
    greeting: String,
    boot: Duration,
    run: Option<Run>,
}

/// State between a start and a stop.
struct Run {
    listener: TcpListener,
    booted: Instant,
}

impl Target for Greeter {
    fn start(&mut self, context: &TargetContext) -> Result<(), Error> {
        let listener =
            TcpListener::bind(self.address).map_err(|error| format!("cannot listen on {}: {error}", self.address))?;
        listener.set_nonblocking(true)?;
        log::info!("target {}: booting for {:?}", context.name, self.boot);
        self.run = Some(Run { listener, booted: Instant::now() + self.boot });
        Ok(())
    }

    fn wait(&mut self, context: &TargetContext, until: Option<Instant>) -> Result<(), Error> {
        let run = self.run.as_ref().ok_or("it has not been started")?;
        context.wait(&[run.listener.as_fd()], until)?;
        while !context.stopping() {
            match run.listener.accept() {
                Ok((mut client, peer)) => {
                    log::debug!("target {}: client {peer}", context.name);
                    // A greeting fits into the buffer of a new connection. A client that has closed is no error.
                    let _ = writeln!(client, "{}, {}", self.greeting, peer.ip());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(format!("cannot accept a connection: {error}").into()),
            }
        }
        Ok(())
    }

    /// The configured probe would check for a socket of another process.
    fn probe(&mut self, _context: &TargetContext) -> Option<Result<(), Error>> {
        let left = self.run.as_ref()?.booted.saturating_duration_since(Instant::now());
        Some(if left.is_zero() { Ok(()) } else { Err(format!("booting for another {left:.1?}").into()) })
    }

    fn stop(&mut self, _context: &TargetContext) -> Result<(), Error> {
        self.run = None;
        Ok(())
    }

    fn stop_grace(&self) -> Duration {
        Duration::from_secs(1)
    }
}
