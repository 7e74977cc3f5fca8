//! The table over a kernel that fails on demand.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use super::super::localnet::tests::{Memory, Value};
use super::super::render::samples;
use super::*;
use crate::config::Protocol;
use crate::netlink::nftables::{Action, Object, Process, Transaction};

/// What the kernel has done and will do.
#[derive(Debug, Default)]
struct Kernel {
    runs: Vec<(Language, String)>,
    /// Errors of the next runs; the others succeed.
    errors: VecDeque<Option<NftError>>,
    listed: Option<Listing>,
    /// Number of listings that fail.
    unlistable: u32,
    generation: u32,
    deleted: bool,
}

#[derive(Debug, Clone, Default)]
struct Fake(Arc<Mutex<Kernel>>);

impl Ruleset for Fake {
    fn run(&mut self, language: Language, transaction: &str, started: &mut dyn FnMut(u32)) -> Result<(), NftError> {
        let mut kernel = self.0.lock().expect("no panic");
        kernel.runs.push((language, transaction.to_owned()));
        started(400 + kernel.runs.len() as u32);
        match kernel.errors.pop_front().flatten() {
            Some(error) => Err(error),
            None => {
                kernel.generation += 1;
                Ok(())
            }
        }
    }

    fn generation(&mut self) -> Option<u32> {
        Some(self.0.lock().expect("no panic").generation)
    }

    fn list(&mut self) -> io::Result<Option<Listing>> {
        let mut kernel = self.0.lock().expect("no panic");
        if kernel.unlistable > 0 {
            kernel.unlistable -= 1;
            return Err(io::ErrorKind::Interrupted.into());
        }
        Ok(kernel.listed.clone())
    }

    fn delete(&mut self) -> io::Result<()> {
        self.0.lock().expect("no panic").deleted = true;
        Ok(())
    }
}

/// A table that is loaded, the kernel under it, and the setting that it switches.
struct World {
    table: Table,
    kernel: Fake,
    setting: Memory,
}

impl World {
    fn new() -> World {
        let plan = samples::plan([samples::rules(Protocol::Tcp, &["192.0.2.1:80>127.0.0.1:8080"])]);
        let kernel = Fake::default();
        let setting = Memory::new(Value::Off);
        let localnet = setting.localnet(&plan);
        let mut table = Table::over(Box::new(kernel.clone()), plan, localnet);
        table.load().expect("loaded");
        let world = World { table, kernel, setting };
        world.kernel().listed = Some(render::outline(&world.table.plan));
        assert_eq!(world.runs(), [Language::Json, Language::Native]);
        assert!(world.setting.value() == Value::On);
        world
    }

    fn kernel(&self) -> std::sync::MutexGuard<'_, Kernel> {
        self.kernel.0.lock().expect("no panic")
    }

    /// The languages of the runs since the last call.
    fn runs(&self) -> Vec<Language> {
        std::mem::take(&mut self.kernel().runs).into_iter().map(|(language, _)| language).collect()
    }

    /// The transactions since the last call.
    fn transactions(&self) -> Vec<String> {
        std::mem::take(&mut self.kernel().runs).into_iter().map(|(_, transaction)| transaction).collect()
    }

    fn fail(&self, errors: impl IntoIterator<Item = Option<NftError>>) {
        self.kernel().errors.extend(errors);
    }

    /// Another program changes a part of the table, and the watch reports it.
    fn tamper(&mut self, object: Object, action: Action) {
        let generation = {
            let mut kernel = self.kernel();
            kernel.generation += 1;
            kernel.generation
        };
        let mut report = Report { generation, ..Report::default() };
        report.changes.add(object, action);
        self.table.notices.post(report);
    }

    /// Runs the repair that a report calls for.
    fn repair(&mut self) -> Repaired {
        // Later than all delays of repairs before.
        let now = self.table.repair_due().unwrap_or_else(Instant::now) + Duration::from_secs(60);
        self.table.noticed(now);
        self.table.repair(now.max(self.table.repair_due().expect("due")))
    }
}

const DELETED: Action = Action::Deleted;

fn refused() -> Option<NftError> {
    Some(NftError::Failed("no such file".to_owned()))
}

fn timeout() -> Option<NftError> {
    Some(NftError::Run(PathBuf::from("nft"), io::ErrorKind::TimedOut.into()))
}

fn output_rules() -> Object {
    Object::Rules("output".to_owned())
}

fn active() -> State {
    samples::state(&[0], &[])
}

