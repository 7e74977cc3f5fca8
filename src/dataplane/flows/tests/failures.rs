//! Queries that fail, come late, or show what is gone a moment later.

use super::*;

#[test]
fn a_failed_query_is_repeated_after_a_pause_and_does_not_show_that_a_target_is_unused() {
    for events in Events::ALL {
        let mut bench = Bench::new(events);
        bench.kernel().broken = Some(Errno::NOMEM);
        bench.watch(T0);
        let before = bench.queries();
        bench.pass(100 * RETRY);
        let tries = bench.queries() - before;
        assert!((90..=101).contains(&tries), "every two seconds, {events:?}: {tries}");
        assert_eq!(bench.reports(), [], "{events:?}");
        // It recovers on its own.
        bench.kernel().broken = None;
        bench.pass(RETRY + 2 * IDLE);
        assert!(bench.reports().iter().any(is_unused), "{events:?}");
    }
}

#[test]
fn a_flow_that_cannot_be_looked_up_keeps_its_target_in_use() {
    let mut bench = Bench::new(Events::Reported);
    bench.watch(T0);
    assert!(bench.reports().iter().all(is_unused));
    bench.kernel().table.push(established(1));
    bench.event(Event::Update(established(1)));
    bench.turn();
    bench.watch(T0);
    assert_eq!(bench.reports(), []);
    // Its time is over, and it is gone, but the kernel does not answer.
    bench.kernel().table.clear();
    bench.kernel().broken = Some(Errno::TIMEDOUT);
    bench.pass(3 * FLOW * SECOND);
    assert_eq!(bench.reports(), []);
    bench.kernel().broken = None;
    let fixed = bench.now();
    bench.pass(RETRY);
    let since = unused_since(&bench.reports());
    assert!(since >= Some(fixed), "the end of use is not known any better");
}

#[test]
fn a_check_that_fails_cancels_the_drain() {
    for events in Events::ALL {
        let mut bench = Bench::new(events);
        bench.turn();
        bench.kernel().broken = Some(Errno::NOBUFS);
        bench.check(T0);
        let used = Report::Checked { target: T0, asked: bench.asked(), result: Use::InUse };
        assert_eq!(bench.reports(), std::slice::from_ref(&used), "{events:?}");
        // While the pause lasts, a check waits for the next try.
        bench.check(T0);
        assert_eq!(bench.reports(), []);
        bench.pass(RETRY);
        assert_eq!(bench.reports(), [used], "{events:?}");
        bench.kernel().broken = None;
        bench.pass(RETRY);
        bench.check(T0);
        assert!(matches!(bench.reports()[..], [Report::Checked { result: Use::Unused { since: None }, .. }]));
    }
}

#[test]
fn a_flow_that_vanishes_between_dump_and_lookup_ends_when_it_is_missed() {
    let mut bench = Bench::new(Events::Reported);
    bench.kernel().table.extend([established(1), tcp(2, TcpState::Established, ANSWERED, 0)]);
    bench.watch(T0);
    bench.kernel().latency = Duration::from_millis(30);
    bench.kernel().table.pop();
    bench.pass(SECOND);
    assert_eq!(bench.reports(), [], "the other is left");
    bench.kernel().table.clear();
    bench.pass(FLOW * SECOND);
    let since = unused_since(&bench.reports()).expect("it was in use");
    assert_eq!(bench.kernel().look_ups, 2, "one for each");
    assert!(since > bench.now() - IDLE - FLOW * SECOND);
}

#[test]
fn the_end_of_a_flow_that_vanished_is_the_time_at_which_the_kernel_answers() {
    let mut bench = Bench::new(Events::Reported);
    bench.kernel().table.push(tcp(1, TcpState::Established, ANSWERED, 1));
    bench.watch(T0);
    bench.kernel().table.clear();
    bench.kernel().latency = 30 * SECOND;
    let asked = bench.now() + SECOND;
    bench.pass(SECOND);
    assert_eq!(unused_since(&bench.reports()), Some(asked + 30 * SECOND));
}

#[test]
fn a_turn_that_comes_an_hour_late_stops_no_target_in_use() {
    for events in Events::ALL {
        let mut bench = Bench::new(events);
        bench.kernel().table.push(established(1));
        bench.watch(T0);
        for _ in 0..3 {
            bench.kernel().now += 3600 * SECOND;
            bench.turn();
            assert_eq!(bench.reports(), [], "{events:?}");
        }
        bench.kernel().table.clear();
        bench.kernel().now += 3600 * SECOND;
        let late = bench.now();
        bench.turn();
        bench.pass(2 * IDLE);
        // A flow that came in between may have ended just now.
        assert_eq!(unused_since(&bench.reports()), Some(late), "{events:?}");
    }
}

#[test]
fn odd_entries_neither_count_nor_panic() {
    let mut bench = Bench::new(Events::Reported);
    bench.turn();
    let states = [None, Some(TcpState::None), Some(TcpState::SynSent2), Some(TcpState::Close)];
    let mut id = 0;
    for status in [0, u32::MAX, Status::DST_NAT, ANSWERED & !Status::DST_NAT] {
        for state in states {
            for timeout in [None, Some(0), Some(u32::MAX)] {
                id += 1;
                let entry = flow(id, Protocol::Tcp, state, status, timeout);
                bench.kernel().table.push(entry);
                bench.event(Event::New(entry));
                bench.event(Event::Update(entry));
            }
        }
    }
    bench.turn();
    bench.survey(Some(T0)).expect("a survey");
    bench.kernel().table.clear();
    bench.watch(T0);
    bench.pass(30 * SECOND);
    assert!(bench.reports().iter().any(is_unused));
}
