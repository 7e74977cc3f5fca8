//! nft fails at run time, and targets fail while operators intervene.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::support::{
    Daemon, DaemonOptions, GATEWAY_V4, Lab, Temporary, backend_command, eventually, http_get, nft_ruleset,
    require_namespaces,
};

const SECOND: Duration = Duration::from_secs(1);

/// An nft that counts its runs in the file `runs`, fails while there is a file `broken`, and hangs while there is a file
/// `hanging`.
struct Breakable {
    folder: Temporary,
}

impl Breakable {
    fn new() -> Breakable {
        let folder = Temporary::new();
        let at = folder.path().display();
        let script = format!(
            "#!/bin/sh\necho run >>{at}/runs\n\
             if [ -e {at}/broken ]; then echo 'Error: no such luck' >&2; exit 1; fi\n\
             if [ -e {at}/hanging ] && [ \"$1\" != --version ]; then exec sleep 1000; fi\n\
             PATH=/usr/sbin:/sbin:/usr/local/sbin:/usr/bin:/bin exec nft \"$@\"\n"
        );
        let program = folder.write("nft", &script);
        std::fs::set_permissions(program, PermissionsExt::from_mode(0o755)).expect("the script is ours");
        Breakable { folder }
    }

    fn options(&self) -> DaemonOptions {
        let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", self.folder.path().display());
        DaemonOptions { environment: vec![("PATH", path.into())], ..DaemonOptions::default() }
    }

    fn set_broken(&self, broken: bool) {
        self.set("broken", broken);
    }

    fn set(&self, mode: &str, on: bool) {
        let file = self.folder.path().join(mode);
        if on {
            std::fs::write(file, "").expect("the folder is ours");
        } else {
            std::fs::remove_file(file).expect("it was on");
        }
    }

    fn runs(&self) -> usize {
        std::fs::read_to_string(self.folder.path().join("runs")).map_or(0, |runs| runs.lines().count())
    }
}

fn config(command: &str, options: &str) -> String {
    format!(
        "targets:
  - name: t
    kind: static:cmd
    idle_timeout: 1s
    readiness: {{deadline: 2s}}
    endpoints: [{{name: e, protocol: tcp, address: '127.0.0.1:8080'}}]
    options: {{command: '{command}'}}
frontends:
  - {{name: f, kind: 'packet:hold', listen: '0.0.0.0:80', flow_timeout: 2s, target: t, options: {{{options}}}}}
"
    )
}

#[test]
fn a_failing_nft_is_retried_with_a_pause_and_the_held_client_is_served_when_it_works() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let nft = Breakable::new();
    let command = backend_command("--name b --tcp 127.0.0.1:8080");
    let daemon = Daemon::start_with(&lab, &config(&command, ""), nft.options());
    eventually("the frontend is cold", 10 * SECOND, || {
        nft_ruleset(&lab.gateway).is_some_and(|rules| rules.contains("cold-hold"))
    });
    nft.set_broken(true);
    let before = nft.runs();
    std::thread::scope(|scope| {
        let client = scope.spawn(|| lab.client().run(|| http_get((GATEWAY_V4, 80).into(), "/")));
        let shows_error =
            || daemon.target("t")["last_error"].as_str().is_some_and(|text| text.contains("no such luck"));
        eventually("the error of nft is shown", 10 * SECOND, shows_error);
        assert_eq!(daemon.target("t")["state"], "warming");
        // Messages do not make it run nft more often. Past the deadline of readiness it still waits for nft.
        let began = Instant::now();
        while began.elapsed() < 4 * SECOND {
            assert_eq!(daemon.target("t")["state"], "warming", "{}", daemon.log());
        }
        let runs = nft.runs() - before;
        // Each attempt changes the rules and then replaces the table: at 0, 2 and 4 s, and maybe 6 s on a slow machine.
        assert!((2..=8).contains(&runs), "{runs} runs\n{}", daemon.log());
        assert_eq!(daemon.log().matches("cannot load the rules").count(), 1, "{}", daemon.log());
        nft.set_broken(false);
        let (status, _) = client.join().expect("no panic").expect("an answer");
        assert_eq!(status, 200);
    });
    daemon.await_target("t", "active", SECOND);
    assert_eq!(daemon.target("t").get("last_error"), None);
}

