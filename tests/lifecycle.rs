//! The whole life of a target with the real daemon: asleep, woken, carried by the kernel, idle, asleep again.

mod support;

use std::time::Duration;

use support::{
    BACKEND_V4, Daemon, GATEWAY_V4, Lab, backend_command, conntrack_entries, eventually, http_get, nft_ruleset,
    require_namespaces, second_nft, serve_http,
};

const SECOND: Duration = Duration::from_secs(1);

/// A command on the gateway's loopback address, behind a waiting page; with children, one of which leaves the group.
fn sleeping_command() -> String {
    let command = backend_command("--name hello --tcp 127.0.0.1:8080 --fork 2 --stray");
    format!(
        "
targets:
  - name: backend
    kind: static:cmd
    idle_timeout: 1s
    endpoints: [{{name: http, protocol: tcp, address: '127.0.0.1:8080'}}]
    options: {{command: '{command}'}}
frontends:
  - name: web
    kind: static:http
    protocol: tcp
    listen: 0.0.0.0:80
    flow_timeout: 1s
    target: backend:http
    options: {{content: waiting}}
"
    )
}

/// What a client gets at the gateway.
fn ask(lab: &Lab) -> String {
    lab.client().run(|| http_get((GATEWAY_V4, 80).into(), "/")).expect("an answer").1
}

#[test]
fn a_client_wakes_the_backend_which_sleeps_again_when_idle() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let mut daemon = Daemon::start(&lab, &sleeping_command());
    assert_eq!(daemon.target("backend")["state"], "inactive");
    assert_eq!(ask(&lab), "waiting");
    daemon.await_target("backend", "active", 10 * SECOND);

    let answer = ask(&lab);
    assert!(answer.contains(r#""peer": "198.51.100.2:"#), "{answer}");
    let flows = conntrack_entries(&lab.gateway);
    assert!(flows.iter().any(|flow| flow.contains("src=127.0.0.1 dst=198.51.100.2")), "{flows:#?}");

    daemon.await_target("backend", "inactive", 15 * SECOND);
    eventually("only the daemon is left", 2 * SECOND, || lab.gateway.processes().len() == 1);
    assert!(daemon.log().contains("hello: stray pid"), "{}", daemon.log());
    assert_eq!(ask(&lab), "waiting");

    // Asked to end in the middle of a wake.
    assert!(daemon.terminate().success(), "{}", daemon.log());
    assert_eq!(nft_ruleset(&lab.gateway), None);
    assert!(!daemon.socket().exists());
    assert_eq!(lab.gateway.processes(), []);
    assert_eq!(lab.gateway.read_sysctl("ipv4/conf/all/route_localnet"), "0");
}

#[test]
fn a_start_cleans_up_after_a_crash() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let mut daemon = Daemon::start(&lab, &sleeping_command());
    ask(&lab);
    daemon.await_target("backend", "active", 10 * SECOND);
    daemon.kill9();
    assert!(nft_ruleset(&lab.gateway).is_some(), "the rules outlive the daemon");

    daemon.restart();
    assert_eq!(daemon.target("backend")["state"], "inactive");
    // The daemon, and what it runs: nft, which looks like the daemon until it has begun.
    let processes = lab.gateway.processes();
    let own = processes.iter().find(|(pid, _)| *pid == daemon.pid()).expect("the daemon").1.clone();
    assert!(processes.iter().all(|(_, line)| *line == own || line.contains("nft")), "{processes:?}");
    assert_eq!(ask(&lab), "waiting");
    assert!(daemon.terminate().success(), "{}", daemon.log());
    assert_eq!(nft_ruleset(&lab.gateway), None);
    assert_eq!(lab.gateway.processes(), []);
    assert_eq!(lab.gateway.read_sysctl("ipv4/conf/all/route_localnet"), "0");
}

#[test]
fn another_nft_will_do() {
    if !require_namespaces() {
        return;
    }
    let Some(nft) = second_nft() else { return };
    let lab = Lab::with_nft(&nft);
    let _http = serve_http(&lab.backend, (BACKEND_V4, 8080).into(), "hello");
    let mut daemon = Daemon::start(
        &lab,
        "
targets:
  - name: backend
    kind: static:none
    idle_timeout: 1m
    endpoints: [{name: http, protocol: tcp, address: '203.0.113.2:8080'}]
frontends:
  - name: web
    kind: static:always
    protocol: tcp
    listen: 198.51.100.1:80
    flow_timeout: 1m
    target: backend:http
",
    );
    daemon.await_target("backend", "active", 10 * SECOND);
    let answer = ask(&lab);
    assert!(answer.starts_with("hello from 198.51.100.2:"), "{answer}");
    assert!(daemon.terminate().success(), "{}", daemon.log());
    assert_eq!(nft_ruleset(&lab.gateway), None);
}
