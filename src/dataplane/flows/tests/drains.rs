//! Checks before a drain, and deletions after it.

use super::*;

fn checked(result: Use, asked: Instant) -> [Report; 1] {
    [Report::Checked { target: T0, asked, result }]
}

fn unused(asked: Instant) -> [Report; 1] {
    checked(Use::Unused { since: None }, asked)
}

#[test]
fn a_check_finds_a_flow_that_slipped_in() {
    for events in Events::ALL {
        let mut bench = Bench::new(events);
        bench.turn();
        let asked = bench.asked();
        bench.check(T0);
        assert_eq!(bench.reports(), unused(asked));
        bench.kernel().table.push(established(1));
        bench.check(T0);
        assert_eq!(bench.reports(), checked(Use::InUse, asked), "{events:?}");
        bench.kernel().table[0] = to(established(1), 81, "203.0.113.3:8080");
        bench.kernel().table.push(tcp(2, TcpState::Established, 0, FLOW - 30));
        bench.check(T0);
        assert_eq!(bench.reports().len(), 1, "{events:?}");
        assert_eq!(bench.flows.deadline(), None);
    }
}

#[test]
fn a_flow_that_is_known_decides_a_check_without_a_query() {
    let mut bench = Bench::new(Events::Reported);
    bench.turn();
    bench.event(Event::Update(established(1)));
    let (asked, before) = (bench.asked(), bench.queries());
    bench.check(T0);
    assert_eq!(bench.reports(), checked(Use::InUse, asked));
    assert_eq!(bench.queries(), before);
}

#[test]
fn a_check_knows_of_a_flow_that_came_and_went() {
    for events in Events::ALL {
        let mut bench = Bench::new(events);
        bench.watch(T0);
        bench.pass(IDLE);
        bench.reports();
        let closed = tcp(1, TcpState::TimeWait, ANSWERED, FLOW - 1);
        bench.kernel().table.push(closed);
        bench.event(Event::Update(established(1)));
        bench.event(Event::Update(closed));
        bench.check(T0);
        let reports = bench.reports();
        let [Report::Checked { target: T0, result: Use::Unused { since }, .. }] = reports[..] else {
            panic!("{reports:?}")
        };
        // A dump dates a close to the second.
        assert!(since > Some(bench.now() - 2 * SECOND), "{events:?}");
    }
}

#[test]
fn an_unanswered_flow_holds_a_check_up_for_a_moment() {
    for events in Events::ALL {
        let mut bench = Bench::new(events);
        bench.turn();
        bench.kernel().table.push(tcp(1, TcpState::SynSent, Status::DST_NAT, FLOW));
        let (asked, began, before) = (bench.asked(), bench.now(), bench.kernel().dumps);
        bench.check(T0);
        bench.pass(UNANSWERED - Duration::from_millis(1));
        assert_eq!(bench.reports(), [], "{events:?}");
        assert_eq!(bench.kernel().dumps - before, 20, "four times a second");
        bench.pass(Duration::from_millis(1));
        assert_eq!(bench.reports(), unused(asked), "{events:?}");
        assert_eq!(bench.now(), began + UNANSWERED);
        // Another flow is answered in time.
        bench.check(T0);
        bench.pass(SECOND);
        bench.kernel().table.push(established(2));
        bench.pass(SECOND);
        assert!(matches!(bench.reports()[..], [Report::Checked { result: Use::InUse, .. }]));
    }
}

#[test]
fn a_released_target_has_no_report() {
    for events in Events::ALL {
        let mut bench = Bench::new(events);
        bench.kernel().table.push(tcp(1, TcpState::SynSent, Status::DST_NAT, FLOW));
        bench.kernel().table.push(established(2));
        bench.watch(T0);
        bench.kernel().table.pop();
        bench.event(Event::Destroy(established(2)));
        bench.check(T0);
        bench.reports();
        bench.watch(T0);
        bench.kernel().table.push(tcp(3, TcpState::SynSent, Status::DST_NAT, FLOW));
        bench.check(T0);
        bench.order(FlowOrder::Release(T0));
        bench.reports();
        bench.pass(10 * IDLE);
        assert_eq!(bench.reports(), [], "{events:?}");
    }
}

#[test]
fn drains_that_end_together_share_a_dump() {
    let mut bench = Bench::new(Events::Reported);
    bench.turn();
    let other = to(established(3), 81, "203.0.113.3:8080");
    let unanswered = to(tcp(4, TcpState::SynSent, Status::DST_NAT, FLOW), 81, "203.0.113.3:8080");
    bench.kernel().table.extend([established(1), tcp(2, TcpState::TimeWait, ANSWERED, 9), other, unanswered]);
    bench.kernel().dumps = 0;
    bench.send(FlowOrder::Flush { target: T0, scope: Scope::All });
    bench.send(FlowOrder::Flush { target: T1, scope: Scope::Unanswered });
    bench.turn();
    assert_eq!(bench.reports(), [Report::Flushed(T0), Report::Flushed(T1)]);
    assert_eq!(bench.kernel().deleted, [1, 2, 4]);
    assert_eq!(bench.kernel().dumps, 1);
    assert!(bench.kernel().ports.is_empty(), "no query of stale flows");
    bench.pass(100 * SECOND);
    assert_eq!(bench.kernel().dumps, 1);
}