#[test]
fn a_drain_during_a_backoff_does_not_leave_clients_refused() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let daemon = Daemon::start(&lab, &config("exit 7", "on_failure: reject"));
    let refused = || lab.client().run(|| http_get((GATEWAY_V4, 80).into(), "/")).expect_err("nothing serves").kind();
    assert_eq!(refused(), std::io::ErrorKind::ConnectionRefused);
    eventually("it backs off", 10 * SECOND, || daemon.target("t").get("retry_in").is_some());
    let failed = |daemon: &Daemon| daemon.log().matches("target t: warming").count();
    let before = failed(&daemon);
    daemon.request(10, serde_json::json!({"name": "t"}));
    // The refusal is over when the backoff is, so the next client wakes the target again.
    eventually("a client wakes the target again", 10 * SECOND, || {
        assert_eq!(refused(), std::io::ErrorKind::ConnectionRefused);
        failed(&daemon) > before
    });
}

/// A daemon whose nft has stopped to work while a target warms: runs have begun, and have failed or hang.
fn with_an_nft_that_is(mode: &str) -> (Lab, Breakable, Daemon) {
    let lab = Lab::new();
    let nft = Breakable::new();
    let command = backend_command("--name b --tcp 127.0.0.1:8080");
    let daemon = Daemon::start_with(&lab, &config(&command, ""), nft.options());
    eventually("the frontend is cold", 10 * SECOND, || {
        nft_ruleset(&lab.gateway).is_some_and(|rules| rules.contains("cold-hold"))
    });
    nft.set(mode, true);
    let before = nft.runs();
    daemon.request(8, serde_json::json!({"name": "t"}));
    // The doctor's runs do not count: they have ended by then, or begin with the daemon.
    eventually("nft runs", 10 * SECOND, || nft.runs() > before && daemon.log().contains("listening pid"));
    (lab, nft, daemon)
}

/// Nothing is left of the daemon in the gateway.
#[track_caller]
fn assert_nothing_left(lab: &Lab, daemon: &Daemon) {
    assert_eq!(nft_ruleset(&lab.gateway), None, "{}", daemon.log());
    assert_eq!(lab.gateway.read_sysctl("ipv4/conf/all/route_localnet"), "0");
    eventually("its processes are gone", 10 * SECOND, || lab.gateway.processes().is_empty());
}

#[test]
fn the_end_leaves_nothing_behind_where_nft_fails_or_hangs() {
    if !require_namespaces() {
        return;
    }
    for mode in ["broken", "hanging"] {
        let (lab, _nft, mut daemon) = with_an_nft_that_is(mode);
        let began = Instant::now();
        daemon.signal(Signal::TERM);
        assert!(daemon.process().wait(60 * SECOND).success(), "{mode}: {}", daemon.log());
        assert!(began.elapsed() < 20 * SECOND, "{mode}: {:?}\n{}", began.elapsed(), daemon.log());
        assert_nothing_left(&lab, &daemon);
    }
}

#[test]
fn a_second_signal_ends_the_daemon_at_once_though_nft_hangs() {
    if !require_namespaces() {
        return;
    }
    let (lab, _nft, mut daemon) = with_an_nft_that_is("hanging");
    let began = Instant::now();
    daemon.signal(Signal::TERM);
    eventually("it ends", 10 * SECOND, || daemon.log().contains("received SIGTERM, shutting down"));
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.process().wait(60 * SECOND).code(), Some(1), "{}", daemon.log());
    assert!(began.elapsed() < 5 * SECOND, "{:?}\n{}", began.elapsed(), daemon.log());
    assert_nothing_left(&lab, &daemon);
}

#[test]
fn a_signal_ends_a_start_whose_nft_hangs() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let nft = Breakable::new();
    // `nft --version` works: until then a signal has its usual effect.
    nft.set("hanging", true);
    let command = backend_command("--name b --tcp 127.0.0.1:8080");
    let mut daemon = Daemon::spawn(&lab.gateway, &config(&command, ""), nft.options());
    let loads = || lab.gateway.processes().iter().any(|(_, line)| line == "sleep 1000");
    eventually("nft runs", 10 * SECOND, loads);
    let began = Instant::now();
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.process().wait(60 * SECOND).code(), Some(1), "{}", daemon.log());
    assert!(began.elapsed() < 10 * SECOND, "{:?}\n{}", began.elapsed(), daemon.log());
    assert_nothing_left(&lab, &daemon);
}

#[test]
fn a_run_of_nft_does_not_outlive_a_crash() {
    if !require_namespaces() {
        return;
    }
    let (lab, _nft, mut daemon) = with_an_nft_that_is("hanging");
    let runs = || lab.gateway.processes().iter().filter(|(_, line)| line.contains("sleep 1000")).count();
    eventually("the run hangs", 10 * SECOND, || runs() == 1);
    daemon.kill9();
    eventually("the run is gone", 10 * SECOND, || runs() == 0);
}
