//! Packets to and from 127.0.0.0/8 while the daemon starts, ends, crashes, and loses its rules.

use rustix::process::Signal;

use crate::flood::Flood;
use crate::manager::Manager;
use crate::support::setup::{SOON, warm};
use crate::support::{Daemon, DaemonOptions, Lab, eventually, nft, nft_ruleset, require_namespaces};
use crate::world::{
    NONE, SETTING, after_a_crash, assert_served, backend, fake_nft, flush, start_guarded, start_unguarded, tables,
};

#[test]
fn nothing_reaches_127_0_0_0_at_starts_stops_and_flushes() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let (_server, setup) = backend(&lab);
    let flood = Flood::start(&lab);
    assert_eq!(flood.while_doing(|| {}), NONE, "the kernel drops it");
    // The attempt is a real one.
    lab.gateway.sysctl(SETTING, "1");
    flood.go_on(2000);
    lab.gateway.sysctl(SETTING, "0");
    let (to, from) = flood.reached();
    assert!(to > 100 && from > 100, "{to} and {from} with the setting on");
    flood.go_on(200);

    let mut started = None;
    let start = || started = Some(start_guarded(&lab, &setup, DaemonOptions::default()));
    assert_eq!(flood.while_doing(start), NONE, "a start");
    let (mut daemon, _nft) = started.expect("started");
    assert_eq!(lab.gateway.read_sysctl(SETTING), "28775");
    for round in 0..5 {
        warm(&daemon, "b");
        assert_served(&lab, &daemon);
        assert_eq!(flood.while_doing(|| flush(&lab)), NONE, "flush {round}");
        assert_served(&lab, &daemon);
        let stop = || assert!(daemon.terminate().success());
        assert_eq!(flood.while_doing(stop), NONE, "stop {round}");
        assert_eq!(lab.gateway.read_sysctl(SETTING), "0");
        assert_eq!(tables(&lab), "");
        assert_eq!(flood.while_doing(|| daemon.restart()), NONE, "start {round}");
    }
    let delete = || nft(&lab.gateway, "delete chain inet proxygw guard");
    assert_eq!(flood.while_doing(delete), NONE, "without the chain of the main table");
    let stop = || {
        daemon.signal(Signal::TERM);
        daemon.signal(Signal::TERM);
        daemon.process().wait(SOON);
    };
    assert_eq!(flood.while_doing(stop), NONE, "an end at once");
    assert_eq!((lab.gateway.read_sysctl(SETTING).as_str(), tables(&lab).as_str()), ("0", ""));
}

#[test]
fn nothing_reaches_127_0_0_0_where_another_program_has_the_setting_on() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let (_server, setup) = backend(&lab);
    lab.gateway.sysctl(SETTING, "1");
    let (mut daemon, _nft) = start_guarded(&lab, &setup, DaemonOptions::default());
    let flood = Flood::start(&lab);
    assert_eq!(flood.while_doing(|| flush_of_others(&lab)), NONE);
    assert_eq!(lab.gateway.read_sysctl(SETTING), "1");
    warm(&daemon, "b");
    assert_served(&lab, &daemon);
    assert!(daemon.terminate().success());
    assert_eq!((lab.gateway.read_sysctl(SETTING).as_str(), tables(&lab).as_str()), ("1", ""));
}

/// As [`flush`], where the setting does not show it.
#[track_caller]
fn flush_of_others(lab: &Lab) {
    nft(&lab.gateway, "flush ruleset");
    eventually("the table is back", SOON, || nft_ruleset(&lab.gateway).is_some());
}

