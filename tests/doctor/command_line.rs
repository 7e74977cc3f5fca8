//! What `proxygw doctor` and the daemon's log say.

use serde_json::json;

use crate::support::{Daemon, DaemonOptions, Lab, http_get, require_namespaces};
use crate::world::{
    File, SECOND, at_gateway, backends, codes, config, everything, findings, findings_after, front, run,
};

#[test]
fn a_host_that_is_set_up_well_gives_nothing_to_find_with_and_without_a_daemon() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let _backends = backends(&lab);
    // A plain router with two interfaces.
    lab.gateway.sysctl("ipv4/conf/all/rp_filter", "1");
    let fronts = everything();
    let file = File::new(&config(&fronts));
    let (found, status) = findings_after(&lab.gateway, "", &file.path());
    assert_eq!((found, status), (vec![], 0));
    let output = run(&lab.gateway, "exec $DOCTOR", &file.path());
    assert_eq!(String::from_utf8_lossy(&output.stdout), "nothing found\n");

    let mut daemon = Daemon::start(&lab, &config(&fronts));
    for front in &fronts {
        let get = || lab.client().run(|| http_get(at_gateway(front), "/")).expect("an answer").0;
        assert_eq!(get(), 200, "{}", front.name);
        daemon.await_target(&front.name, "active", 10 * SECOND);
        assert_eq!(get(), 200, "{}", front.name);
    }
    assert_eq!(findings(&lab.gateway, daemon.config()), [json!(null); 0]);
    assert!(daemon.terminate().success());
    assert!(!daemon.log().contains("fix:"), "{}", daemon.log());
    assert_eq!(findings(&lab.gateway, &file.path()), [json!(null); 0], "it has left something");
}

#[test]
fn the_daemon_logs_what_it_finds_once_it_is_ready() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    lab.gateway.sysctl("ipv4/ip_forward", "0");
    let fronts = [
        front("b", "packet:hold", "0.0.0.0:80", "203.0.113.2:8080"),
        front("page", "static:http", "0.0.0.0:81", "203.0.113.2:8080"),
    ];
    // It says itself that this port is taken.
    let _taken = crate::support::serve_http(&lab.gateway, "0.0.0.0:81".parse().expect("an address"), "squatter");
    let mut daemon = Daemon::start(&lab, &config(&fronts));
    let line = daemon.process().await_line("fix: ", 10 * SECOND);
    assert!(line.contains(" WARN ") && line.contains("endpoint b:http 203.0.113.2:8080"), "{line}");
    assert!(line.contains("; fix: sysctl -w net.ipv4.ip_forward=1 [ip-forward-off]"), "{line}");
    assert!(daemon.terminate().success());
    let log = daemon.log();
    assert!(log.find("ready after") < log.find("fix:"), "{log}");
    assert_eq!(log.matches("fix:").count(), 1, "{log}");
}

#[test]
fn findings_are_text_too_and_only_errors_are_a_bad_end() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    lab.gateway.sysctl("ipv4/ip_forward", "0");
    lab.gateway.sysctl("netfilter/nf_conntrack_events", "0");
    let file = File::new(&config(&[front("b", "packet:hold", "0.0.0.0:80", "203.0.113.2:8080")]));
    let output = run(&lab.gateway, "exec $DOCTOR", &file.path());
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(
        text,
        "error ip-forward-off: endpoint b:http 203.0.113.2:8080\n\
         the kernel does not forward IPv4 (net.ipv4.ip_forward is 0), so no client reaches a remote backend\n\
         fix: sysctl -w net.ipv4.ip_forward=1\n\n\
         warning conntrack-events-off\n\
         conntrack does not report the end of flows (net.netfilter.nf_conntrack_events is 0), so flows are polled\n\
         fix: sysctl -w net.netfilter.nf_conntrack_events=1\n"
    );
    lab.gateway.sysctl("ipv4/ip_forward", "1");
    let (found, status) = findings_after(&lab.gateway, "", &file.path());
    assert_eq!((codes(&found), status), (vec!["conntrack-events-off"], 0));
}

#[test]
fn a_wrong_configuration_is_status_2_and_nothing_on_standard_output() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let mut daemon = Daemon::spawn(
        &lab.gateway,
        "targets: []\nfrontends: nonsense\n",
        DaemonOptions { arguments: vec!["doctor".into(), "--json".into()], ..DaemonOptions::default() },
    );
    assert_eq!(daemon.process().wait(10 * SECOND).code(), Some(2));
    assert!(!daemon.log().contains("findings"), "{}", daemon.log());
}
