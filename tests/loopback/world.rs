//! Shared parts of the tests of 127.0.0.0/8: a backend on 127.0.0.1, and a daemon with and without the guard table.

use std::ffi::OsString;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;

use crate::support::setup::{SOON, always, config, external};
use crate::support::{
    Daemon, DaemonOptions, GATEWAY_V4, Lab, Server, Temporary, eventually, http_get, nft, nft_ruleset, serve_http,
};

pub const SETTING: &str = "ipv4/conf/all/route_localnet";

/// Nothing at all.
pub const NONE: (usize, usize) = (0, 0);

/// A backend on 127.0.0.1 that lives on, behind port 80.
pub fn backend(lab: &Lab) -> (Server, String) {
    let server = serve_http(&lab.gateway, ([127, 0, 0, 1], 8080).into(), "hello");
    let target = external("b", &["e=tcp/127.0.0.1:8080"]);
    (server, config(&[target], &[always("f", "tcp/0.0.0.0:80", "b:e")]))
}

#[track_caller]
pub fn assert_served(lab: &Lab, daemon: &Daemon) {
    let answer = lab.client().run(|| http_get((GATEWAY_V4, 80).into(), "/"));
    let (_, body) = answer.unwrap_or_else(|error| panic!("{error}\n{}", daemon.log()));
    assert!(body.starts_with("hello from 198.51.100.2:"), "{body}");
}

/// Command that the unit runs after the daemon has ended.
pub fn after_a_crash() -> String {
    let unit = include_str!("../../contrib/systemd/proxygw.service");
    let line = unit.lines().find_map(|line| line.strip_prefix("ExecStopPost=-")).expect("the line");
    line.to_owned()
}

pub fn tables(lab: &Lab) -> String {
    lab.gateway.sh("nft list tables")
}

/// Another program flushes all rules, and the daemon loads its own again.
#[track_caller]
pub fn flush(lab: &Lab) {
    nft(&lab.gateway, "flush ruleset");
    eventually("the table and the setting are back", SOON, || {
        nft_ruleset(&lab.gateway).is_some() && lab.gateway.read_sysctl(SETTING) == "28775"
    });
}

/// An nft that reports another version than its own; with `script`, it does something else when it loads rules.
pub fn fake_nft(version: &str, script: &str) -> (Temporary, Vec<(&'static str, OsString)>) {
    let folder = Temporary::new();
    let text = format!(
        "#!/bin/sh\n[ \"$1\" != --version ] || exec echo 'nftables v{version} (test)'\n{script}\nexec /usr/sbin/nft \"$@\"\n"
    );
    let nft = folder.write("nft", &text);
    std::fs::set_permissions(&nft, Permissions::from_mode(0o755)).expect("a file");
    let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", folder.path().display());
    (folder, vec![("PATH", path.into())])
}

/// Starts the daemon as on a host whose nft is new enough for the guard table (nft 1.0.6 lists one as JSON with garbage in
/// it; these tests do not).
#[track_caller]
pub fn start_guarded(lab: &Lab, setup: &str, mut options: DaemonOptions) -> (Daemon, Temporary) {
    let (folder, environment) = fake_nft("1.1.0", "");
    options.environment.extend(environment);
    (Daemon::start_with(lab, setup, options), folder)
}

/// Starts it as on a host whose nft is too old for that.
#[track_caller]
pub fn start_unguarded(lab: &Lab, setup: &str) -> (Daemon, Temporary) {
    let (folder, environment) = fake_nft("1.0.9", "");
    let daemon = Daemon::start_with(lab, setup, DaemonOptions { environment, ..DaemonOptions::default() });
    assert!(!tables(lab).contains("proxygw-guard") && daemon.log().contains("no table ip proxygw-guard"));
    (daemon, folder)
}
