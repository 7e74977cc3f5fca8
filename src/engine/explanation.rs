//! The explanation of a target's state as control clients receive it. See [`status`](super::status) about its keys.

use std::net::SocketAddr;

use serde::Serialize;

use super::status::{TargetState, as_text};
use crate::config::Protocol;

/// Explanation of a target's state. Keys that do not apply are left out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Explanation {
    /// Its name.
    pub name: String,
    /// Its kind, `namespace:name`.
    pub kind: String,
    /// Its state.
    pub state: TargetState,
    /// Time of the last change of its state, by the wall clock (RFC 3339).
    pub since: String,
    /// Its last wake.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub woken_by: Option<WokenStatus>,
    /// Frontends that pin it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kept_warm_by: Vec<String>,
    /// Cause of its last drain, or of this one: `idle`, `asked`, `died`, `silent`, `not_ready` or `max_uptime`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drained_because: Option<&'static str>,
    /// Process of the backend.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Number of flows that keep it in use; missing if it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flows: Option<u32>,
    /// These flows, and those that were not answered yet; at most a hundred.
    pub flow_list: Vec<FlowStatus>,
    /// Seconds until it drains if no further packet comes, rounded up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drains_in: Option<u64>,
    /// Its last failure, until it becomes active again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// Seconds until it may be started again, rounded up; while it backs off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_in: Option<u64>,
    /// Result of the last probe, while it warms and is not ready: the endpoint, and what it lacks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting_for: Option<String>,
    /// Time since when each probe has had this result, by the wall clock (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting_since: Option<String>,
    /// All of this as English sentences.
    pub sentences: Vec<String>,
}

/// A wake of a target.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WokenStatus {
    /// The frontend; missing if an operator woke the target.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frontend: Option<String>,
    /// The client, if it is known.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "maybe_as_text")]
    pub source: Option<SocketAddr>,
    /// Its time, by the wall clock (RFC 3339).
    pub at: String,
}

/// One flow.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FlowStatus {
    /// The frontend it came to.
    pub frontend: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// The client.
    #[serde(serialize_with = "as_text")]
    pub source: SocketAddr,
    /// The address that the client connected to.
    #[serde(serialize_with = "as_text")]
    pub destination: SocketAddr,
    /// The endpoint that answers.
    #[serde(serialize_with = "as_text")]
    pub endpoint: SocketAddr,
    /// State of a TCP connection, as conntrack(8) spells it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp_state: Option<&'static str>,
    /// Whether it counts as use: a flow that was not answered does not.
    pub counts: bool,
    /// Whether its packets pass a flowtable, so that conntrack knows neither its state nor its age; left out if not.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub offloaded: bool,
    /// Seconds since it has been known to be in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age_seconds: Option<u64>,
    /// Seconds until it ends if it stays idle, rounded down; 0 while it is offloaded, when that is not known.
    pub left_seconds: u64,
    /// Traffic from the client, if accounting is on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sent: Option<TrafficStatus>,
    /// Traffic from the endpoint, if accounting is on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub received: Option<TrafficStatus>,
}

/// Traffic in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct TrafficStatus {
    /// Packets.
    pub packets: u64,
    /// Bytes, from the network header on.
    pub bytes: u64,
}

fn maybe_as_text<S: serde::Serializer>(address: &Option<SocketAddr>, serializer: S) -> Result<S::Ok, S::Error> {
    match address {
        Some(address) => as_text(address, serializer),
        None => serializer.serialize_none(),
    }
}
