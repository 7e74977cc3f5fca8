//! Inputs of the core, and the effects that it requests.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Instant;

use super::rules::Revision;
use crate::config::Address;
use crate::dataplane::flows;
use crate::dataplane::plan::OnLink;
use crate::ids::{Change, FrontendId, TargetId};

/// Something that has happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The table is loaded: the frontends can start.
    Start,
    /// A client has come to a frontend, or an operator acts for one.
    Wake {
        /// The frontend.
        frontend: FrontendId,
        /// The client, if it is known.
        source: Option<SocketAddr>,
    },
    /// An operator wants the target warm.
    WarmTarget(TargetId),
    /// An operator wants the target drained, in use or not.
    DrainTarget(TargetId),
    /// An operator wants the frontend started.
    StartFrontend(FrontendId),
    /// An operator wants the frontend stopped.
    StopFrontend(FrontendId),
    /// The frontend's sockets are open.
    FrontendStarted(FrontendId),
    /// The frontend's sockets could not be opened.
    FrontendFailed(FrontendId, String),
    /// The frontend's sockets are closed.
    FrontendStopped(FrontendId),
    /// The frontend has closed its sockets unasked: its handler has failed.
    FrontendBroke(FrontendId, String),
    /// The target is ready.
    TargetReady(TargetId),
    /// The target's backend has ended by itself, or could not be started.
    TargetDied(TargetId, String),
    /// Nothing of the target is left: the last event of a start. With a message about the condition that it still lacked when
    /// it was stopped before it was ready, or about an error of its stop.
    TargetEnded(TargetId, Option<String>),
    /// The table has to be loaded, although nothing that is wanted of it has changed.
    RulesLost,
    /// Endpoints of a target answer from any address of this host. Comes before `TargetReady`.
    Wildcards(TargetId, BTreeSet<Address>),
    /// Addresses on the links have changed.
    OnLink(BTreeSet<OnLink>),
    /// Everything that was wanted of the rules at this revision is in the kernel.
    Applied(Revision),
    /// The rules could not be loaded.
    ApplyFailed(String),
    /// A report of the flows' thread: the result of [`Effect::WatchFlows`], [`Effect::CheckFlows`] or [`Effect::FlushFlows`], or
    /// clients that get no answer.
    Flows(flows::Report),
    /// A deadline of the core has come, or nothing but time has passed.
    Tick,
    /// The daemon is to end.
    Shutdown,
}

/// Something that is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Start the target; followed by at most one `TargetReady`, at most one `TargetDied`, and exactly one
    /// `TargetEnded`, in this order. A backend that has died waits for its `StopTarget` before it ends.
    StartTarget(TargetId),
    /// Stop a target that has been started; more than once is the same as once.
    StopTarget(TargetId),
    /// Open the frontend's sockets; followed by `FrontendStarted` or `FrontendFailed`.
    StartFrontend(FrontendId),
    /// Close the frontend's sockets; followed by `FrontendStopped`.
    StopFrontend(FrontendId),
    /// Notify the frontend's handler, and the packet holder, of a change of its target. `Active` comes after the DNAT is in,
    /// `Inactive` before it is taken out.
    Notify(FrontendId, Change),
    /// Report when no flow keeps the target in use, at once if none does; followed by `Unused`, unless `ReleaseFlows` or
    /// `FlushFlows` comes before.
    WatchFlows {
        /// The target.
        target: TargetId,
        /// Time of this effect. The result carries it, so that an old one is not taken for it.
        asked: Instant,
    },
    /// The use of the target is no longer of interest.
    ReleaseFlows(TargetId),
    /// Check whether the target is in use. New flows do not reach it. Answered by `Checked`.
    CheckFlows {
        /// The target.
        target: TargetId,
        /// Time of this effect. The result carries it, so that an old one is not taken for it.
        asked: Instant,
    },
    /// Delete the conntrack entries of the target's flows; followed by `Flushed`.
    FlushFlows {
        /// The target.
        target: TargetId,
        /// The flows.
        scope: flows::Scope,
    },
    /// Delete the conntrack entries of UDP flows to the frontend that bypass its present rules.
    DeleteStaleFlows(FrontendId),
    /// Everything has ended.
    Finished,
}

/// The effects of one event.
pub(super) type Effects = Vec<Effect>;
