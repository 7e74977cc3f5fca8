//! A target whose backend is a thread of the daemon itself.

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use proxygw::config::{Section, TargetSpec};
use proxygw::plugin::{Error, Target, TargetContext, log};

pub fn target(spec: &TargetSpec, options: &mut Section<'_>) -> Option<Box<dyn Target>> {
    let answer = options.required("answer")?;
    Some(Box::new(Thread { address: spec.endpoints[0].address, answer, backend: None }))
}

struct Thread {
    address: SocketAddr,
    answer: String,
    backend: Option<Backend>,
}

struct Backend {
    ending: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Target for Thread {
    fn start(&mut self, context: &TargetContext) -> Result<(), Error> {
        let listener = TcpListener::bind(self.address)?;
        let (ending, answer) = (Arc::new(AtomicBool::new(false)), self.answer.clone());
        let seen = ending.clone();
        let serve = move || {
            for stream in listener.incoming().take_while(|_| !seen.load(Ordering::Relaxed)) {
                let _ = stream.and_then(|mut stream| writeln!(stream, "{answer}"));
            }
        };
        let thread = std::thread::Builder::new().name(context.name.clone()).spawn(serve)?;
        log::info!("target {}: a thread answers at {}", context.name, self.address);
        self.backend = Some(Backend { ending, thread });
        Ok(())
    }

    /// The default readiness looks for sockets of other processes; this backend knows better.
    fn probe(&mut self, _context: &TargetContext) -> Option<Result<(), Error>> {
        Some(self.backend.as_ref().map(|_| ()).ok_or_else(|| "there is no thread".into()))
    }

    fn stop(&mut self, _context: &TargetContext) -> Result<(), Error> {
        if let Some(backend) = self.backend.take() {
            backend.ending.store(true, Ordering::Relaxed);
            // One last client, so that it looks.
            drop(TcpStream::connect_timeout(&self.address, Duration::from_secs(1)));
            backend.thread.join().map_err(|_| "its thread has panicked")?;
        }
        Ok(())
    }
}