/// Whether a transaction is the whole table.
fn is_whole(transaction: &str) -> bool {
    transaction.contains(r#"{"delete":{"table""#)
}

#[test]
fn only_differences_are_loaded() {
    let mut world = World::new();
    world.table.apply(&active()).expect("applied");
    let transactions = world.transactions();
    assert!(transactions.len() == 1 && !is_whole(&transactions[0]), "{transactions:?}");
    assert_eq!(Some(&transactions[0]), render::changes(world.table.plan(), &State::default(), &active()).as_ref());
    world.table.apply(&active()).expect("nothing to do");
    assert!(world.runs().is_empty());
}

#[test]
fn a_change_that_fails_restores_all_rules() {
    let mut world = World::new();
    world.fail([refused()]);
    world.table.apply(&active()).expect("restored");
    let transactions = world.transactions();
    assert!(transactions.len() > 1 && !transactions.iter().any(|text| is_whole(text)), "{transactions:?}");
    assert_eq!(world.table.state, Some(active()));
    // Changes before that are overwritten.
    world.table.notices.post(Report { generation: 2, ..report(output_rules()) });
    assert_eq!(world.repair(), Repaired::Done);
    assert!(world.runs().is_empty());
    world.tamper(output_rules(), DELETED);
    assert_eq!((world.repair(), world.runs()), (Repaired::Done, vec![Language::Json]));
}

fn report(object: Object) -> Report {
    let mut report = Report::default();
    report.changes.add(object, DELETED);
    report
}

#[test]
fn a_change_that_fails_replaces_a_table_that_cannot_be_restored() {
    for errors in [vec![refused(), refused()], vec![refused(), None, refused()]] {
        let mut world = World::new();
        world.fail(errors);
        world.table.apply(&active()).expect("replaced");
        let transactions = world.transactions();
        assert!(is_whole(&transactions[transactions.len() - 2]), "{transactions:?}");
        assert_eq!(world.table.state, Some(active()));
    }
    let mut world = World::new();
    world.fail([refused()]);
    world.kernel().unlistable = 1;
    world.table.apply(&active()).expect("replaced");
    assert!(is_whole(&world.transactions()[1]));
    let mut world = World::new();
    world.fail([refused()]);
    world.kernel().listed = None;
    world.table.apply(&active()).expect("replaced");
    assert!(is_whole(&world.transactions()[1]));
}

#[test]
fn a_run_that_hangs_is_not_followed_by_another() {
    let mut world = World::new();
    world.fail([timeout()]);
    assert!(world.table.apply(&active()).expect_err("hung").is_timeout());
    assert_eq!(world.runs(), [Language::Json]);
    world.table.apply(&active()).expect("replaced");
    assert!(is_whole(&world.transactions()[0]));
}

#[test]
fn a_table_that_cannot_be_replaced_is_replaced_next_time() {
    let mut world = World::new();
    world.fail([refused(), refused(), refused()]);
    world.table.apply(&active()).expect_err("refused each time");
    world.runs();
    world.table.apply(&active()).expect("replaced");
    assert!(is_whole(&world.transactions()[0]));
    // Without its timeouts the table is incomplete.
    let mut world = World::new();
    world.table.state = None;
    world.fail([None, refused()]);
    world.table.apply(&active()).expect_err("no timeouts");
    assert_eq!(world.table.state, None);
}

#[test]
fn runs_are_recorded_as_our_own() {
    let mut world = World::new();
    let own = |pid, generation| Transaction { process: None, port: pid, generation, changes: Changes::default() };
    let notices = Arc::clone(&world.table.notices);
    assert!(notices.own.includes(&own(401, 1)) && notices.own.includes(&own(402, 2)));
    assert!(!notices.own.includes(&own(401, 2)) && !notices.own.includes(&own(403, 2)));
    assert!(notices.own.account_for((0, 2)));
    world.fail([refused()]);
    world.table.apply(&active()).expect("restored");
    assert!(!notices.own.includes(&own(401, 3)));
}

#[test]
fn without_a_report_nothing_is_repaired() {
    let mut world = World::new();
    assert_eq!(world.table.repair(Instant::now()), Repaired::Done);
    assert_eq!(world.table.repair_due(), None);
    assert_eq!(world.repair(), Repaired::Done);
    // Lost notifications of our own runs.
    world.table.notices.post(Report { lost: Some((0, 2)), ..Report::default() });
    assert_eq!(world.repair(), Repaired::Done);
    assert!(world.runs().is_empty());
}

#[test]
fn reported_rules_are_restored_and_the_setting_is_on_again() {
    let mut world = World::new();
    world.table.apply(&active()).expect("applied");
    world.runs();
    world.table.localnet.suspend();
    world.tamper(output_rules(), DELETED);
    assert_eq!(world.repair(), Repaired::Done);
    let transactions = world.transactions();
    assert!(transactions.len() == 1 && transactions[0].contains("output"), "{transactions:?}");
    assert!(!transactions[0].contains("prerouting") && world.setting.value() == Value::On);
    assert_eq!(world.table.state, Some(active()));
}

#[test]
fn a_repair_waits_for_its_time() {
    let mut world = World::new();
    world.tamper(output_rules(), DELETED);
    let now = Instant::now();
    world.table.noticed(now);
    assert_eq!(world.table.repair_due(), Some(now));
    assert_eq!(world.table.repair(now - Duration::from_secs(1)), Repaired::Done);
    assert!(world.runs().is_empty());
    assert_eq!(world.table.repair(now), Repaired::Done);
    assert_eq!(world.runs(), [Language::Json]);
}

#[test]
fn everything_is_restored_when_notifications_are_lost() {
    let mut world = World::new();
    world.kernel().generation = 9;
    world.table.notices.post(Report { lost: Some((2, 9)), generation: 9, ..Report::default() });
    assert_eq!(world.repair(), Repaired::Done);
    let transactions = world.transactions();
    assert!(transactions.iter().any(|text| text.contains("prerouting") && text.contains("output")));
}

#[test]
fn a_table_that_is_gone_is_lost_until_it_is_replaced() {
    let mut world = World::new();
    world.table.localnet.suspend();
    world.kernel().listed = None;
    world.tamper(Object::Table, DELETED);
    assert_eq!((world.repair(), world.runs()), (Repaired::Lost, vec![]));
    assert!(world.setting.value() == Value::Off);
    world.tamper(Object::Table, DELETED);
    assert_eq!(world.repair(), Repaired::Lost, "still");
    world.table.apply(&active()).expect("replaced");
    assert!(is_whole(&world.transactions()[0]) && world.setting.value() == Value::On);
}

#[test]
fn a_repair_that_fails_restores_all_rules_unless_nft_hangs() {
    let mut world = World::new();
    world.tamper(output_rules(), DELETED);
    world.fail([refused()]);
    assert_eq!(world.repair(), Repaired::Done);
    let transactions = world.transactions();
    assert!(!transactions[0].contains("prerouting"));
    assert!(transactions[1..].iter().any(|text| text.contains("prerouting")), "{transactions:?}");

    world.tamper(output_rules(), DELETED);
    world.fail([timeout()]);
    assert_eq!((world.repair(), world.runs().len()), (Repaired::Lost, 1));
    assert_eq!(world.table.state, None);
}

#[test]
fn a_table_that_cannot_be_listed_is_repaired_later() {
    let mut world = World::new();
    world.table.localnet.suspend();
    world.tamper(output_rules(), DELETED);
    world.kernel().unlistable = 1;
    assert_eq!(world.repair(), Repaired::Done);
    assert!(world.runs().is_empty() && world.setting.value() == Value::Off);
    let due = world.table.repair_due().expect("tried again");
    assert_eq!(world.table.repair(due), Repaired::Done);
    assert_eq!(world.runs(), [Language::Json]);
    assert!(world.setting.value() == Value::On);
}

#[test]
fn a_table_that_is_lost_again_while_it_is_repaired_leaves_the_setting_off() {
    let world = World::new();
    let losses = world.table.localnet.losses();
    world.table.localnet.suspend();
    world.table.localnet.resume(&world.table.plan, losses);
    assert!(world.setting.value() == Value::Off);
}

#[test]
fn the_end_switches_the_setting_off_and_deletes_the_table() {
    let mut world = World::new();
    world.table.remove().expect("removed");
    assert!(world.kernel().deleted && world.setting.value() == Value::Off);
    assert_eq!(world.table.state, None);
}

#[test]
fn messages_name_the_change_and_its_process() {
    let process = Some(Process { id: 412, name: "nft".to_owned() });
    let deleted = Report { process: process.clone(), ..report(Object::Table) };
    let changed = Report { process, ..report(output_rules()) };
    let listed = Some(&Listing::default());
    let gone = "table inet proxygw was deleted by nft (pid 412); reloading it";
    assert_eq!(announcement(&deleted, listed, "reloading it"), gone);
    assert_eq!(announcement(&changed, None, "reloading it"), gone);
    let rules = "table inet proxygw: rules of chain output were deleted by nft (pid 412); restoring it";
    assert_eq!(announcement(&changed, listed, "restoring it"), rules);
    let lost = "table inet proxygw: notifications of changes were lost; restoring it";
    assert_eq!(announcement(&Report::default(), listed, "restoring it"), lost);
}
