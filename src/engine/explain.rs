//! Why a target is in its state, as data and in plain sentences.

use std::net::SocketAddr;
use std::time::Duration;

use serde::Serialize;

use super::core::{Cause, Life, WokenBy};
use super::report::View;
use super::status::{TargetState, as_text};
use crate::config::{Protocol, TargetSpec};
use crate::dataplane::flows::FlowDetail;
use crate::ids::{FrontendId, TargetId};

/// Why a target is in its state. Keys that do not apply are left out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Explanation {
    /// Its name.
    pub name: String,
    /// Its kind, `namespace:name`.
    pub kind: String,
    /// Where it is in its life.
    pub state: TargetState,
    /// Since when, by the clock on the wall (RFC 3339).
    pub since: String,
    /// What has woken it last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub woken_by: Option<WokenStatus>,
    /// The frontends that keep it warm.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kept_warm_by: Vec<String>,
    /// Why it has drained last, or drains: `idle`, `asked`, `died`, `silent`, `not_ready` or `max_uptime`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drained_because: Option<&'static str>,
    /// The backend's process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// How many flows keep it in use; missing where nobody can tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flows: Option<u32>,
    /// These flows, and those that were not answered yet; at most a hundred.
    pub flow_list: Vec<FlowStatus>,
    /// In how many seconds it drains if nothing comes any more, not even a packet of its flows; rounded up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drains_in: Option<u64>,
    /// Why it last failed, until it next becomes active.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// In how many seconds it may be started again, rounded up; while it backs off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_in: Option<u64>,
    /// Result of the last probe, while it warms and is not ready: the endpoint, and what it lacks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting_for: Option<String>,
    /// Since when each probe has had this result, by the wall clock (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting_since: Option<String>,
    /// All of this in words.
    pub sentences: Vec<String>,
}

/// What has woken a target.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WokenStatus {
    /// The frontend; missing if an operator has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frontend: Option<String>,
    /// The client, where it is known.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "maybe_as_text")]
    pub source: Option<SocketAddr>,
    /// When, by the clock on the wall (RFC 3339).
    pub at: String,
}

/// One flow.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FlowStatus {
    /// The frontend it came to.
    pub frontend: String,
    /// What it speaks.
    pub protocol: Protocol,
    /// The client.
    #[serde(serialize_with = "as_text")]
    pub source: SocketAddr,
    /// Where the client has connected to.
    #[serde(serialize_with = "as_text")]
    pub destination: SocketAddr,
    /// The endpoint that answers.
    #[serde(serialize_with = "as_text")]
    pub endpoint: SocketAddr,
    /// Of a TCP connection, as conntrack(8) has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp_state: Option<&'static str>,
    /// Whether it counts as use: a flow that was not answered does not.
    pub counts: bool,
    /// Whether its packets pass a flowtable, so that conntrack knows neither its state nor its age; left out if not.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub offloaded: bool,
    /// Since how many seconds it has been known to be in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age_seconds: Option<u64>,
    /// Seconds until it ends if it stays idle, rounded down; 0 while it is offloaded, when that is not known.
    pub left_seconds: u64,
    /// What the client has sent, where accounting is on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sent: Option<TrafficStatus>,
    /// What the endpoint has answered, where accounting is on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub received: Option<TrafficStatus>,
}

/// How much has gone one way.
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

/// How the JSON calls a cause.
fn cause_name(cause: Cause) -> &'static str {
    match cause {
        Cause::Idle => "idle",
        Cause::Asked => "asked",
        Cause::Died => "died",
        Cause::Silent => "silent",
        Cause::NotReady => "not_ready",
        Cause::TooOld => "max_uptime",
    }
}

