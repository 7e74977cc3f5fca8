//! Where the product's own programs are.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// The path of one of the workspace's programs, built if need be.
///
/// They belong to other packages than the tests, so cargo neither builds them for the tests nor says where they are.
/// cargo does not hold its lock while tests run, so they can call it: once per test process, and a moment if there is
/// nothing to do. `PROXYGW_BIN_DIR` names a folder of finished programs instead.
///
/// # Panics
/// If it cannot be built, with what cargo said.
#[track_caller]
pub fn binary(name: &str) -> PathBuf {
    static FOLDER: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| match std::env::var_os("PROXYGW_BIN_DIR") {
        Some(folder) => Ok(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)),
        None => build(),
    });
    let folder = folder.as_ref().unwrap_or_else(|error| panic!("cargo build: {error}"));
    let path = folder.join(name);
    assert!(path.is_file(), "{} is missing", path.display());
    path
}

/// Builds all programs with the profile of the test itself; returns their folder.
fn build() -> Result<PathBuf, String> {
    // TARGET_DIR/PROFILE/deps/TEST
    let test = std::env::current_exe().map_err(|error| error.to_string())?;
    let folder = test.ancestors().nth(2).ok_or("the test is not in a target folder")?;
    let target = folder.parent().ok_or("the test is not in a target folder")?;
    let profile = match folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(profile) => profile,
    };
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--quiet", "--workspace", "--bins", "--profile", profile, "--target-dir"])
        .arg(target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::null())
        .output()
        .map_err(|error| error.to_string())?;
    if output.status.success() {
        Ok(folder.to_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}
