//! What is told of which flows.

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

/// What is told of a flow of the client 198.51.100.2, or of one that comes from the gateway, 203.0.113.1.
fn tell(reach: &mut Reach, from_gateway: Option<&str>, answered: bool) -> bool {
    let entry = match from_gateway {
        Some(client) => flow(client, "203.0.113.1:50000", answered),
        None => flow("198.51.100.2:50000", "198.51.100.2:50000", answered),
    };
    reach.changed(Instant::now(), F, &entry, |ip| ip.to_string() == "203.0.113.1")
}

const OWN: Option<&str> = Some("203.0.113.1:40000");
const MASQUERADED: Option<&str> = Some("127.0.0.1:40000");

/// The first flow that is due by now has waited, and its endpoint is asked. Returns whether anything is told.
fn ask(reach: &mut Reach, gateway: bool) -> bool {
    let due = reach.due(Instant::now() + TIMEOUT);
    let (frontend, candidate) = due.first().expect("it waits");
    reach.probing(Instant::now(), *frontend, candidate);
    let gateway = if gateway { Gateway::Answered } else { Gateway::Unanswered };
    reach.probed(Instant::now(), *frontend, gateway).is_some()
}

#[test]
fn answers_to_the_gateway_say_nothing_of_those_to_clients() {
    let mut reach = Reach::default();
    for from in [OWN, MASQUERADED] {
        assert!(!tell(&mut reach, from, true));
    }
    assert!(!tell(&mut reach, None, false));
    assert!(!tell(&mut reach, OWN, true), "nor do they end the wait");
    assert!(ask(&mut reach, true));
    assert!(!tell(&mut reach, OWN, true) && !tell(&mut reach, MASQUERADED, true), "the client still is not answered");
    assert!(tell(&mut reach, None, true) && !tell(&mut reach, None, true));
    assert_eq!(reach.deadline(), None);
}

#[test]
fn a_backend_that_answers_nobody_is_told_by_whichever_flow() {
    for from in [OWN, MASQUERADED, None] {
        let mut reach = Reach::default();
        tell(&mut reach, from, false);
        assert!(ask(&mut reach, false));
        assert!(tell(&mut reach, OWN, true), "it is back");
        // Clients are looked at anew.
        tell(&mut reach, None, false);
        assert!(ask(&mut reach, true));
    }
}

#[test]
fn the_gateways_own_flow_says_nothing_of_a_way_back() {
    let mut reach = Reach::default();
    tell(&mut reach, MASQUERADED, false);
    assert!(!ask(&mut reach, true));
    tell(&mut reach, None, false);
    assert!(reach.deadline().is_some());
}

#[test]
fn the_gateways_own_flow_keeps_no_client_from_being_looked_at() {
    let mut reach = Reach::default();
    tell(&mut reach, OWN, false);
    tell(&mut reach, OWN, true);
    tell(&mut reach, None, false);
    assert!(ask(&mut reach, true));
}

/// A client's SYN is refused.
fn refuse(reach: &mut Reach, now: Instant) {
    let mut entry = flow("198.51.100.2:50000", "198.51.100.2:50000", false);
    reach.changed(now, F, &entry, |_| false);
    entry.tcp_state = Some(TcpState::Close);
    reach.removed(now, F, &entry);
}

#[test]
fn a_backend_that_is_gone_is_noticed_at_any_time() {
    for refused in [false, true] {
        let mut reach = Reach::default();
        tell(&mut reach, None, true);
        assert_eq!(reach.deadline(), None);
        if refused {
            refuse(&mut reach, Instant::now());
            assert_eq!(reach.due(Instant::now()).len(), 1, "at once");
        } else {
            tell(&mut reach, None, false);
            assert!(reach.due(Instant::now()).is_empty());
        }
        assert!(ask(&mut reach, false));
        assert!(tell(&mut reach, None, true), "it is back");
    }
}

#[test]
fn one_client_of_many_that_gets_no_answer_says_nothing_if_the_gateway_does() {
    for refused in [false, true] {
        let mut reach = Reach::default();
        tell(&mut reach, None, true);
        if refused {
            refuse(&mut reach, Instant::now())
        } else {
            _ = tell(&mut reach, None, false)
        }
        assert!(!ask(&mut reach, true));
    }
    let mut reach = Reach::default();
    refuse(&mut reach, Instant::now());
    assert!(!ask(&mut reach, true), "nor does the first, if it is refused");
}

#[test]
fn a_new_flow_that_is_answered_ends_the_doubt_and_the_end_of_an_old_one_does_not() {
    let mut reach = Reach::default();
    tell(&mut reach, None, true);
    tell(&mut reach, None, false);
    let mut other = flow("198.51.100.3:50000", "198.51.100.3:50000", true);
    other.tcp_state = Some(TcpState::FinWait);
    reach.changed(Instant::now(), F, &other, |_| false);
    assert!(reach.deadline().is_some());
    other.tcp_state = Some(TcpState::SynRecv);
    reach.changed(Instant::now(), F, &other, |_| false);
    assert_eq!(reach.deadline(), None);
    // Nor does it take back what was told.
    tell(&mut reach, None, false);
    assert!(ask(&mut reach, false));
    other.tcp_state = Some(TcpState::FinWait);
    assert!(!reach.changed(Instant::now(), F, &other, |_| false));
    assert!(tell(&mut reach, None, true));
}

#[test]
fn refused_clients_make_a_question_a_second_at_the_most() {
    let mut reach = Reach::default();
    let now = Instant::now();
    refuse(&mut reach, now);
    assert!(!ask(&mut reach, true));
    refuse(&mut reach, now);
    refuse(&mut reach, now);
    assert!(reach.due(now).is_empty());
    assert_eq!(reach.due(now + 2 * PAUSE).len(), 1);
}

#[test]
fn the_same_is_not_told_again_and_again() {
    let mut reach = Reach::default();
    let told: Vec<_> = (0..3)
        .map(|_| {
            tell(&mut reach, None, false);
            let told = ask(&mut reach, false);
            tell(&mut reach, None, true);
            told
        })
        .collect();
    assert_eq!(told, [true, false, false]);
    reach.reset(F);
    tell(&mut reach, None, false);
    assert!(ask(&mut reach, false), "the next start is another matter");
}