#[test]
fn a_service_manager_keeps_the_guard_over_a_crash() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let (_server, setup) = backend(&lab);
    let manager = Manager::start();
    let (mut daemon, _nft) = start_guarded(&lab, &setup, manager.options());
    eventually("the guard's socket is kept", SOON, || manager.stored().as_deref() == Some("proxygw-guard"));
    let flood = Flood::start(&lab);
    for round in 0..3 {
        warm(&daemon, "b");
        assert_served(&lab, &daemon);
        let crash = || {
            daemon.kill9();
            nft(&lab.gateway, "flush ruleset");
        };
        assert_eq!(flood.while_doing(crash), NONE, "crash {round}");
        assert_eq!(lab.gateway.read_sysctl(SETTING), "28775", "a crash leaves it");
        assert_eq!(tables(&lab), "table ip proxygw-guard\n");
        lab.gateway.sh(&after_a_crash());
        assert_eq!(lab.gateway.read_sysctl(SETTING), "28775", "the guard is there");
        assert_eq!(flood.while_doing(|| daemon.restart()), NONE, "start {round}");
        assert!(!daemon.log().contains("proxygw-guard"), "it is taken over\n{}", daemon.log());
    }
    assert_eq!(flood.while_doing(|| flush(&lab)), NONE, "the socket that was taken over guards");
    let stop = || assert!(daemon.terminate().success());
    assert_eq!(flood.while_doing(stop), NONE, "a stop");
    eventually("the store is empty", SOON, || manager.stored().is_none());
    assert_eq!((lab.gateway.read_sysctl(SETTING).as_str(), tables(&lab).as_str()), ("0", ""));
}

#[test]
fn a_start_closes_what_a_crash_exposed() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let (_server, setup) = backend(&lab);
    let (mut daemon, _nft) = start_unguarded(&lab, &setup);
    let flood = Flood::start(&lab);
    assert_eq!(flood.while_doing(|| _ = daemon.kill9()), NONE, "the table of a crashed daemon guards");
    nft(&lab.gateway, "flush ruleset");
    eventually("it is exposed, as documented", SOON, || flood.reached().0 > 0);
    lab.gateway.sh(&after_a_crash());
    assert_eq!(flood.while_doing(|| {}), NONE, "the unit has switched the setting off");
    lab.gateway.sysctl(SETTING, "28775");
    eventually("it is exposed again", SOON, || flood.reached().0 > 0);
    daemon.restart();
    assert_eq!(flood.while_doing(|| {}), NONE);
    assert_served(&lab, &daemon);
}

#[test]
fn without_a_guard_table_a_stop_exposes_nothing() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let (_server, setup) = backend(&lab);
    let (mut daemon, _nft) = start_unguarded(&lab, &setup);
    let flood = Flood::start(&lab);
    let mut exposed = Vec::new();
    for round in 0..5 {
        warm(&daemon, "b");
        assert_served(&lab, &daemon);
        exposed.push(flood.while_doing(|| flush(&lab)));
        let stop = || assert!(daemon.terminate().success());
        assert_eq!(flood.while_doing(stop), NONE, "stop {round}");
        assert_eq!(flood.while_doing(|| daemon.restart()), NONE, "start {round}");
    }
    println!("reached at flushes, without a guard table: {exposed:?}");
    let stop = || {
        daemon.signal(Signal::TERM);
        daemon.signal(Signal::TERM);
        daemon.process().wait(SOON);
    };
    assert_eq!(flood.while_doing(stop), NONE, "an end at once");
}

#[test]
fn a_setting_left_on_is_switched_off_before_nft_runs() {
    if !require_namespaces() {
        return;
    }
    // An nft that never ends.
    let (_folder, environment) = fake_nft("1.0.9", "exec sleep 1000");
    let lab = Lab::new();
    let (_server, setup) = backend(&lab);
    lab.gateway.sysctl(SETTING, "28775");
    let flood = Flood::start(&lab);
    eventually("it is exposed", SOON, || flood.reached().0 > 0);
    let options = DaemonOptions { environment, ..DaemonOptions::default() };
    let _daemon = Daemon::spawn(&lab.gateway, &setup, options);
    let sleeps = || lab.gateway.processes().iter().any(|(_, line)| line == "sleep 1000");
    eventually("nft runs", SOON, sleeps);
    assert_eq!(flood.while_doing(|| {}), NONE);
    assert_eq!(lab.gateway.read_sysctl(SETTING), "0");
}