#[test]
fn a_flush_ends_use_and_its_watch() {
    for (scope, is_used) in [(Scope::All, false), (Scope::Unanswered, true)] {
        let mut bench = Bench::new(Events::Reported);
        bench.turn();
        bench.kernel().table.push(established(1));
        bench.event(Event::Update(established(1)));
        bench.watch(T0);
        bench.order(FlowOrder::Flush { target: T0, scope });
        assert_eq!(bench.reports(), [Report::Flushed(T0)], "and no result of the watch");
        let before = bench.queries();
        bench.pass(10 * FLOW * SECOND);
        assert_eq!(bench.queries(), before, "it is not watched");
        bench.watch(T0);
        assert_eq!(bench.reports().is_empty(), is_used, "{scope:?}");
    }
}

#[test]
fn a_failed_flush_is_tried_again() {
    let mut bench = Bench::new(Events::Reported);
    bench.turn();
    bench.kernel().table.extend((1..=3).map(established));
    bench.kernel().undeletable.insert(2, Errno::NOBUFS);
    bench.order(FlowOrder::Flush { target: T0, scope: Scope::All });
    assert_eq!(bench.reports(), []);
    bench.kernel().undeletable.clear();
    bench.pass(deletions::PAUSE - Duration::from_millis(1));
    assert_eq!(bench.reports(), []);
    bench.pass(Duration::from_millis(1));
    assert_eq!(bench.reports(), [Report::Flushed(T0)]);
    assert_eq!(bench.kernel().deleted, [1, 2, 3]);
}

#[test]
fn a_flush_that_keeps_failing_does_not_hold_up_a_drain_for_long() {
    let mut bench = Bench::new(Events::Reported);
    bench.turn();
    for _ in 0..2 {
        bench.kernel().broken = Some(Errno::NOMEM);
        bench.kernel().dumps = 0;
        bench.order(FlowOrder::Flush { target: T0, scope: Scope::All });
        bench.pass(deletions::PAUSE);
        assert_eq!(bench.reports(), []);
        bench.pass(deletions::PAUSE);
        assert_eq!(bench.reports(), [Report::Flushed(T0)]);
        bench.pass(10 * SECOND);
        assert_eq!(bench.kernel().dumps, 3);
        bench.kernel().broken = None;
    }
    assert!(bench.survey(Some(T0)).is_ok());
}

#[test]
fn an_entry_that_the_kernel_does_not_delete_keeps_no_other() {
    let mut bench = Bench::new(Events::Reported);
    bench.turn();
    bench.kernel().table.extend((1..=4).map(established));
    bench.kernel().undeletable.insert(2, Errno::BUSY);
    bench.order(FlowOrder::Flush { target: T0, scope: Scope::All });
    assert_eq!(bench.kernel().deleted, [1, 3, 4]);
    assert_eq!(bench.reports(), [Report::Flushed(T0)], "in a flowtable, which ends in its own time");
}

/// UDP flows to 198.51.100.1:80 or elsewhere: as the rules say, not translated, to another endpoint, unrelated, and a TCP flow.
fn stale_and_others() -> [Entry; 5] {
    let reply_from = |id, source: &str| {
        let entry = flow(id, Protocol::Udp, None, 0, Some(30));
        Entry { reply: Tuple { source: at(source), ..entry.reply }, ..entry }
    };
    let mut unrelated = reply_from(4, "198.51.100.9:80");
    unrelated.original.destination = at("198.51.100.9:80");
    [
        flow(1, Protocol::Udp, None, ANSWERED, Some(30)),
        reply_from(2, "198.51.100.1:80"),
        reply_from(3, "203.0.113.3:8080"),
        unrelated,
        Entry { protocol: Protocol::Tcp, ..reply_from(5, "198.51.100.1:80") },
    ]
}

#[test]
fn stale_udp_flows_bypass_the_rules_of_the_given_frontends() {
    let mut bench = Bench::new(Events::Reported);
    bench.kernel().table.extend(stale_and_others());
    bench.order(FlowOrder::DeleteStale(vec![F0]));
    assert!(bench.kernel().deleted.is_empty(), "another frontend's");
    bench.order(FlowOrder::DeleteStale(vec![F1]));
    bench.order(FlowOrder::DeleteStale(vec![F0, F1]));
    assert_eq!(bench.kernel().deleted, [2, 3]);
    bench.order(FlowOrder::DeleteStale(vec![F3]));
    assert_eq!(bench.kernel().ports, [Some(80), Some(80), None, None], "the kernel filters by the only port");
    assert_eq!(bench.reports(), []);
}

#[test]
fn a_failed_deletion_of_stale_flows_is_tried_again_and_delays_no_flush() {
    let mut bench = Bench::new(Events::Reported);
    bench.turn();
    bench.kernel().table.extend(stale_and_others());
    bench.kernel().undeletable.insert(3, Errno::NOBUFS);
    bench.send(FlowOrder::DeleteStale(vec![F1]));
    bench.order(FlowOrder::Flush { target: T1, scope: Scope::All });
    assert_eq!(bench.reports(), [Report::Flushed(T1)]);
    bench.pass(deletions::PAUSE);
    bench.kernel().undeletable.clear();
    bench.pass(deletions::PAUSE);
    assert_eq!(bench.kernel().deleted, [2, 3]);
    assert_eq!(bench.kernel().ports.len(), 3);
    assert_eq!(bench.reports(), []);
}

#[test]
fn the_thread_ends_when_it_is_told_to() {
    let mut bench = Bench::new(Events::Reported);
    bench.send(FlowOrder::End);
    assert!(bench.flows.turn().is_break());
}
