//! What the engine tells whoever asks. The keys and their spelling are a contract with people's scripts: new ones may be
//! added, these never change, and optional ones that are empty are left out.

use std::fmt::Display;

use serde::{Serialize, Serializer};

use super::explain::Explanation;
use crate::config::{Address, Protocol};
use crate::dataplane::hold::{HoldStatus, TotalsStatus};

/// A question or an order to the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// The state of everything: answered with [`Reply::Status`].
    Status,
    /// Why the named target is in its state: answered with [`Reply::Explanation`].
    Explain(String),
    /// Warm the named target, as if a client had come.
    WarmTarget(String),
    /// Drain the named target now, in use or not.
    DrainTarget(String),
    /// Start the named frontend.
    StartFrontend(String),
    /// Stop the named frontend.
    StopFrontend(String),
    /// Wake the target behind the named frontend, as if a client had come to it.
    WakeFrontend(String),
}

/// The engine's answer to a [`Request`].
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// To [`Request::Status`].
    Status(Box<Status>),
    /// To [`Request::Explain`].
    Explanation(Box<Explanation>),
    /// The order was taken; what comes of it shows in the status.
    Done,
    /// The order was not taken, and why.
    Refused(String),
}

/// The state of everything.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Status {
    /// Whether the engine is ending.
    pub closed: bool,
    /// By name.
    pub targets: Vec<TargetStatus>,
    /// By name.
    pub frontends: Vec<FrontendStatus>,
    /// What has been done with first packets that no frontend's `hold` counts, where any are held.
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
    /// Where it is in its life.
    pub state: TargetState,
    /// Since when it has been in this state, by the clock on the wall (RFC 3339).
    pub since: String,
    /// How many flows keep it in use; missing where nobody can tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flows: Option<u32>,
    /// In how many seconds it drains if no flow comes, rounded up; while it is active and not in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drains_in: Option<u64>,
    /// The backend's process, where it is one that was started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// In how many seconds it may be started again, rounded up; while it backs off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_in: Option<u64>,
    /// Why it last failed, until it next becomes active.
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
    /// What it speaks.
    pub protocol: Protocol,
    /// Where it listens, or the first of it.
    #[serde(serialize_with = "as_text")]
    pub address: Address,
    /// All of it, where there are several.
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
    /// Where it is in its life.
    pub state: FrontendState,
    /// How many flows that came to it are in use; missing where nobody can tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flows: Option<u32>,
    /// Why it last failed, until it next runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// What its clients speak.
    pub protocol: Protocol,
    /// Where they connect to, or the first of it.
    #[serde(serialize_with = "as_text")]
    pub listen: Address,
    /// All of it, where there are several.
    #[serde(serialize_with = "as_texts", skip_serializing_if = "Vec::is_empty")]
    pub listens: Vec<Address>,
    /// The target behind it.
    pub target_name: String,
    /// The endpoint of that target.
    pub endpoint_name: String,
    /// The endpoint's address, or the first.
    #[serde(rename = "proxyaddress", serialize_with = "as_text")]
    pub proxy_address: Address,
    /// All of them, where there are several.
    #[serde(rename = "proxyaddresses", serialize_with = "as_texts", skip_serializing_if = "Vec::is_empty")]
    pub proxy_addresses: Vec<Address>,
    /// What has been done with first packets, where they are held.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold: Option<HoldStatus>,
}

/// Where a target is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TargetState {
    /// Nothing of it runs.
    Inactive,
    /// It has been started and is not ready yet.
    Warming,
    /// It is ready, and routed to.
    Active,
    /// New flows no longer reach it, and it is being stopped.
    Draining,
    /// The engine has ended.
    Closed,
}

/// Where a frontend is in its life.
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

/// An address as text in every format: the binary ones would have it as numbers.
pub(super) fn as_text<S: Serializer>(address: &impl Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(address)
}

fn as_texts<S: Serializer>(addresses: &[Address], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(addresses.iter().map(Address::to_string))
}
