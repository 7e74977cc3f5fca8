//! What this machine lets the tests do; a test that cannot run says so.

use std::io::Write;
use std::path::PathBuf;
use std::sync::OnceLock;

use super::namespace::ip;
use super::sweep;

/// Whether network namespaces can be made. If not, the test is reported as skipped and should return.
///
/// # Panics
/// If they cannot be made and `PROXYGW_REQUIRE_ALL=1` is set, as `contrib/test` does.
pub fn require_namespaces() -> bool {
    static PROBED: OnceLock<Result<(), String>> = OnceLock::new();
    let probed = PROBED.get_or_init(|| {
        sweep::sweep();
        let name = format!("{}probe", sweep::prefix());
        ip(&[], &format!("netns add {name}\nnetns del {name}\n"))
    });
    match probed {
        Ok(()) => true,
        Err(error) => skip(&format!("no network namespace can be made (run as root): {error}")),
    }
}

/// The nft of another release, from `PROXYGW_SECOND_NFT`; see `contrib/second-nft`. `None` is reported as skipped.
///
/// # Panics
/// If there is none and `PROXYGW_REQUIRE_ALL=1` is set.
pub fn second_nft() -> Option<PathBuf> {
    let path = std::env::var_os("PROXYGW_SECOND_NFT").map(PathBuf::from).filter(|path| path.exists());
    if path.is_none() {
        skip("PROXYGW_SECOND_NFT does not name a second nft; contrib/second-nft fetches one");
    }
    path
}

/// Reports the calling test as skipped; returns false.
fn skip(reason: &str) -> bool {
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("a test");
    assert!(
        std::env::var_os("PROXYGW_REQUIRE_ALL").is_none_or(|value| value != "1"),
        "{name} must not be skipped (PROXYGW_REQUIRE_ALL=1): {reason}"
    );
    // To the file itself, for the test harness keeps what eprintln! says of a test that passes.
    let _ = writeln!(std::io::stderr(), "skipped {name}: {reason}");
    false
}
