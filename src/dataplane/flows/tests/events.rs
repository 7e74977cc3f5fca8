//! Tracking by events, and the change to polls.

use super::*;

/// An event that shows no TCP state.
fn stateless(id: u32) -> Entry {
    flow(id, Protocol::Tcp, None, ANSWERED, Some(FLOW))
}

/// A bench whose dump after the subscription is done.
fn ready() -> Bench {
    let mut bench = Bench::new(Events::Reported);
    bench.turn();
    bench.kernel().dumps = 0;
    bench
}

#[test]
fn a_flow_counts_from_its_answer_to_its_close() {
    let mut bench = ready();
    bench.event(Event::New(tcp(1, TcpState::SynSent, Status::DST_NAT, FLOW)));
    bench.watch(T0);
    assert_eq!(unused_since(&bench.reports()), None, "none has counted");
    bench.event(Event::Update(tcp(1, TcpState::Established, ANSWERED, FLOW)));
    bench.watch(T0);
    bench.pass(SECOND);
    assert_eq!(bench.reports(), []);
    // Of another client.
    bench.event(Event::Destroy(established(9)));
    // Of an earlier entry of the same client.
    bench.event(Event::Destroy(Entry { id: 9, ..established(1) }));
    bench.pass(SECOND);
    assert_eq!(bench.reports(), []);
    bench.event(Event::Update(tcp(1, TcpState::TimeWait, ANSWERED, FLOW)));
    let closed = bench.now();
    bench.turn();
    assert_eq!(unused_since(&bench.reports()), Some(closed));
    bench.pass(FLOW * SECOND);
    bench.event(Event::Destroy(tcp(1, TcpState::TimeWait, ANSWERED, 0)));
    bench.watch(T0);
    assert_eq!(unused_since(&bench.reports()), Some(closed), "its removal is no use");
    assert_eq!(bench.queries(), 0);
}

#[test]
fn a_removed_flow_no_longer_counts() {
    let mut bench = ready();
    bench.event(Event::Update(established(1)));
    bench.watch(T0);
    bench.pass(SECOND);
    bench.event(Event::Destroy(established(1)));
    let removed = bench.now();
    bench.turn();
    assert_eq!(unused_since(&bench.reports()), Some(removed));
}

#[test]
fn flows_of_other_targets_and_unrelated_flows_do_not_count() {
    let mut bench = ready();
    let unrelated = to(established(2), 9999, "203.0.113.2:8080");
    let untranslated =
        Entry { reply: Tuple { source: at("198.51.100.1:80"), ..established(3).reply }, ..established(3) };
    for entry in [to(established(1), 81, "203.0.113.3:8080"), unrelated, untranslated] {
        bench.event(Event::Update(entry));
        bench.kernel().table.push(entry);
    }
    bench.watch(T0);
    assert_eq!(unused_since(&bench.reports()), None);
    bench.watch(T1);
    assert_eq!(bench.reports(), []);
}

#[test]
fn an_idle_flow_is_looked_up_when_its_time_is_over() {
    let mut bench = ready();
    // The kernel's own timeout of a flow whose policy is gone.
    let long = tcp(1, TcpState::Established, ANSWERED, 432_000);
    bench.kernel().table.push(long);
    bench.event(Event::Update(long));
    bench.watch(T0);
    bench.pass(FLOW * SECOND - Duration::from_millis(1));
    assert_eq!(bench.queries(), 0);
    bench.pass(Duration::from_millis(1));
    assert_eq!(bench.queried(), (1, 0));
    assert_eq!(bench.kernel().shortened, [(1, FLOW)], "it counts for flow_timeout at most");
    bench.pass(FLOW * SECOND);
    assert_eq!(bench.kernel().look_ups, 2);
    assert_eq!(bench.reports(), []);
}

#[test]
fn a_flow_in_its_last_second_is_looked_up_five_times_a_second() {
    let mut bench = ready();
    let last = tcp(1, TcpState::Established, ANSWERED, 0);
    bench.kernel().table.push(last);
    bench.event(Event::Update(last));
    bench.watch(T0);
    bench.pass(SECOND);
    assert_eq!(bench.queries(), 5);
}

#[test]
fn a_flow_older_than_the_subscription_is_rechecked() {
    let mut bench = Bench::new(Events::Reported);
    bench.kernel().table.extend([established(1), to(established(2), 81, "203.0.113.3:8080")]);
    bench.watch(T0);
    assert_eq!(bench.kernel().dumps, 1);
    bench.pass(10 * IDLE);
    assert_eq!(bench.kernel().look_ups, 10, "every idle timeout, though its entry lives longer");
    // An event shows that its changes are reported.
    bench.event(Event::Update(established(1)));
    bench.pass(11 * IDLE);
    assert_eq!(bench.kernel().look_ups, 10);
    // An unanswered lookup is no change of that.
    bench.pass(FLOW * SECOND);
    assert_eq!(bench.kernel().look_ups, 11);
}

