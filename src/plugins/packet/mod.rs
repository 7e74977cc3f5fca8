//! The built-in plugin `packet`: `packet:hold`, a frontend whose cold clients notice nothing.
//!
//! A client's first packet waits in the gateway while the backend starts, and then goes on; see
//! [`crate::dataplane::hold`].

use std::time::Duration;

use crate::config::{FrontendSpec, Section};
use crate::ids::OUR_NUMBER;
use crate::netlink::instance_lock::LOCK_GROUP;
use crate::plugin::{ColdPath, Frontend, HoldOptions, Namespace, OnFailure, Plugin};

/// The most packets that a frontend may hold.
const MOST_PACKETS: u32 = 1 << 20;

/// The most bytes that a frontend may hold.
const MOST_BYTES: u32 = 1 << 30;

/// The longest time that a packet may be held.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(3600);

/// The plugin, for the daemon's build script.
pub fn plugin() -> Box<dyn Plugin> {
    Box::new(PacketPlugin)
}

struct PacketPlugin;

impl Plugin for PacketPlugin {
    fn load(&mut self, config: &mut Section<'_>, namespace: &mut Namespace) {
        let group = config.optional::<u32>("group").map_or(Some(OUR_NUMBER), |group| u16::try_from(group).ok());
        if group.is_none() {
            config.problem("group", "this is not an NFLOG group: write a number from 0 to 65535");
        }
        if group == Some(LOCK_GROUP) {
            let problem =
                format_args!("{LOCK_GROUP} is the group that keeps a second daemon from starting: write another");
            config.problem("group", problem);
        }
        let group = group.unwrap_or(OUR_NUMBER);
        namespace.frontend("hold", move |spec, options| hold(group, spec, options));
    }
}

fn hold(group: u16, _spec: &FrontendSpec, options: &mut Section<'_>) -> Option<Frontend> {
    let packets = number(options, "packets", 4096, MOST_PACKETS);
    let per_source = number(options, "per_source", 64, MOST_PACKETS);
    let bytes = number(options, "bytes", 4 << 20, MOST_BYTES);
    let timeout = options.optional("hold_timeout").unwrap_or(Duration::from_secs(60));
    if timeout.is_zero() || timeout > LONGEST_TIMEOUT {
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

/// A number from 1 to `most`.
fn number(options: &mut Section<'_>, key: &'static str, default: u32, most: u32) -> u32 {
    let number = options.optional(key).unwrap_or(default);
    if number == 0 || number > most {
        options.problem(key, format_args!("{number} is out of bounds: from 1 to {most}"));
    }
    number
}