impl View<'_> {
    /// Why a target is in its state.
    pub(super) fn explain(&self, id: TargetId) -> Explanation {
        let target = &self.targets[&id];
        let spec = target.spec();
        let life = self.core.life(id);
        let name_of = |id: FrontendId| self.frontends[&id].spec.name.clone();
        let woken_by = life.woken.map(|woken| {
            let (frontend, source) = match woken.by {
                WokenBy::Client(id, source) => (Some(name_of(id)), source),
                WokenBy::Pin(id) => (Some(name_of(id)), None),
                WokenBy::Operator => (None, None),
            };
            WokenStatus { frontend, source, at: self.wall.text(woken.at) }
        });
        let details = self.survey.map(|survey| &survey.details[..]).unwrap_or_default();
        let mut explanation = Explanation {
            name: spec.name.clone(),
            kind: spec.kind.to_string(),
            state: life.state,
            since: self.wall.text(life.since),
            woken_by,
            kept_warm_by: self.core.pins(id).map(name_of).collect(),
            drained_because: life.drained.map(cause_name),
            pid: target.pid(),
            flows: self.use_of(id).map(|used| used.flows),
            flow_list: details.iter().map(|detail| self.flow(detail)).collect(),
            drains_in: self.drains_in_silence(id, &life).or_else(|| self.drains_in(id)),
            last_error: life.last_error.map(str::to_owned),
            retry_in: self.retry_in(id),
            waiting_for: self.missing(id).map(|missing| missing.what),
            waiting_since: self.missing(id).map(|missing| self.wall.text(missing.since)),
            sentences: Vec::new(),
        };
        explanation.sentences = sentences(&explanation, id, spec, &life, self);
        explanation
    }

    /// In how many seconds a target that is in use drains if all its flows stay silent.
    fn drains_in_silence(&self, id: TargetId, life: &Life<'_>) -> Option<u64> {
        let until = self.use_of(id).filter(|used| used.flows > 0)?.until?;
        (life.state == TargetState::Active && !life.is_pinned)
            .then(|| self.core.drains_at(id, 0, Some(until)).map(|at| self.seconds_until(at)))?
    }

    fn flow(&self, detail: &FlowDetail) -> FlowStatus {
        let entry = &detail.entry;
        let traffic = |counters: crate::netlink::conntrack::Counters| TrafficStatus {
            packets: counters.packets,
            bytes: counters.bytes,
        };
        FlowStatus {
            frontend: self.frontends[&detail.frontend].spec.name.clone(),
            protocol: entry.protocol,
            source: entry.original.source,
            destination: entry.original.destination,
            endpoint: entry.reply.source,
            tcp_state: entry.tcp_state.map(|state| state.name()),
            counts: detail.counts,
            offloaded: entry.status.offloaded(),
            age_seconds: detail.age.map(|age| age.as_secs()),
            left_seconds: entry.timeout.filter(|_| !entry.status.offloaded()).unwrap_or(0).into(),
            sent: entry.sent.map(traffic),
            received: entry.received.map(traffic),
        }
    }
}