#[test]
fn an_old_flow_that_is_found_closed_ended_when_it_was_closed() {
    let mut bench = Bench::new(Events::Reported);
    bench.kernel().table.push(established(1));
    bench.watch(T0);
    bench.kernel().table[0] = tcp(1, TcpState::TimeWait, ANSWERED, FLOW - 3);
    bench.pass(IDLE);
    assert_eq!(unused_since(&bench.reports()), Some(bench.now() - 2 * SECOND), "the kernel's second is over by then");
}

#[test]
fn a_flow_that_an_event_does_not_show_in_full_is_looked_up() {
    let mut bench = ready();
    bench.kernel().table.push(established(1));
    bench.event(Event::Update(stateless(1)));
    // Not answered, or known already: nothing to look up.
    bench.event(Event::Update(Entry { status: Status(Status::DST_NAT), ..stateless(2) }));
    bench.event(Event::Update(established(3)));
    bench.event(Event::Update(stateless(3)));
    bench.event(Event::Destroy(established(3)));
    // Gone by then.
    bench.event(Event::Update(stateless(4)));
    bench.watch(T0);
    assert_eq!(bench.reports(), [], "it counts");
    assert_eq!(bench.queried(), (2, 0));
    bench.pass(SECOND);
    assert_eq!(bench.queries(), 2);
}

#[test]
fn many_flows_that_events_do_not_show_in_full_are_dumped() {
    for (flows, queries) in [(FEW, (FEW as u32, 0)), (FEW + 1, (0, 1)), (100, (0, 1))] {
        let mut bench = ready();
        (1..=flows as u32).for_each(|id| bench.event(Event::Update(stateless(id))));
        bench.turn();
        assert_eq!(bench.queried(), queries, "{flows}");
    }
}

#[test]
fn a_flow_that_cannot_be_looked_up_leaves_the_use_unknown() {
    let mut bench = ready();
    bench.event(Event::Update(stateless(1)));
    bench.kernel().broken = Some(Errno::NOMEM);
    bench.watch(T0);
    bench.pass(3 * RETRY);
    assert_eq!(bench.reports(), []);
    // A flush of the target deletes it.
    bench.kernel().broken = None;
    let asked = bench.asked();
    bench.send(FlowOrder::Flush { target: T0, scope: Scope::All });
    bench.turn();
    bench.order(FlowOrder::Watch { target: T0, asked });
    assert_eq!(bench.reports(), [Report::Flushed(T0), Report::Unused { target: T0, asked, since: None }]);
}

#[test]
fn an_event_about_something_else_extends_the_life_of_a_known_flow() {
    let mut bench = ready();
    bench.kernel().table.push(established(1));
    bench.event(Event::Update(tcp(1, TcpState::Established, ANSWERED, 2)));
    bench.event(Event::Update(stateless(1)));
    bench.watch(T0);
    bench.pass(FLOW * SECOND - Duration::from_millis(1));
    assert_eq!(bench.queries(), 0);
    // Of a later entry of the same client: it shows nothing about this one.
    bench.event(Event::Update(Entry { id: 2, ..stateless(1) }));
    bench.pass(SECOND);
    assert_eq!(bench.queries(), 1);
}

#[test]
fn any_number_of_overruns_leads_to_one_dump() {
    let mut bench = ready();
    bench.watch(T0);
    bench.pass(SECOND);
    bench.reports();
    bench.kernel().table.push(established(1));
    for _ in 0..50 {
        bench.event(Event::Overrun);
    }
    bench.turn();
    assert_eq!(bench.kernel().dumps, 1);
    bench.watch(T0);
    assert_eq!(bench.reports(), [], "the flow whose event was lost is known");
    bench.pass(10 * SECOND);
    assert_eq!(bench.kernel().dumps, 1);
}

#[test]
fn a_flow_that_opened_and_closed_among_lost_events_is_use() {
    for (event, is_use) in [(Event::Overrun, true), (Event::Update(stateless(9)), false)] {
        let mut bench = ready();
        bench.kernel().table.push(tcp(1, TcpState::TimeWait, ANSWERED, FLOW - 4));
        bench.event(event);
        bench.turn();
        let closed = bench.now() - 3 * SECOND;
        bench.survey(Some(T0)).expect("a dump");
        bench.watch(T0);
        assert_eq!(unused_since(&bench.reports()), is_use.then_some(closed));
    }
}

