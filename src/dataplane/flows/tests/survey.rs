//! What operators see.

use super::*;

fn counts(survey: &Survey) -> [u32; 2] {
    [T0, T1].map(|target| survey.targets[&target].flows)
}

#[test]
fn a_survey_needs_no_dump_where_events_show_the_flows() {
    let mut bench = Bench::new(Events::Reported);
    bench.turn();
    bench.event(Event::Update(established(1)));
    bench.event(Event::Update(flow(2, Protocol::Udp, None, ANSWERED, Some(2))));
    bench.event(Event::Update(to(established(3), 81, "203.0.113.3:8080")));
    bench.kernel().table.extend([established(1), to(established(3), 81, "203.0.113.3:8080")]);
    bench.kernel().dumps = 0;
    let survey = bench.survey(None).expect("a survey");
    assert_eq!(counts(&survey), [2, 1]);
    assert_eq!(survey.frontends, [(F0, 1), (F1, 1), (F2, 1)].into());
    assert_eq!(survey.targets[&T0].until, None);
    bench.pass(3 * SECOND - Duration::from_millis(1));
    assert_eq!(counts(&bench.survey(None).expect("a survey")), [2, 1]);
    assert_eq!(bench.kernel().dumps, 0);
    // One of the flows could have expired for a second.
    bench.pass(Duration::from_millis(1));
    let survey = bench.survey(None).expect("a survey");
    assert_eq!(counts(&survey), [1, 1]);
    assert_eq!(survey.targets[&T0].ended, Some(bench.now()));
    assert_eq!(survey.targets[&T1].until, Some(bench.now() + FLOW * SECOND));
    assert_eq!(bench.kernel().dumps, 1);
}

#[test]
fn a_survey_of_polled_flows_is_a_dump() {
    let mut bench = Bench::new(Events::Off);
    bench.watch(T0);
    let watched = bench.now();
    let short = tcp(3, TcpState::Established, ANSWERED, 7);
    bench.kernel().table.extend([established(1), short, tcp(2, TcpState::SynSent, 0, FLOW)]);
    bench.pass(SECOND);
    let survey = bench.survey(None).expect("a survey");
    assert_eq!(counts(&survey), [2, 0]);
    assert_eq!(survey.frontends, [(F0, 2)].into());
    assert_eq!(survey.targets[&T0].until, Some(bench.now() + FLOW * SECOND), "the last of them");
    assert_eq!(survey.targets[&T0].ended, Some(watched));
    assert_eq!(survey.targets[&T1].ended, None);
    assert!(survey.details.is_empty());
}

#[test]
fn a_failed_survey_reports_its_error() {
    let mut bench = Bench::new(Events::Reported);
    bench.turn();
    bench.kernel().broken = Some(Errno::NOMEM);
    assert_eq!(bench.survey(Some(T0)), Err(io::Error::from(Errno::NOMEM).to_string()));
    assert!(bench.survey(None).is_ok(), "it is known without a query");
}

#[test]
fn the_flows_of_a_target_are_listed_with_their_age() {
    let mut bench = Bench::new(Events::Reported);
    bench.turn();
    // 7 s old by the kernel's time stamp; 3 s by its first event; unknown.
    let stamp = bench.kernel().wall.duration_since(SystemTime::UNIX_EPOCH).expect("later") - 7 * SECOND;
    let stamped = Entry { start: Some(stamp.as_nanos() as u64), ..established(1) };
    bench.event(Event::Update(stamped));
    bench.event(Event::Update(established(2)));
    bench.turn();
    bench.pass(3 * SECOND);
    let unanswered = tcp(3, TcpState::SynSent, Status::DST_NAT, FLOW);
    let others = [to(established(4), 81, "203.0.113.3:8080"), tcp(5, TcpState::TimeWait, ANSWERED, 9)];
    bench.kernel().table.extend([unanswered, established(2), stamped]);
    bench.kernel().table.extend(others);
    let survey = bench.survey(Some(T0)).expect("a survey");
    let details: Vec<_> = survey.details.iter().map(|detail| (detail.entry.id, detail.counts, detail.age)).collect();
    assert_eq!(details, [(1, true, Some(7 * SECOND)), (2, true, Some(3 * SECOND)), (3, false, None)]);
    // A later entry of the same client is new.
    bench.kernel().table[1].id = 9;
    let survey = bench.survey(Some(T0)).expect("a survey");
    assert_eq!(survey.details[1].age, Some(Duration::ZERO));
}

#[test]
fn a_hundred_flows_are_listed_at_most() {
    let mut bench = Bench::new(Events::Reported);
    bench.kernel().table.extend((1..=150).map(established));
    let survey = bench.survey(Some(T0)).expect("a survey");
    assert_eq!((survey.details.len(), survey.targets[&T0].flows), (100, 150));
}
