//! Clients that get no answer.

use super::*;
use crate::dataplane::flows::kernel::ANSWER;

/// A SYN that was not answered yet.
fn syn(id: u32) -> Entry {
    tcp(id, TcpState::SynSent, Status::DST_NAT, FLOW)
}

/// Time for which a SYN may stay unanswered.
const TIMEOUT: Duration = Duration::from_secs(3);

/// A SYN that stays unanswered, until its endpoint is probed.
fn probing(entry: Entry) -> Bench {
    let mut bench = Bench::new(Events::Reported);
    bench.turn();
    bench.kernel().table.push(entry);
    bench.event(Event::New(entry));
    bench.turn();
    bench.pass(TIMEOUT - Duration::from_millis(1));
    assert!(bench.kernel().probes.is_empty());
    bench.pass(Duration::from_millis(1));
    assert_eq!(std::mem::take(&mut bench.kernel().probes), [entry.reply.source]);
    bench
}

impl Bench {
    fn result(&mut self, endpoint: &str, result: Result<(), Errno>) {
        self.kernel().results.push((at(endpoint), result.map_err(io::Error::from)));
        self.turn();
    }
}

#[track_caller]
fn lost(reports: &[Report]) -> (Unresponsive, &str) {
    let [Report::ClientsLost { frontend: _, problem, unresponsive }] = reports else { panic!("{reports:?}") };
    (*unresponsive, problem)
}

#[test]
fn a_probe_ends_within_a_second() {
    assert_eq!(ANSWER, SECOND);
}

#[test]
fn an_unanswered_client_of_an_endpoint_that_answers_the_gateway_has_no_way_back() {
    let mut bench = probing(syn(1));
    bench.result("203.0.113.2:8080", Ok(()));
    let reports = bench.reports();
    let (unresponsive, problem) = lost(&reports);
    assert_eq!(unresponsive, Unresponsive::Endpoint);
    assert!(problem.contains("way back"), "{problem}");
    // A client is answered.
    bench.event(Event::Update(tcp(2, TcpState::SynRecv, Status::DST_NAT | Status::SEEN_REPLY, FLOW)));
    bench.turn();
    assert_eq!(bench.reports(), [Report::ClientsAnswered(F0)]);
}

#[test]
fn an_only_endpoint_that_refuses_the_gateway_too_is_the_whole_target() {
    let mut bench = probing(syn(1));
    bench.result("203.0.113.2:8080", Err(Errno::CONNREFUSED));
    let reports = bench.reports();
    let (unresponsive, problem) = lost(&reports);
    assert_eq!(unresponsive, Unresponsive::Target);
    assert!(problem.contains("refused"), "{problem}");
    assert!(bench.kernel().probes.is_empty());
}

#[test]
fn the_other_endpoints_decide_whether_the_target_is_unresponsive() {
    for (result, expected) in [(Ok(()), Unresponsive::Endpoint), (Err(Errno::TIMEDOUT), Unresponsive::Target)] {
        let mut bench = probing(to(syn(1), 81, "203.0.113.3:8080"));
        bench.result("203.0.113.3:8080", Err(Errno::CONNREFUSED));
        assert_eq!(bench.kernel().probes, [at("203.0.113.4:90")]);
        assert_eq!(bench.reports(), []);
        bench.result("203.0.113.4:90", result);
        assert_eq!(lost(&bench.reports()).0, expected);
    }
}

#[test]
fn one_port_of_a_range_that_does_not_answer_is_no_problem() {
    for (result, is_reported) in [(Ok(()), false), (Err(Errno::TIMEDOUT), true)] {
        let mut bench = probing(to(syn(1), 91, "203.0.113.4:91"));
        bench.result("203.0.113.4:91", Err(Errno::CONNREFUSED));
        bench.result("203.0.113.4:90", Err(Errno::CONNREFUSED));
        bench.result("203.0.113.3:8080", result);
        assert_eq!(!bench.reports().is_empty(), is_reported);
    }
}

#[test]
fn a_probe_that_the_host_cannot_make_shows_nothing() {
    let mut bench = probing(syn(1));
    bench.result("203.0.113.2:8080", Err(Errno::MFILE));
    assert_eq!(bench.reports(), []);
    // The next client's endpoint is probed.
    bench.event(Event::New(syn(2)));
    bench.kernel().table.push(syn(2));
    bench.turn();
    bench.pass(TIMEOUT);
    assert_eq!(bench.kernel().probes, [at("203.0.113.2:8080")]);
}

#[test]
fn a_client_that_gave_up_or_was_answered_needs_no_probe() {
    for answered in [None, Some(established(1))] {
        let mut bench = Bench::new(Events::Reported);
        bench.turn();
        bench.event(Event::New(syn(1)));
        bench.kernel().table.extend(answered);
        bench.pass(10 * SECOND);
        bench.turn();
        bench.pass(10 * SECOND);
        assert!(bench.kernel().probes.is_empty());
        assert_eq!(bench.kernel().look_ups, 1);
        assert_eq!(bench.flows.deadline(), None);
    }
}

#[test]
fn a_refused_client_needs_no_lookup() {
    let mut bench = Bench::new(Events::Reported);
    bench.turn();
    bench.event(Event::Destroy(tcp(1, TcpState::Close, Status::DST_NAT, 10)));
    bench.turn();
    assert_eq!(bench.kernel().probes, [at("203.0.113.2:8080")]);
    assert_eq!(bench.kernel().look_ups, 0);
}

#[test]
fn a_flush_ends_an_inquiry() {
    let mut bench = probing(syn(1));
    bench.order(FlowOrder::Flush { target: T1, scope: Scope::All });
    bench.order(FlowOrder::Flush { target: T0, scope: Scope::All });
    bench.reports();
    bench.result("203.0.113.2:8080", Err(Errno::CONNREFUSED));
    assert_eq!(bench.reports(), []);
    assert_eq!(bench.flows.deadline(), None);
}

#[test]
fn a_flow_of_the_gateway_itself_shows_nothing_about_the_way_back() {
    let mut bench = Bench::new(Events::Reported);
    bench.kernel().local.insert(syn(1).original.source.ip());
    bench.turn();
    bench.kernel().table.push(syn(1));
    bench.event(Event::New(syn(1)));
    bench.pass(TIMEOUT);
    bench.turn();
    bench.pass(TIMEOUT);
    bench.result("203.0.113.2:8080", Ok(()));
    assert_eq!(bench.reports(), []);
}

#[test]
fn a_lookup_that_fails_is_repeated() {
    let mut bench = Bench::new(Events::Reported);
    bench.turn();
    bench.kernel().table.push(syn(1));
    bench.event(Event::New(syn(1)));
    bench.turn();
    bench.kernel().broken = Some(Errno::NOMEM);
    bench.pass(TIMEOUT);
    assert!(bench.kernel().probes.is_empty());
    bench.kernel().broken = None;
    bench.pass(RETRY);
    assert_eq!(bench.kernel().probes, [at("203.0.113.2:8080")]);
}
