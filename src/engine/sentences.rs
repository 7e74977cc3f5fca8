//! English sentences about a target's state, each complete on its own.

use std::time::Duration;

use super::core::{Cause, Life, WokenBy};
use super::explanation::{Explanation, FlowStatus};
use super::report::View;
use super::status::TargetState;
use crate::config::TargetSpec;
use crate::ids::TargetId;

/// The sentences of an explanation.
pub(super) fn sentences(
    of: &Explanation,
    id: TargetId,
    spec: &TargetSpec,
    life: &Life<'_>,
    view: &View<'_>,
) -> Vec<String> {
    let mut sentences = Vec::new();
    let lasts = span(view.now.saturating_duration_since(life.since).as_secs());
    let state = match life.state {
        TargetState::Inactive => "inactive: nothing of it runs",
        TargetState::Warming => "warming: it has been started and is not ready yet",
        TargetState::Active => "active: it is ready, and clients are routed to it",
        TargetState::Draining if life.checking => {
            "draining: new clients are no longer routed to it, and it is stopped unless one of its flows is answered"
        }
        TargetState::Draining => "draining: clients are no longer routed to it, and it is being stopped",
        TargetState::Closed => "closed: the daemon is shutting down",
    };
    sentences.push(format!("{} is {state}. It has been in this state for {lasts}, since {}.", of.name, of.since));
    sentences.extend(woken_sentence(of, life));
    if matches!(life.state, TargetState::Draining | TargetState::Inactive) {
        sentences.extend(life.drained.map(|cause| drained_sentence(cause, life.state, spec)));
    }
    if let (Some(missing), Some(since)) = (view.missing(id), &of.waiting_since) {
        let lasts = span(view.now.saturating_duration_since(missing.since).as_secs());
        sentences.push(format!("It is waiting for {} (for {lasts}, since {since}).", missing.what));
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
            sentences.push(format!("It has failed and is needed: it starts again in {}.", span(seconds)));
        }
        (Some(seconds), false, TargetState::Inactive) => {
            sentences.push(format!("It has failed: a wake can start it again in {}.", span(seconds)));
        }
        (None, _, TargetState::Inactive) => sentences.push("The next wake starts it at once.".to_owned()),
        _ => {}
    }
    sentences
}

fn woken_sentence(of: &Explanation, life: &Life<'_>) -> Option<String> {
    let (Some(woken), Some(status)) = (life.woken, &of.woken_by) else {
        return (life.state == TargetState::Inactive).then(|| "It has not been woken yet.".to_owned());
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
            format!("{verb} no flow had used it for its idle_timeout of {}.", exact(spec.idle_timeout))
        }
        Cause::Asked => format!("{verb} a drain was requested."),
        Cause::Died => format!("{verb} its backend had ended on its own."),
        Cause::Unresponsive => format!("{verb} its backend answered neither its clients nor this gateway."),
        Cause::NotReady => {
            format!("{verb} it was not ready within {}.", exact(spec.readiness.deadline))
        }
        Cause::TooOld => format!("{verb} it had been up for its max_uptime."),
    }
}

fn flow_sentences(sentences: &mut Vec<String>, of: &Explanation, view: &View<'_>) {
    match (of.flows, view.survey) {
        (_, Err(error)) => sentences.push(format!("Its flows are not known: {error}.")),
        // They do not keep it in use: it drains in spite of them, or they are older than the daemon.
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
        sentences.push("Not answered, refused or half-open, so not counted as use:".to_owned());
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
            None => format!("It is kept warm by {by}, and does not drain on its own."),
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
        Some(0) => format!("It drains in {drains} if no client comes"),
        _ => format!("It drains in {drains} if no further packet comes"),
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

/// A duration of the configuration, for a sentence.
fn exact(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

/// Seconds, for a sentence.
fn span(seconds: u64) -> String {
    humantime::format_duration(Duration::from_secs(seconds)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Protocol;

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
