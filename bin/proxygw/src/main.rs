//! The proxygw daemon with the plugins of `plugins.yaml`.

use std::process::ExitCode;

include!(concat!(env!("OUT_DIR"), "/plugins.rs"));

fn main() -> ExitCode {
    proxygw::daemon::main(register)
}