#[test]
fn a_known_flow_whose_close_was_lost_ended_when_it_was_closed() {
    let mut bench = ready();
    bench.event(Event::Update(established(1)));
    bench.event(Event::Update(established(2)));
    bench.pass(10 * SECOND);
    bench.kernel().table.push(tcp(1, TcpState::TimeWait, ANSWERED, FLOW - 4));
    bench.kernel().table.push(established(2));
    bench.survey(Some(T0)).expect("a dump");
    bench.event(Event::Destroy(established(2)));
    let removed = bench.now();
    bench.watch(T0);
    assert_eq!(unused_since(&bench.reports()), Some(removed), "the later end");
    let mut bench = ready();
    bench.event(Event::Update(established(1)));
    bench.pass(10 * SECOND);
    bench.kernel().table.push(tcp(1, TcpState::TimeWait, ANSWERED, FLOW - 4));
    bench.survey(Some(T0)).expect("a dump");
    bench.watch(T0);
    assert_eq!(unused_since(&bench.reports()), Some(bench.now() - 3 * SECOND));
}

#[test]
fn a_known_flow_that_a_dump_does_not_show_has_ended_by_then() {
    for replaced in [false, true] {
        let mut bench = ready();
        bench.event(Event::Update(established(1)));
        bench.pass(10 * SECOND);
        bench.kernel().table.extend(replaced.then(|| Entry { id: 2, ..established(1) }));
        bench.kernel().latency = SECOND;
        bench.survey(Some(T0)).expect("a dump");
        bench.kernel().latency = Duration::ZERO;
        let answered = bench.now();
        bench.event(Event::Destroy(Entry { id: 2, ..established(1) }));
        bench.watch(T0);
        assert_eq!(unused_since(&bench.reports()), Some(answered), "{replaced}");
    }
}

#[test]
fn a_dump_after_an_overrun_that_fails_is_repeated_before_anything_is_unused() {
    let mut bench = ready();
    bench.event(Event::Overrun);
    bench.kernel().broken = Some(Errno::INTR);
    bench.watch(T0);
    bench.pass(10 * SECOND);
    assert_eq!(bench.reports(), []);
    bench.kernel().table.push(established(1));
    bench.kernel().broken = None;
    bench.pass(RETRY);
    assert_eq!(bench.reports(), []);
    bench.kernel().table.clear();
    bench.event(Event::Destroy(established(1)));
    bench.turn();
    assert!(unused_since(&bench.reports()).is_some());
}

#[test]
fn events_gather_before_they_are_read_but_not_before_an_order() {
    let mut bench = ready();
    assert_eq!(bench.flows.deadline(), None);
    bench.event(Event::Update(established(1)));
    bench.turn();
    let read = bench.now();
    assert_eq!(bench.flows.deadline(), Some(read + Duration::from_millis(20)));
    bench.event(Event::Update(established(2)));
    bench.turn();
    assert_eq!(bench.kernel().events.len(), 1);
    bench.order(FlowOrder::Release(T0));
    assert_eq!(bench.kernel().events.len(), 0);
    bench.pass(SECOND);
    assert_eq!(bench.flows.deadline(), None);
}

#[test]
fn a_flood_of_events_does_not_keep_the_thread_from_other_work() {
    let mut bench = ready();
    let count = 40_000;
    (0..count).for_each(|_| bench.event(Event::Destroy(established(1))));
    bench.turn();
    let left = bench.kernel().events.len();
    assert!(left > 0 && left < count);
    assert_eq!(bench.flows.deadline(), None, "the rest is read at once: the socket is readable");
    bench.turn();
    // After a loss, everything that the kernel has kept is read before the dump.
    (0..count).for_each(|_| bench.event(Event::Destroy(established(1))));
    bench.kernel().events[20_000] = Ok(Event::Overrun);
    bench.pass(SECOND);
    bench.turn();
    assert_eq!(bench.kernel().events.len(), 0);
    assert_eq!(bench.kernel().dumps, 1);
}

#[test]
fn an_event_that_cannot_be_read_is_skipped() {
    let mut bench = ready();
    bench.kernel().events.push_back(Err(io::ErrorKind::InvalidData.into()));
    bench.event(Event::Update(established(1)));
    bench.watch(T0);
    assert_eq!(bench.reports(), []);
    assert!(bench.kernel().subscribed);
}

