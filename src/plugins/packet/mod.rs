//! The built-in plugin `packet`: `packet:hold`, a frontend without a visible effect on cold clients.
//!
//! A client's first packet waits in the gateway while the backend starts, and is then forwarded: see
//! [`crate::dataplane::hold`].

use std::time::Duration;

use crate::config::{FrontendSpec, Section};
use crate::ids::OUR_NUMBER;
use crate::netlink::instance_lock::LOCK_GROUP;
use crate::plugin::{ColdPath, Frontend, HoldOptions, Namespace, OnFailure, Plugin};

/// Maximum of the options `packets` and `per_source`.
const MAX_PACKETS: u32 = 1 << 20;

/// Maximum of the option `bytes`.
const MAX_BYTES: u32 = 1 << 30;

/// Maximum of the option `hold_timeout`.
const MAX_TIMEOUT: Duration = Duration::from_secs(3600);

/// The plugin, for the daemon's build script.
pub fn plugin() -> Box<dyn Plugin> {
    Box::new(PacketPlugin)
}

struct PacketPlugin;

impl Plugin for PacketPlugin {
    fn load(&mut self, config: &mut Section<'_>, namespace: &mut Namespace) {
        let group = config.optional::<u32>("group").map_or(Some(OUR_NUMBER), |group| u16::try_from(group).ok());
        if group.is_none() {
            config.problem("group", "not an NFLOG group: write a number from 0 to 65535");
        }
        if group == Some(LOCK_GROUP) {
            let problem =
                format_args!("{LOCK_GROUP} is reserved for the lock against a second daemon: write another number");
            config.problem("group", problem);
        }
        let group = group.unwrap_or(OUR_NUMBER);
        namespace.frontend("hold", move |spec, options| hold(group, spec, options));
    }
}

fn hold(group: u16, _spec: &FrontendSpec, options: &mut Section<'_>) -> Option<Frontend> {
    let packets = number(options, "packets", 4096, MAX_PACKETS);
    let per_source = number(options, "per_source", 64, MAX_PACKETS);
    let bytes = number(options, "bytes", 4 << 20, MAX_BYTES);
    let timeout = options.optional("hold_timeout").unwrap_or(Duration::from_secs(60));
    if timeout.is_zero() || timeout > MAX_TIMEOUT {
        options.problem("hold_timeout", format_args!("{timeout:?} is out of bounds: more than 0s, at most 1h"));
    }
    let on_failure = match options.optional::<String>("on_failure").as_deref() {
        None | Some("drop") => OnFailure::Drop,
        Some("reject") => OnFailure::Reject,
        Some(other) => {
            options.problem("on_failure", format_args!("{other:?} is not known: write drop or reject"));
            OnFailure::Drop
        }
    };
    let replay = options.optional("replay").unwrap_or(true);
    let hold = HoldOptions { group, packets, per_source, bytes, timeout, on_failure, replay };
    (!options.failed()).then_some(Frontend { cold: ColdPath::Hold(hold), keeps_warm: false, handler: None })
}

/// Reads a number from 1 to `max`.
fn number(options: &mut Section<'_>, key: &'static str, default: u32, max: u32) -> u32 {
    let number = options.optional(key).unwrap_or(default);
    if number == 0 || number > max {
        options.problem(key, format_args!("{number} is out of bounds: from 1 to {max}"));
    }
    number
}
