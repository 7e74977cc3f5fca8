//! Threads that the daemon cannot live without, and the end of the daemon when one of them dies.
//!
//! Such an end needs no other thread, lock, channel or descriptor of the daemon: any of them may be what hangs or is lost. It
//! leaves what a crash leaves, except that no process of a command survives: the rules go on, and so do clients of backends
//! on other hosts, until the service manager starts the daemon again.

use std::io;
use std::sync::mpsc;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use crate::logging;
use crate::system::processes::{self, Mark};

/// Time that the end may take, from the panic to the exit.
const END: Duration = Duration::from_millis(800);

/// Ends the process when it is dropped by a panic. Create it last on its thread, so that it is dropped first.
#[derive(Debug)]
pub struct Vital {
    thread: &'static str,
}

impl Vital {
    /// A guard of the calling thread, under this name in the log.
    pub fn new(thread: &'static str) -> Vital {
        Vital { thread }
    }
}

impl Drop for Vital {
    fn drop(&mut self) {
        if std::thread::panicking() {
            end(format!("thread {} has died", self.thread));
        }
    }
}

/// Starts a thread whose panic ends the process with exit status 1, see [`end`].
///
/// # Errors
/// The operating system has no thread left.
pub fn spawn<T: Send + 'static>(
    name: &'static str,
    body: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    Builder::new().name(name.to_owned()).spawn(move || {
        let _vital = Vital::new(name);
        body()
    })
}

/// Kills all processes of commands and exits with status 1, after [`END`] at the latest. Rules and settings stay.
pub fn end(reason: String) -> ! {
    let (done, wait) = mpsc::sync_channel(1);
    let work = move || {
        log::error!("{reason}; killing the commands and exiting, the rules stay");
        let killed = Mark::of_namespace().and_then(|mark| processes::kill_all(&mark, None));
        match killed {
            Ok(0) => {}
            Ok(count) => log::error!("killed {count} processes of commands"),
            Err(error) => log::error!("cannot kill the processes of commands: {error}"),
        }
        logging::flush();
        // The receiver waits no longer if this comes too late.
        let _ = done.send(());
    };
    // On a thread of its own: the log and the memory of other processes can block.
    if Builder::new().name("end".to_owned()).spawn(work).is_ok() {
        let _ = wait.recv_timeout(END);
    }
    std::process::exit(1)
}
