//! The daemon's table, while the daemon cannot restore it.

use rustix::process::Signal;

use crate::support::{Daemon, Lab, eventually, nft, require_namespaces};
use crate::world::{SECOND, backends, codes, config, everything, field, findings};

#[test]
fn changed_table_is_found_until_the_daemon_restores_it() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let _backends = backends(&lab);
    let mut daemon = Daemon::start(&lab, &config(&everything()));
    let about_the_table = |daemon: &Daemon| {
        let found = findings(&lab.gateway, daemon.config());
        found.into_iter().find(|finding| finding["code"] == "table-changed")
    };
    assert_eq!(about_the_table(&daemon), None, "{}", daemon.log());
    for (script, expected) in [
        ("flush chain inet proxygw prerouting", "chain prerouting has 0 rules instead of 9"),
        ("flush chain inet proxygw output\ndelete chain inet proxygw output", "chain output is missing"),
        ("add table inet proxygw { flags dormant; }", "it is disabled"),
        ("delete table inet proxygw", ": it is missing"),
    ] {
        daemon.signal(Signal::STOP);
        nft(&lab.gateway, script);
        let found = about_the_table(&daemon).unwrap_or_else(|| panic!("{script}: nothing is found"));
        assert!(field(&found, "problem").contains(expected), "{script}: {found:#}");
        assert_eq!(field(&found, "severity"), "error");
        daemon.signal(Signal::CONT);
        eventually("it is restored", 10 * SECOND, || about_the_table(&daemon).is_none());
    }
    let found = findings(&lab.gateway, daemon.config());
    assert!(!codes(&found).contains(&"not-looked-at"), "{found:#?}");
}