/// The explanation in words: each sentence stands for itself.
fn sentences(of: &Explanation, id: TargetId, spec: &TargetSpec, life: &Life<'_>, view: &View<'_>) -> Vec<String> {
    let mut sentences = Vec::new();
    let lasts = span(view.now.saturating_duration_since(life.since).as_secs());
    let state = match life.state {
        TargetState::Inactive => "inactive: nothing of it runs",
        TargetState::Warming => "warming: it has been started and is not ready yet",
        TargetState::Active => "active: it is ready, and clients are routed to it",
        TargetState::Draining if life.checking => {
            "draining: new clients are not routed to it any more, and it is stopped unless one of its flows is answered yet"
        }
        TargetState::Draining => "draining: clients are not routed to it any more, and it is being stopped",
        TargetState::Closed => "closed: the daemon is ending",
    };
    sentences.push(format!("{} is {state}. It has been so for {lasts}, since {}.", of.name, of.since));
    sentences.extend(woken_sentence(of, life));
    if matches!(life.state, TargetState::Draining | TargetState::Inactive) {
        sentences.extend(life.drained.map(|cause| drained_sentence(cause, life.state, spec)));
    }
    if let (Some(missing), Some(since)) = (view.missing(id), &of.waiting_since) {
        let lasts = span(view.now.saturating_duration_since(missing.since).as_secs());
        sentences.push(format!("It waits for {}. This has been so for {lasts}, since {since}.", missing.what));
    }
    if let Some(pid) = of.pid {
        sentences.push(format!("Its process is {pid}."));
    }
    if life.state == TargetState::Active || !of.flow_list.is_empty() {
        flow_sentences(&mut sentences, of, view);
    }
    if life.state == TargetState::Active {
        sentences.extend(drain_sentence(of, spec, life, view));
    }
    if let Some(error) = &of.last_error {
        sentences.push(format!("Its last error: {error}."));
    }
    match (of.retry_in, life.wanted, life.state) {
        (Some(seconds), true, TargetState::Inactive) => {
            sentences.push(format!("It has failed, and is wanted: it is started again in {}.", span(seconds)));
        }
        (Some(seconds), false, TargetState::Inactive) => {
            sentences.push(format!("It has failed: a wake starts it again in {} at the earliest.", span(seconds)));
        }
        (None, _, TargetState::Inactive) => sentences.push("The next wake starts it at once.".to_owned()),
        _ => {}
    }
    sentences
}

fn woken_sentence(of: &Explanation, life: &Life<'_>) -> Option<String> {
    let (Some(woken), Some(status)) = (life.woken, &of.woken_by) else {
        return (life.state == TargetState::Inactive).then(|| "Nobody has woken it yet.".to_owned());
    };
    let frontend = status.frontend.as_deref().unwrap_or_default();
    let by = match (woken.by, status.source) {
        (WokenBy::Operator, _) => "an operator".to_owned(),
        (WokenBy::Pin(_), _) => format!("frontend {frontend}, which keeps it warm,"),
        (WokenBy::Client(..), Some(source)) => format!("frontend {frontend} for the client {source}"),
        (WokenBy::Client(..), None) => format!("frontend {frontend}"),
    };
    let last = if life.state == TargetState::Inactive { "last " } else { "" };
    Some(format!("It was {last}woken by {by} at {}.", status.at))
}

fn drained_sentence(cause: Cause, state: TargetState, spec: &TargetSpec) -> String {
    let verb = if state == TargetState::Draining { "It drains because" } else { "It has drained because" };
    match cause {
        Cause::Idle => {
            format!("{verb} nobody had used it for its idle_timeout of {}.", exact(spec.idle_timeout))
        }
        Cause::Asked => format!("{verb} it was told to."),
        Cause::Died => format!("{verb} its backend had ended by itself."),
        Cause::Silent => format!("{verb} its backend answered neither its clients nor this gateway."),
        Cause::NotReady => {
            format!("{verb} it was not ready within {}.", exact(spec.readiness.deadline))
        }
        Cause::TooOld => format!("{verb} it had been up for its max_uptime."),
    }
}

fn flow_sentences(sentences: &mut Vec<String>, of: &Explanation, view: &View<'_>) {
    match (of.flows, view.survey) {
        (_, Err(error)) => sentences.push(format!("Nobody can tell which flows there are: {error}.")),
        // Nothing else keeps it: it drains in spite of them, or they are older than the daemon.
        (Some(count), _) if of.state != TargetState::Active => match count {
            0 => sentences.push("None of its flows is in use.".to_owned()),
            1 => sentences.push("1 flow is open:".to_owned()),
            _ => sentences.push(format!("{count} flows are open:")),
        },
        (Some(0), _) => sentences.push("No flow keeps it in use.".to_owned()),
        (Some(1), _) => sentences.push("1 flow keeps it in use:".to_owned()),
        (Some(count), _) => sentences.push(format!("{count} flows keep it in use:")),
        (None, _) => {}
    }
    let (counting, others): (Vec<_>, Vec<_>) = of.flow_list.iter().partition(|flow| flow.counts);
    sentences.extend(counting.iter().map(|flow| flow_sentence(flow)));
    let more = (of.flows.unwrap_or(0) as usize).saturating_sub(counting.len());
    if more > 0 {
        sentences.push(format!("  and {more} more."));
    }
    if !others.is_empty() {
        sentences.push("Not answered, refused or half-open, and so no use:".to_owned());
        sentences.extend(others.iter().map(|flow| flow_sentence(flow)));
    }
}

