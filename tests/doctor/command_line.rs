//! Output of `proxygw doctor`, and the daemon's log.

use serde_json::json;

use crate::support::{Daemon, DaemonOptions, Lab, http_get, require_namespaces};
use crate::world::{
    File, SECOND, at_gateway, backends, codes, config, everything, findings, findings_after, frontend, run,
};

#[test]
fn well_configured_host_has_no_findings() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let _backends = backends(&lab);
    // A plain router with two interfaces.
    lab.gateway.sysctl("ipv4/conf/all/rp_filter", "1");
    let frontends = everything();
    let file = File::new(&config(&frontends));
    let (found, status) = findings_after(&lab.gateway, "", &file.path());
    assert_eq!((found, status), (vec![], 0));
    let output = run(&lab.gateway, "exec $DOCTOR", &file.path());
    assert_eq!(String::from_utf8_lossy(&output.stdout), "nothing found\n");

    let mut daemon = Daemon::start(&lab, &config(&frontends));
    for frontend in &frontends {
        let get = || lab.client().run(|| http_get(at_gateway(frontend), "/")).expect("an answer").0;
        assert_eq!(get(), 200, "{}", frontend.name);
        daemon.await_target(&frontend.name, "active", 10 * SECOND);
        assert_eq!(get(), 200, "{}", frontend.name);
    }
    assert_eq!(findings(&lab.gateway, daemon.config()), [json!(null); 0]);
    assert!(daemon.terminate().success());
    assert!(!daemon.log().contains("fix:"), "{}", daemon.log());
    assert_eq!(findings(&lab.gateway, &file.path()), [json!(null); 0], "the daemon left something");
}

#[test]
fn daemon_logs_findings_once_it_is_ready() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    lab.gateway.sysctl("ipv4/ip_forward", "0");
    let frontends = [
        frontend("b", "packet:hold", "0.0.0.0:80", "203.0.113.2:8080"),
        frontend("page", "static:http", "0.0.0.0:81", "203.0.113.2:8080"),
    ];
    // It reports a port in use on its own.
    let _taken = crate::support::serve_http(&lab.gateway, "0.0.0.0:81".parse().expect("an address"), "squatter");
    let mut daemon = Daemon::start(&lab, &config(&frontends));
    let line = daemon.process().await_line("fix: ", 10 * SECOND);
    assert!(line.contains(" WARN ") && line.contains("endpoint b:http 203.0.113.2:8080"), "{line}");
    assert!(line.contains("; fix: sysctl -w net.ipv4.ip_forward=1 [ip-forward-off]"), "{line}");
    assert!(daemon.terminate().success());
    let log = daemon.log();
    assert!(log.find("ready after") < log.find("fix:"), "{log}");
    assert_eq!(log.matches("fix:").count(), 1, "{log}");
}

#[test]
fn text_output_and_exit_status() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    lab.gateway.sysctl("ipv4/ip_forward", "0");
    lab.gateway.sysctl("netfilter/nf_conntrack_events", "0");
    let file = File::new(&config(&[frontend("b", "packet:hold", "0.0.0.0:80", "203.0.113.2:8080")]));
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
fn invalid_configuration_is_status_2_without_output() {
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
