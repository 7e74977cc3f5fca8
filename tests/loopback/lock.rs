//! One daemon runs in a network namespace, and only programs with its rights can keep it from starting.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Stdio;

use crate::support::setup::{SOON, always, config, external, page};
use crate::support::{Daemon, DaemonOptions, Lab, Process, Temporary, nft_ruleset, require_namespaces};

/// Binds the parts of the daemon's lock that it can, and prints the result.
const THIEF: &str = r#"
import os, socket, struct, sys, time
def nfnetlink(kind, family, group, body=b""):
    payload = struct.pack("=BBH", family, 0, socket.htons(group)) + body
    return struct.pack("=IHHII", 16 + len(payload), kind, 5, 1, 0) + payload
log = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
log.bind((0, 0))
log.send(nfnetlink(4 << 8 | 1, 0, 28774, struct.pack("=HHBxxx", 5, 1, 1)))
print("nflog", struct.unpack("=i", log.recv(4096)[16:20])[0], flush=True)
names = socket.socket(socket.AF_UNIX)
names.bind("\0proxygw/network-namespace")
print("bound", flush=True)
time.sleep(1000)
"#;

fn setup() -> String {
    config(&[external("b", &["e=tcp/203.0.113.2:8080"])], &[always("f", "tcp/0.0.0.0:80", "b:e")])
}

fn thief(lab: &Lab, user: Option<u32>) -> Process {
    let mut command = lab.gateway.command("setpriv");
    if let Some(user) = user {
        command.args([&format!("--reuid={user}"), &format!("--regid={user}"), "--clear-groups"]);
    }
    command.args(["/usr/bin/python3", "-u", "-c", THIEF]);
    Process::start(command)
}

#[test]
fn unprivileged_users_cannot_take_the_lock() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let thief = thief(&lab, Some(65534));
    assert_eq!(thief.await_line("nflog", SOON), "nflog -1", "EPERM");
    thief.await_line("bound", SOON);
    let mut daemon = Daemon::start(&lab, &setup());
    assert!(daemon.terminate().success());
}

#[test]
fn another_program_with_the_group_is_named() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let thief = thief(&lab, None);
    assert_eq!(thief.await_line("nflog", SOON), "nflog 0");
    let mut daemon = Daemon::spawn(&lab.gateway, &setup(), DaemonOptions::default());
    assert_eq!(daemon.process().wait(SOON).code(), Some(1));
    let pid = thief.pid();
    daemon.process().await_line(&format!("belongs to python3 (pid {pid})"), SOON);
    assert_eq!(nft_ruleset(&lab.gateway), None, "nothing is touched");
}

#[test]
fn the_lock_of_a_dead_process_is_awaited() {
    if !require_namespaces() {
        return;
    }
    // As after a crash between fork and exec: the child has a copy of the socket. Its parent, which the port id names, is gone.
    let script = format!("{}\n", THIEF.replace("time.sleep(1000)", "if os.fork() == 0: time.sleep(0.4)"));
    let lab = Lab::new();
    let mut command = lab.gateway.command("/usr/bin/python3");
    command.args(["-u", "-c", &script]);
    let mut parent = Process::start(command);
    assert!(parent.wait(SOON).success());
    assert!(!lab.gateway.processes().is_empty(), "its child lives");
    let mut daemon = Daemon::start(&lab, &setup());
    assert!(daemon.terminate().success());
}

#[test]
fn the_lock_is_per_namespace_and_ends_with_the_process() {
    if !require_namespaces() {
        return;
    }
    let (lab, other) = (Lab::new(), Lab::new());
    let mut first = Daemon::start(&lab, &setup());
    let _elsewhere = Daemon::start(&other, &setup());
    let rules = nft_ruleset(&lab.gateway);
    let mut second = Daemon::spawn(&lab.gateway, &setup(), DaemonOptions::default());
    assert_eq!(second.process().wait(SOON).code(), Some(1));
    let pid = first.pid();
    second.process().await_line(&format!("another proxygw runs in this network namespace (pid {pid})"), SOON);
    assert_eq!(nft_ruleset(&lab.gateway), rules);
    for _ in 0..5 {
        first.kill9();
        first.restart();
    }
    for _ in 0..2 {
        first.signal(rustix::process::Signal::TERM);
    }
    first.process().wait(SOON);
    first.restart();
    assert!(first.terminate().success());
}

#[test]
fn a_missing_capability_is_named() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let daemon = Daemon::start(&lab, &setup());
    let mut command = lab.gateway.command("setpriv");
    command.args(["--bounding-set=-net_admin", "--inh-caps=-net_admin"]).arg(crate::support::binary("proxygw"));
    command.arg("--config").arg(daemon.config()).stdin(Stdio::null()).process_group(0);
    let output = command.output().expect("setpriv");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("CAP_NET_ADMIN is missing"), "{error}");
}

#[test]
fn the_doctor_detects_a_running_daemon() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let folder = Temporary::new();
    let target = external("b", &["e=tcp/203.0.113.2:8080"]);
    let setup = config(&[target], &[page("f", "0.0.0.0:8000", "b:e")]);
    let config = folder.write("proxygw.yaml", &format!("version: v1\n{setup}"));
    let readable = |path: &Path| std::fs::set_permissions(path, Permissions::from_mode(0o755)).expect("a path");
    readable(folder.path());
    readable(&config);
    // A copy, since an unprivileged user may not get to the program's own folder.
    let program = folder.path().join("proxygw");
    std::fs::copy(crate::support::binary("proxygw"), &program).expect("a copy");
    let findings = |arguments: &[&str]| {
        let mut doctor = lab.gateway.command("setpriv");
        let doctor = doctor.args(arguments).arg(&program).args(["doctor", "--json", "--config"]).arg(&config);
        String::from_utf8(doctor.output().expect("setpriv").stdout).expect("JSON")
    };
    let unprivileged = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    let taken = std::net::TcpListener::bind;
    let other = lab.gateway.run(|| taken("0.0.0.0:8000")).expect("a socket");
    for rights in [&[][..], &unprivileged] {
        assert!(findings(rights).contains("port-taken"), "{}", findings(rights));
    }
    drop(other);
    let daemon = Daemon::start(&lab, &setup);
    daemon.await_frontend("f", "running", SOON);
    for rights in [&[][..], &unprivileged] {
        let found = findings(rights);
        assert!(found.contains("findings") && !found.contains("port-taken"), "{found}");
    }
}
