//! Runs nft: the only place that changes the rules in the kernel, except for the removal of the table.

use std::fmt;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::system::{Ended, bind_to_us, original_limit, run_for_output, run_with_input};

/// Timeout of one run of nft. The largest table that is supported takes about a second to load.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Timeout of a run once the daemon ends, counted from then: anything that it still loads goes with the table.
const ENDING_TIMEOUT: Duration = Duration::from_secs(2);

/// Maximum length of a query's output, in bytes.
const MAX_OUTPUT: usize = 8 << 20;

/// Directories of nft that services often lack in their search path.
const USUAL_DIRECTORIES: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/local/sbin"];

/// Held while nft runs, so that the daemon's end at once does not leave a run behind, or find the table loaded again.
static RUNNING: Mutex<()> = Mutex::new(());

/// Set once the daemon is to end.
static ENDS: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// Time when that was noticed.
static ENDING: OnceLock<Instant> = OnceLock::new();

/// The daemon ends at once.
static STOPPED: AtomicBool = AtomicBool::new(false);

/// To be set when the daemon is to end: it shortens the timeout of all runs, the current one included. A signal handler can set
/// it, since the threads that could do so may wait for nft, as the main thread does during the start.
pub fn ends() -> Arc<AtomicBool> {
    Arc::clone(&ENDS)
}

/// Kills the run that changes the rules, if there is one, waits for its end, and lets no other begin: a thread that calls
/// [`Nft::apply`] waits for the end of the process.
pub fn stop() {
    STOPPED.store(true, Ordering::SeqCst);
    std::mem::forget(RUNNING.lock().unwrap_or_else(PoisonError::into_inner));
}

/// Deadline of a run now.
fn deadline(began: Instant) -> Instant {
    if STOPPED.load(Ordering::SeqCst) {
        return began;
    }
    deadline_until(began, ENDS.load(Ordering::SeqCst).then(|| *ENDING.get_or_init(Instant::now)))
}

/// Deadline of a run; `end` is when the end of the daemon was noticed.
fn deadline_until(began: Instant, end: Option<Instant>) -> Instant {
    let usual = began + TIMEOUT;
    end.map_or(usual, |end| usual.min(began.max(end) + ENDING_TIMEOUT))
}

/// The nft program.
#[derive(Debug, Clone)]
pub struct Nft {
    program: PathBuf,
}

/// Language of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// libnftables-json(5).
    Json,
    /// nft(8).
    Native,
}

/// Reason why a transaction is not in the kernel.
#[derive(Debug)]
pub enum NftError {
    /// The program could not be run, or did not end.
    Run(PathBuf, io::Error),
    /// The program failed, with this message.
    Failed(String),
}

impl NftError {
    /// Whether nft hung.
    pub fn is_timeout(&self) -> bool {
        matches!(self, NftError::Run(_, error) if error.kind() == io::ErrorKind::TimedOut)
    }
}

impl fmt::Display for NftError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NftError::Run(program, error) => write!(f, "cannot run {}: {error}", program.display()),
            NftError::Failed(message) => write!(f, "nft: {message}"),
        }
    }
}

impl std::error::Error for NftError {}

impl Nft {
    /// The nft of the search path, or of one of its usual directories.
    pub fn find() -> Nft {
        let path = std::env::var_os("PATH").unwrap_or_default();
        Nft::find_in(std::env::split_paths(&path).chain(USUAL_DIRECTORIES.map(PathBuf::from)))
    }

    fn find_in(mut directories: impl Iterator<Item = PathBuf>) -> Nft {
        let found = directories.find_map(|directory| Some(directory.join("nft")).filter(|nft| nft.is_file()));
        Nft { program: found.unwrap_or_else(|| Path::new("nft").to_owned()) }
    }

    /// Loads one transaction: all of it, or nothing. Calls `started` with the process id of nft, before it can commit.
    ///
    /// # Errors
    /// Nothing of the transaction is in the kernel, and why; except that after a timeout it may be.
    pub fn apply(&self, language: Language, transaction: &str, started: &mut dyn FnMut(u32)) -> Result<(), NftError> {
        let _running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        self.run(language, &[], transaction, started)
    }

    /// Has nft and the kernel check a transaction, and changes nothing (`nft --check`).
    ///
    /// # Errors
    /// As for [`Nft::apply`]: the transaction would not be loaded, and why.
    pub fn check(&self, language: Language, transaction: &str) -> Result<(), NftError> {
        self.run(language, &["--check"], transaction, &mut |_| {})
    }

    /// Whether the program exists.
    pub fn exists(&self) -> bool {
        self.program.is_file()
    }

    /// Output of a query, such as `list tables`. It changes nothing, ends with the calling thread, and no transaction waits for
    /// it.
    ///
    /// # Errors
    /// nft could not be run, failed, or printed too much.
    pub fn query(&self, arguments: &[&str]) -> Result<String, NftError> {
        let mut command = Command::new(&self.program);
        bind_to_us(command.args(arguments), original_limit());
        let ended = self.ended(run_for_output(&mut command, MAX_OUTPUT, Instant::now() + TIMEOUT))?;
        Ok(String::from_utf8_lossy(&ended.stdout).into_owned())
    }

    /// The program's version; `None` if it does not report one.
    pub fn version(&self) -> Option<[u32; 3]> {
        parse_version(&self.query(&["--version"]).ok()?)
    }

    fn run(
        &self,
        language: Language,
        options: &[&str],
        transaction: &str,
        started: &mut dyn FnMut(u32),
    ) -> Result<(), NftError> {
        log::trace!("nft: {transaction}");
        let mut command = Command::new(&self.program);
        command.args(options);
        if language == Language::Json {
            command.arg("-j");
        }
        command.args(["-f", "-"]);
        // A run must not outlive a crash: the next start would not know its changes. The kernel has all of it or nothing.
        bind_to_us(&mut command, original_limit());
        let began = Instant::now();
        let ended = run_with_input(&mut command, transaction.as_bytes(), &|| deadline(began), started);
        self.ended(ended).map(drop)
    }

    fn ended(&self, ended: io::Result<Ended>) -> Result<Ended, NftError> {
        let ended = ended.map_err(|error| NftError::Run(self.program.clone(), error))?;
        if ended.status.success() {
            return Ok(ended);
        }
        // The lines after the first quote the input.
        let message = String::from_utf8_lossy(&ended.stderr);
        let message = message.lines().find(|line| !line.trim().is_empty()).unwrap_or_default().trim();
        let message = message.trim_start_matches("internal:0:0-0: ").trim_start_matches("Error: ");
        Err(NftError::Failed(match (message.is_empty(), ended.status.signal()) {
            (true, Some(signal)) => format!("killed by signal {signal}"),
            (true, None) => format!("failed without a message ({})", ended.status),
            (false, _) => message.to_owned(),
        }))
    }
}

/// Parses the version in `nftables v1.0.6 (Lester Gooch #5)`.
pub fn parse_version(output: &str) -> Option<[u32; 3]> {
    let version = output.split_whitespace().find_map(|token| token.strip_prefix('v'))?;
    let mut numbers = version.split('.').map(|number| number.parse().ok());
    let mut next = || numbers.next().unwrap_or(Some(0));
    Some([next()?, next()?, next()?])
}

#[cfg(test)]
mod tests;
