//! The status as control clients receive it. Scripts rely on the keys and their spelling: new ones may be added, these never
//! change, and optional ones that are empty are left out.

use std::fmt::Display;

use serde::{Serialize, Serializer};

use crate::config::{Address, Protocol};
use crate::dataplane::hold::{HoldStatus, TotalsStatus};

/// The state of everything.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Status {
    /// Whether the daemon is shutting down.
    pub closed: bool,
    /// Sorted by name.
    pub targets: Vec<TargetStatus>,
    /// Sorted by name.
    pub frontends: Vec<FrontendStatus>,
    /// Counters of first packets that no frontend's `hold` counts, if any frontend holds them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold: Option<TotalsStatus>,
}

/// The state of one target.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TargetStatus {
    /// Its name.
    pub name: String,
    /// Its kind, `namespace:name`.
    pub kind: String,
    /// Its state.
    pub state: TargetState,
    /// Time of the last change of its state, by the wall clock (RFC 3339).
    pub since: String,
    /// Number of flows that keep it in use; missing if it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flows: Option<u32>,
    /// Seconds until it drains if no flow comes, rounded up; while it is active and not in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drains_in: Option<u64>,
    /// Process of the backend, if it is one that was started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Seconds until it may be started again, rounded up; while it backs off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_in: Option<u64>,
    /// Its last failure, until it becomes active again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// Result of the last probe, while it warms and is not ready: the endpoint, and what it lacks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting_for: Option<String>,
    /// Its endpoints, in file order.
    pub endpoints: Vec<EndpointStatus>,
}

/// One endpoint of a target.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EndpointStatus {
    /// Its name.
    pub name: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its first address.
    #[serde(serialize_with = "as_text")]
    pub address: Address,
    /// All of its addresses, if there are several.
    #[serde(serialize_with = "as_texts", skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<Address>,
}

/// The state of one frontend.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FrontendStatus {
    /// Its name.
    pub name: String,
    /// Its kind, `namespace:name`.
    pub kind: String,
    /// Its state.
    pub state: FrontendState,
    /// Number of flows to it that are in use; missing if it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flows: Option<u32>,
    /// Its last failure, until it runs again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// Protocol of its clients.
    pub protocol: Protocol,
    /// The first address that they connect to.
    #[serde(serialize_with = "as_text")]
    pub listen: Address,
    /// All of its addresses, if there are several.
    #[serde(serialize_with = "as_texts", skip_serializing_if = "Vec::is_empty")]
    pub listens: Vec<Address>,
    /// The target behind it.
    pub target_name: String,
    /// The endpoint of that target.
    pub endpoint_name: String,
    /// First address of the endpoint.
    #[serde(rename = "proxyaddress", serialize_with = "as_text")]
    pub proxy_address: Address,
    /// All of its addresses, if there are several.
    #[serde(rename = "proxyaddresses", serialize_with = "as_texts", skip_serializing_if = "Vec::is_empty")]
    pub proxy_addresses: Vec<Address>,
    /// Counters of first packets, if it holds them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold: Option<HoldStatus>,
}

/// State of a target, as users see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TargetState {
    /// Nothing of it runs.
    Inactive,
    /// It has been started and is not ready yet.
    Warming,
    /// It is ready, and new flows are translated to it.
    Active,
    /// New flows no longer reach it, and it is being stopped.
    Draining,
    /// The engine has ended.
    Closed,
}

/// State of a frontend, as users see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FrontendState {
    /// It does nothing.
    Stopped,
    /// Its sockets are being opened and its rules loaded.
    Starting,
    /// Clients can come.
    Running,
    /// Its rules are being removed and its sockets closed.
    Stopping,
    /// The engine has ended.
    Closed,
}

/// Serializes an address as a string in every format: in a binary one it would be numbers.
pub(super) fn as_text<S: Serializer>(address: &impl Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(address)
}

fn as_texts<S: Serializer>(addresses: &[Address], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(addresses.iter().map(Address::to_string))
}
