//! The flows that lead to a report.

use super::*;
use crate::netlink::conntrack::{Status, TcpState, Tuple};

const F: FrontendId = FrontendId::new(0);
const ENDPOINT: &str = "203.0.113.2:8080";

/// A flow of a client, which the endpoint sees come from `seen`.
fn flow(client: &str, seen: &str, answered: bool) -> Entry {
    let at = |text: &str| text.parse().expect("an address");
    Entry {
        protocol: Protocol::Tcp,
        original: Tuple { source: at(client), destination: at("198.51.100.1:80") },
        reply: Tuple { source: at(ENDPOINT), destination: at(seen) },
        status: Status(if answered { Status::SEEN_REPLY } else { 0 }),
        timeout: None,
        tcp_state: Some(TcpState::SynSent),
        zone: 0,
        id: 1,
        sent: None,
        received: None,
        start: None,
    }
}

/// Shows a flow of the client 198.51.100.2, or of one that comes from the gateway, 203.0.113.1.
fn show(reach: &mut Reach, from_gateway: Option<&str>, answered: bool) -> bool {
    let entry = match from_gateway {
        Some(client) => flow(client, "203.0.113.1:50000", answered),
        None => flow("198.51.100.2:50000", "198.51.100.2:50000", answered),
    };
    reach.changed(Instant::now(), F, &entry, |ip| ip.to_string() == "203.0.113.1")
}

const OWN: Option<&str> = Some("203.0.113.1:40000");
const MASQUERADED: Option<&str> = Some("127.0.0.1:40000");

/// The first flow that is due by now has waited, and its endpoint is probed. Returns whether a problem is reported.
fn probe(reach: &mut Reach, gateway: bool) -> bool {
    let due = reach.due(Instant::now() + TIMEOUT);
    let (frontend, candidate) = due.first().expect("it waits");
    reach.probing(Instant::now(), *frontend, candidate);
    let gateway = if gateway { Gateway::Answered } else { Gateway::Unanswered };
    reach.probed(Instant::now(), *frontend, gateway).is_some()
}

#[test]
fn answers_to_the_gateway_show_nothing_about_those_to_clients() {
    let mut reach = Reach::default();
    for from in [OWN, MASQUERADED] {
        assert!(!show(&mut reach, from, true));
    }
    assert!(!show(&mut reach, None, false));
    assert!(!show(&mut reach, OWN, true), "nor do they end the wait");
    assert!(probe(&mut reach, true));
    assert!(!show(&mut reach, OWN, true) && !show(&mut reach, MASQUERADED, true), "the client still is not answered");
    assert!(show(&mut reach, None, true) && !show(&mut reach, None, true));
    assert_eq!(reach.deadline(), None);
}

#[test]
fn any_flow_shows_a_backend_that_answers_none() {
    for from in [OWN, MASQUERADED, None] {
        let mut reach = Reach::default();
        show(&mut reach, from, false);
        assert!(probe(&mut reach, false));
        assert!(show(&mut reach, OWN, true), "it is back");
        // Clients are watched again.
        show(&mut reach, None, false);
        assert!(probe(&mut reach, true));
    }
}

#[test]
fn the_gateways_own_flow_shows_nothing_about_the_way_back() {
    let mut reach = Reach::default();
    show(&mut reach, MASQUERADED, false);
    assert!(!probe(&mut reach, true));
    show(&mut reach, None, false);
    assert!(reach.deadline().is_some());
}

#[test]
fn the_gateways_own_flow_does_not_hide_a_client() {
    let mut reach = Reach::default();
    show(&mut reach, OWN, false);
    show(&mut reach, OWN, true);
    show(&mut reach, None, false);
    assert!(probe(&mut reach, true));
}

/// A client's SYN is refused.
fn refuse(reach: &mut Reach, now: Instant) {
    let mut entry = flow("198.51.100.2:50000", "198.51.100.2:50000", false);
    reach.changed(now, F, &entry, |_| false);
    entry.tcp_state = Some(TcpState::Close);
    reach.removed(now, F, &entry);
}

#[test]
fn the_end_of_a_backend_is_noticed_at_any_time() {
    for refused in [false, true] {
        let mut reach = Reach::default();
        show(&mut reach, None, true);
        assert_eq!(reach.deadline(), None);
        if refused {
            refuse(&mut reach, Instant::now());
            assert_eq!(reach.due(Instant::now()).len(), 1, "at once");
        } else {
            show(&mut reach, None, false);
            assert!(reach.due(Instant::now()).is_empty());
        }
        assert!(probe(&mut reach, false));
        assert!(show(&mut reach, None, true), "it is back");
    }
}

#[test]
fn one_unanswered_client_of_many_shows_nothing_if_the_gateway_is_answered() {
    for refused in [false, true] {
        let mut reach = Reach::default();
        show(&mut reach, None, true);
        if refused {
            refuse(&mut reach, Instant::now())
        } else {
            _ = show(&mut reach, None, false)
        }
        assert!(!probe(&mut reach, true));
    }
    let mut reach = Reach::default();
    refuse(&mut reach, Instant::now());
    assert!(!probe(&mut reach, true), "nor does the first, if it is refused");
}

#[test]
fn only_a_new_answered_flow_ends_the_wait() {
    let mut reach = Reach::default();
    show(&mut reach, None, true);
    show(&mut reach, None, false);
    let mut other = flow("198.51.100.3:50000", "198.51.100.3:50000", true);
    other.tcp_state = Some(TcpState::FinWait);
    reach.changed(Instant::now(), F, &other, |_| false);
    assert!(reach.deadline().is_some());
    other.tcp_state = Some(TcpState::SynRecv);
    reach.changed(Instant::now(), F, &other, |_| false);
    assert_eq!(reach.deadline(), None);
    // Nor does it withdraw a report.
    show(&mut reach, None, false);
    assert!(probe(&mut reach, false));
    other.tcp_state = Some(TcpState::FinWait);
    assert!(!reach.changed(Instant::now(), F, &other, |_| false));
    assert!(show(&mut reach, None, true));
}

#[test]
fn refused_clients_cause_one_probe_a_second_at_most() {
    let mut reach = Reach::default();
    let now = Instant::now();
    refuse(&mut reach, now);
    assert!(!probe(&mut reach, true));
    refuse(&mut reach, now);
    refuse(&mut reach, now);
    assert!(reach.due(now).is_empty());
    assert_eq!(reach.due(now + 2 * PAUSE).len(), 1);
}

#[test]
fn the_same_problem_is_reported_once_a_minute() {
    let mut reach = Reach::default();
    let reported: Vec<_> = (0..3)
        .map(|_| {
            show(&mut reach, None, false);
            let reported = probe(&mut reach, false);
            show(&mut reach, None, true);
            reported
        })
        .collect();
    assert_eq!(reported, [true, false, false]);
    reach.reset(F);
    show(&mut reach, None, false);
    assert!(probe(&mut reach, false), "the next start is another matter");
}