fn flow_sentence(flow: &FlowStatus) -> String {
    let mut text = format!("  {} {} to {}", flow.protocol, flow.source, flow.destination);
    if let Some(state) = flow.tcp_state {
        text += &format!(", {state}");
    }
    text += &format!(" (frontend {}, endpoint {})", flow.frontend, flow.endpoint);
    if let Some(age) = flow.age_seconds {
        text += &format!(", open for {}", span(age));
    }
    text += &match flow.offloaded {
        true => ", passes a flowtable".to_owned(),
        false => format!(", ends in {} if it stays idle", span(flow.left_seconds)),
    };
    if let (Some(sent), Some(received)) = (flow.sent, flow.received) {
        let packets = if sent.packets == 1 { "packet" } else { "packets" };
        text += &format!(
            ", sent {} {packets} with {} bytes and received {} with {}",
            sent.packets, sent.bytes, received.packets, received.bytes
        );
    }
    text + "."
}

fn drain_sentence(of: &Explanation, spec: &TargetSpec, life: &Life<'_>, view: &View<'_>) -> Option<String> {
    if life.is_pinned {
        let by = of.kept_warm_by.join(" and ");
        return Some(match of.drains_in {
            Some(seconds) => format!("It is kept warm by {by}; it is renewed in {} (max_uptime).", span(seconds)),
            None => format!("It is kept warm by {by}, and does not drain by itself."),
        });
    }
    let drains = span(of.drains_in?);
    if let (Some(up), Some(max)) = (life.up_since, spec.max_uptime)
        && Some(view.seconds_until(up + max)) == of.drains_in
    {
        return Some(format!("It drains in {drains}, in use or not: its max_uptime is {}.", exact(max)));
    }
    let idle = exact(spec.idle_timeout);
    let mut text = match of.flows {
        Some(0) => format!("It drains in {drains} if nobody comes"),
        _ => format!("It drains in {drains} if not one more packet comes"),
    };
    text += &format!(": its idle_timeout is {idle}");
    if !spec.min_uptime.is_zero() {
        text += &format!(", its min_uptime {}", exact(spec.min_uptime));
    }
    if let Some(max) = spec.max_uptime {
        text += &format!(", its max_uptime {}", exact(max));
    }
    Some(text + ".")
}

/// A duration of the configuration in words.
fn exact(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

/// Seconds in words.
fn span(seconds: u64) -> String {
    humantime::format_duration(Duration::from_secs(seconds)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_in_a_flowtable_has_no_end_that_is_known() {
        let flow = FlowStatus {
            frontend: "f".to_owned(),
            protocol: Protocol::Tcp,
            source: "198.51.100.2:41234".parse().expect("an address"),
            destination: "198.51.100.1:80".parse().expect("an address"),
            endpoint: "203.0.113.2:8080".parse().expect("an address"),
            tcp_state: None,
            counts: true,
            offloaded: true,
            age_seconds: None,
            left_seconds: 0,
            sent: None,
            received: None,
        };
        let text =
            "  tcp 198.51.100.2:41234 to 198.51.100.1:80 (frontend f, endpoint 203.0.113.2:8080), passes a flowtable.";
        assert_eq!(flow_sentence(&flow), text);
        let json = |flow: &FlowStatus| serde_json::to_value(flow).expect("JSON");
        assert_eq!(json(&flow)["offloaded"], true);
        let flow = FlowStatus { offloaded: false, left_seconds: 48, ..flow };
        assert!(flow_sentence(&flow).ends_with(", ends in 48s if it stays idle."));
        assert!(json(&flow).get("offloaded").is_none());
    }
}
