//! The target kind `greeter`: a backend that is no process. It boots for a while, and then greets whoever comes.

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
        options.problem("greeting", "it is too long: 1000 bytes at most");
    }
    let [endpoint] = spec.endpoints.as_slice() else {
        options.problem("", "a greeter has one endpoint");
        return None;
    };
    if endpoint.protocol != Protocol::Tcp {
        options.problem("", "a greeter speaks tcp, so that is its endpoint's protocol");
    }
    let [address] = endpoint.addresses.as_slice() else {
        options.problem("", "a greeter stands in one place, so its endpoint has one address");
        return None;
    };
    if address.ports.is_range() {
        options.problem("", "a greeter stands in one place, so its endpoint has one port");
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

/// What there is of it between a start and a stop.
struct Run {
    listener: TcpListener,
    booted: Instant,
}

impl Target for Greeter {
    fn start(&mut self, context: &TargetContext) -> Result<(), Error> {
        let listener =
            TcpListener::bind(self.address).map_err(|error| format!("cannot listen on {}: {error}", self.address))?;
        listener.set_nonblocking(true)?;
        log::info!("target {}: boots for {:?}", context.name, self.boot);
        self.run = Some(Run { listener, booted: Instant::now() + self.boot });
        Ok(())
    }

    fn wait(&mut self, context: &TargetContext, until: Option<Instant>) -> Result<(), Error> {
        let run = self.run.as_ref().ok_or("it has not been started")?;
        context.wait(&[run.listener.as_fd()], until)?;
        while !context.stopping() {
            match run.listener.accept() {
                Ok((mut guest, peer)) => {
                    log::debug!("target {}: {peer} has come", context.name);
                    // A new connection has room for a greeting. If the guest is gone, that is no error of ours.
                    let _ = writeln!(guest, "{}, {}", self.greeting, peer.ip());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(format!("cannot accept a connection: {error}").into()),
            }
        }
        Ok(())
    }

    /// The configured probe would look for a socket of another process.
    fn probe(&mut self, _context: &TargetContext) -> Option<Result<(), Error>> {
        let left = self.run.as_ref()?.booted.saturating_duration_since(Instant::now());
        Some(if left.is_zero() { Ok(()) } else { Err(format!("it boots for another {left:.1?}").into()) })
    }

    fn stop(&mut self, _context: &TargetContext) -> Result<(), Error> {
        self.run = None;
        Ok(())
    }

    fn stop_grace(&self) -> Duration {
        Duration::from_secs(1)
    }
}
