//! The watch over scripted notifications.

use std::collections::VecDeque;
use std::fs::File;

use super::super::localnet::tests::{Memory, Value};
use super::super::render::samples;
use super::*;
use crate::config::Protocol;
use crate::netlink::nftables::{Action, Transaction};

/// Notifications to come.
struct Script {
    results: VecDeque<io::Result<Watched>>,
    generation: u32,
    exists: Option<bool>,
    file: File,
}

impl TableEvents for Script {
    fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    fn read(&mut self) -> io::Result<Watched> {
        self.results.pop_front().unwrap_or_else(|| Ok(Watched::default()))
    }

    fn generation(&self) -> u32 {
        self.generation
    }

    fn exists(&mut self) -> io::Result<bool> {
        self.exists.ok_or_else(|| io::ErrorKind::TimedOut.into())
    }
}

/// A watch over our table, which is in the kernel.
struct World {
    watch: Watch,
    setting: Memory,
}

impl World {
    fn new(results: impl IntoIterator<Item = io::Result<Watched>>, exists: Option<bool>) -> World {
        let plan = samples::plan([samples::rules(Protocol::Tcp, &["192.0.2.1:80>127.0.0.1:8080"])]);
        let setting = Memory::new(Value::Off);
        let localnet = setting.localnet(&plan);
        localnet.resume(&plan, localnet.losses());
        assert_eq!(setting.value(), Value::On);
        let mut watch = Watch::new(Arc::default(), localnet);
        let results = results.into_iter().collect();
        let file = File::open("/dev/null").expect("opened");
        watch.events = Some(Box::new(Script { results, generation: 9, exists, file }));
        World { watch, setting }
    }

    /// Polls; returns the number of reports.
    fn poll(&mut self) -> (Progress, usize) {
        let mut reports = 0;
        let progress = self.watch.poll(Instant::now(), &mut |event| {
            assert_eq!(event, MonitorEvent::TableChanged);
            reports += 1;
        });
        (progress, reports)
    }
}

fn changed(object: Object, process: Option<u32>, generation: u32) -> Watched {
    let mut changes = Changes::default();
    changes.add(object, Action::Added);
    let port = process.unwrap_or(412);
    let process = process.map(|id| Process { id, name: "nft".to_owned() });
    Watched { transactions: vec![Transaction { process, port, generation, changes }], ..Watched::default() }
}

fn rules(chain: &str) -> Object {
    Object::Rules(chain.to_owned())
}

fn report(object: Object, generation: u32) -> Report {
    let mut report = Report { generation, ..Report::default() };
    report.changes.add(object, Action::Added);
    report
}

#[test]
fn any_number_of_reports_is_one_notification() {
    let notices = Notices::default();
    assert!(notices.post(report(Object::Chain("a".to_owned()), 3)));
    assert!(!notices.post(Report { lost: Some((3, 5)), ..report(Object::Chain("b".to_owned()), 6) }));
    assert!(!notices.post(Report { lost: Some((6, 9)), generation: 9, ..Report::default() }));
    let all = notices.take().expect("there is one");
    assert_eq!((all.changes.objects.len(), all.lost, all.generation), (2, Some((3, 9)), 9));
    assert!(notices.take().is_none() && notices.post(report(Object::Table, 10)));
}

#[test]
fn the_last_known_process_is_named() {
    let notices = Notices::default();
    assert_eq!(notices.process(), "another program");
    let by = |id| Some(Process { id, name: "nft".to_owned() });
    notices.post(Report { process: by(1), ..report(Object::Table, 1) });
    notices.post(Report { process: by(2), ..report(Object::Table, 2) });
    notices.post(report(Object::Table, 3));
    assert_eq!(notices.process(), "nft (pid 2)");
}

#[test]
fn changes_by_others_are_reported_and_our_own_are_not() {
    let own = changed(rules("output"), None, 3);
    let other = changed(rules("output"), Some(7), 4);
    let mut both = changed(rules("output"), None, 5);
    both.transactions.extend(changed(rules("prerouting"), Some(8), 6).transactions);
    let mut world = World::new([Ok(own), Ok(other), Ok(both)], Some(true));
    world.watch.notices.own.begin(412, Some(2));
    assert_eq!(world.poll(), (Progress::Drained, 0));
    assert_eq!(world.watch.reported, Some(9));
    assert_eq!(world.poll(), (Progress::Drained, 1));
    assert_eq!(world.poll(), (Progress::Drained, 0), "the first report is not handled yet");
    let report = world.watch.notices.take().expect("reported");
    assert_eq!(report.changes.objects.into_keys().collect::<Vec<_>>(), [rules("output"), rules("prerouting")]);
    assert_eq!((report.process.map(|process| process.id), report.generation), (Some(8), 6));
    assert_eq!(world.setting.value(), Value::On);
}

#[test]
fn changes_that_can_open_the_guard_suspend_the_setting_at_once() {
    let guard = || GUARD.to_owned();
    for object in [Object::Table, Object::Chain(guard()), Object::Rules(guard())] {
        let mut world = World::new([Ok(changed(object.clone(), Some(7), 4))], Some(true));
        world.poll();
        assert_eq!(world.setting.value(), Value::Off, "{object:?}");
    }
    for object in [rules("output"), Object::Elements("active_ip4".to_owned())] {
        let mut world = World::new([Ok(changed(object.clone(), Some(7), 4))], Some(true));
        world.poll();
        assert_eq!(world.setting.value(), Value::On, "{object:?}");
    }
    assert!(opens_guard(&Changes { more: true, ..Changes::default() }));
}

#[test]
fn lost_notifications_are_reported_and_suspend_the_setting_unless_the_table_is_there() {
    for (exists, value) in [(Some(true), Value::On), (Some(false), Value::Off), (None, Value::Off)] {
        let lost = Watched { lost: Some((3, 9)), ..Watched::default() };
        let mut world = World::new([Ok(lost)], exists);
        assert_eq!(world.poll(), (Progress::Drained, 1));
        assert_eq!(world.watch.notices.take().and_then(|report| report.lost), Some((3, 9)));
        assert_eq!(world.setting.value(), value, "{exists:?}");
    }
    let mut world = World::new([], Some(false));
    world.poll();
    assert_eq!(world.setting.value(), Value::On, "nothing was lost");
}

#[test]
fn a_read_that_is_not_complete_or_fails_is_followed_by_another() {
    let partial = Watched { more: true, ..Watched::default() };
    let error = Err(io::ErrorKind::OutOfMemory.into());
    let mut world = World::new([Ok(partial), error, Ok(changed(rules("output"), Some(7), 4))], Some(true));
    assert_eq!(world.poll(), (Progress::More, 0));
    world.watch.reported = None;
    assert_eq!(world.poll(), (Progress::Drained, 0));
    assert_eq!(world.watch.reported, None, "nothing was read");
    assert_eq!(world.poll(), (Progress::Drained, 1));
}

#[test]
fn a_closed_watch_reports_nothing() {
    let mut world = World::new([Ok(changed(rules("output"), Some(7), 4))], Some(true));
    assert!(world.watch.fd().is_some());
    world.watch.close();
    assert!(world.watch.fd().is_none());
    assert_eq!(world.poll(), (Progress::Drained, 0));
}
