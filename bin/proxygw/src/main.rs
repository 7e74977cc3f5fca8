//! The proxygw daemon, with the plugins that `plugins.yaml` names.

use std::process::ExitCode;

include!(concat!(env!("OUT_DIR"), "/plugins.rs"));

fn main() -> ExitCode {
    proxygw::daemon::main(register)
}