#[test]
fn an_event_socket_that_fails_is_replaced_by_polls() {
    let mut bench = Bench::new(Events::Reported);
    bench.kernel().table.push(established(1));
    bench.watch(T0);
    bench.kernel().events.push_back(Err(Errno::NOTCONN.into()));
    bench.turn();
    assert!(!bench.kernel().subscribed);
    bench.pass(20 * IDLE);
    assert_eq!(bench.reports(), [], "it is in use");
    bench.kernel().table.clear();
    bench.pass(30 * IDLE);
    assert!(bench.reports().iter().any(is_unused));
}

#[test]
fn flows_are_polled_where_no_subscription_is_possible() {
    for mut bench in [Bench::with(Events::Reported, Some(Errno::PERM)), Bench::new(Events::Off)] {
        assert!(!bench.kernel().subscribed);
        bench.kernel().table.push(established(1));
        bench.watch(T0);
        bench.pass(20 * IDLE);
        assert_eq!(bench.reports(), []);
        assert_eq!(bench.kernel().dumps, 20, "every idle timeout");
        bench.kernel().table[0] = tcp(1, TcpState::TimeWait, ANSWERED, FLOW - 1);
        let closed = bench.now();
        bench.pass(IDLE);
        bench.kernel().table.clear();
        bench.pass(IDLE + SECOND);
        assert!(unused_since(&bench.reports()) >= Some(closed));
        // The same target again: its idle time is over.
        bench.watch(T0);
        assert!(unused_since(&bench.reports()) >= Some(closed));
        bench.order(FlowOrder::Release(T0));
        let dumps = bench.kernel().dumps;
        bench.pass(100 * IDLE);
        assert_eq!(bench.kernel().dumps, dumps, "a released target is not polled");
    }
}

#[test]
fn a_target_is_not_unused_once_events_were_switched_off() {
    let mut bench = ready();
    bench.event(Event::Update(established(1)));
    bench.watch(T0);
    bench.event(Event::Destroy(established(1)));
    bench.kernel().reports = false;
    bench.turn();
    bench.pass(SECOND);
    let off = bench.now() - SECOND;
    assert_eq!(bench.reports(), [], "there may be flows without an event");
    assert!(!bench.kernel().subscribed);
    bench.pass(IDLE);
    assert_eq!(unused_since(&bench.reports()), Some(off + Duration::from_millis(20)), "its idle time starts again");
}

#[test]
fn a_flow_in_a_flowtable_counts_until_the_kernel_hands_it_back() {
    for events in Events::ALL {
        for bit in [Status::OFFLOAD, Status::OFFLOAD | Status::HW_OFFLOAD] {
            let mut bench = Bench::new(events);
            // As 6.1 and 6.12 show it: neither timeout nor state.
            bench.kernel().table.push(flow(1, Protocol::Tcp, None, ANSWERED | bit, None));
            bench.watch(T0);
            bench.pass(10 * FLOW * SECOND);
            assert_eq!(bench.reports(), [], "{events:?}");
            bench.check(T0);
            assert!(matches!(bench.reports()[..], [Report::Checked { target: T0, result: Use::InUse, .. }]));
            let before = bench.queries();
            bench.pass(600 * SECOND);
            let queries = bench.queries() - before;
            assert!(queries <= 600 / OFFLOADED.as_secs() as u32 + 2, "{queries} queries");
            assert!(bench.kernel().shortened.is_empty(), "its lifetime is the flowtable's");
            // It became idle, and is handed back with the kernel's own timeout of a day.
            let handed_back = bench.now();
            bench.kernel().table[0] = tcp(1, TcpState::Established, ANSWERED, 86_370);
            bench.pass(2 * IDLE);
            assert!(bench.kernel().shortened.contains(&(1, FLOW)), "{events:?}");
            bench.pass(FLOW * SECOND - 2 * IDLE);
            bench.kernel().table.clear();
            bench.pass(4 * IDLE);
            assert!(unused_since(&bench.reports()) >= Some(handed_back + FLOW * SECOND), "not early");
        }
    }
}

#[test]
fn many_flows_in_a_flowtable_cost_few_lookups_and_no_dumps() {
    let mut bench = Bench::new(Events::Reported);
    let offloaded = |id| flow(id, Protocol::Tcp, None, ANSWERED | Status::OFFLOAD, None);
    bench.kernel().table.extend((1..=1000).map(offloaded));
    bench.watch(T0);
    bench.kernel().dumps = 0;
    bench.pass(100 * OFFLOADED);
    assert_eq!(bench.kernel().dumps, 0);
    assert!(bench.kernel().look_ups <= 101 * FEW as u32);
    assert_eq!(bench.reports(), []);
    bench.kernel().table.clear();
    bench.pass(2 * OFFLOADED);
    assert!(unused_since(&bench.reports()).is_some(), "all are gone");
    assert_eq!(bench.kernel().dumps, 1);
}
