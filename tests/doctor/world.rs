//! Configurations, and runs of the doctor.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Output;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{
    BACKEND_V4, BACKEND_V6, GATEWAY_V4, GATEWAY_V6, Lab, Namespace, Server, Temporary, binary, serve_http,
};

pub const SECOND: Duration = Duration::from_secs(1);

/// Addresses of backends: on another host, and on the gateway.
pub const REMOTE4: &str = "203.0.113.2:8080";
pub const REMOTE6: &str = "[2001:db8:2::2]:8080";
pub const LOCAL4: &str = "127.0.0.1:8080";
/// Not ::1, which outside clients cannot reach.
pub const LOCAL6: &str = "[2001:db8:2::1]:8080";

/// One frontend of a configuration, with a target of its own of the same name.
pub struct Frontend {
    pub name: String,
    pub kind: &'static str,
    pub listen: String,
    pub backend: String,
}

pub fn frontend(name: &str, kind: &'static str, listen: &str, backend: &str) -> Frontend {
    Frontend { name: name.to_owned(), kind, listen: listen.to_owned(), backend: backend.to_owned() }
}

/// `targets` and `frontends`; `more` is merged into each frontend.
pub fn config_with(frontends: &[Frontend], more: &Value) -> String {
    let targets = frontends.iter().map(|frontend| {
        json!({"name": frontend.name, "kind": "static:none", "idle_timeout": "5m",
            "endpoints": [{"name": "http", "protocol": "tcp", "address": frontend.backend}]})
    });
    let frontends = frontends.iter().map(|frontend| {
        let mut value = json!({"name": frontend.name, "kind": frontend.kind, "protocol": "tcp", "listen": frontend.listen,
            "flow_timeout": "1m", "target": format!("{}:http", frontend.name)});
        if frontend.kind == "static:http" {
            value["options"] = json!({"content": "one moment"});
        }
        if let (Some(value), Some(more)) = (value.as_object_mut(), more.as_object()) {
            value.extend(more.clone());
        }
        value
    });
    // JSON is YAML.
    format!("targets: {}\nfrontends: {}\n", json!(targets.collect::<Vec<_>>()), json!(frontends.collect::<Vec<_>>()))
}

pub fn config(frontends: &[Frontend]) -> String {
    config_with(frontends, &json!({}))
}

/// Each kind of cold path to each kind of backend, of both families, on ports of their own.
pub fn everything() -> Vec<Frontend> {
    let mut frontends = Vec::new();
    for (at, (kind, short)) in [("packet:hold", "hold"), ("static:http", "http")].into_iter().enumerate() {
        for (backend, where_, any) in [
            (REMOTE4, "remote4", "0.0.0.0"),
            (REMOTE6, "remote6", "[::]"),
            (LOCAL4, "local4", "0.0.0.0"),
            (LOCAL6, "local6", "[::]"),
        ] {
            let port = 80 + 2 * at + usize::from(where_.starts_with("local"));
            frontends.push(frontend(&format!("{short}-{where_}"), kind, &format!("{any}:{port}"), backend));
        }
    }
    frontends
}

/// Servers at all of these addresses.
pub fn backends(lab: &Lab) -> Vec<Server> {
    vec![
        serve_http(&lab.backend, (BACKEND_V4, 8080).into(), "hello"),
        serve_http(&lab.backend, (BACKEND_V6, 8080).into(), "hello"),
        serve_http(&lab.gateway, at(LOCAL4), "hello"),
        serve_http(&lab.gateway, at(LOCAL6), "hello"),
    ]
}

/// Address at which a client of the lab reaches a frontend.
pub fn at_gateway(frontend: &Frontend) -> SocketAddr {
    let listen = at(&frontend.listen);
    let ip: IpAddr = match (listen.ip().is_unspecified(), listen.is_ipv4()) {
        (false, _) => listen.ip(),
        (true, true) => GATEWAY_V4,
        (true, false) => GATEWAY_V6,
    };
    (ip, listen.port()).into()
}

pub fn at(text: &str) -> SocketAddr {
    text.parse().expect("an address and a port")
}

/// A configuration file without a daemon.
pub struct File {
    folder: Temporary,
}

impl File {
    pub fn new(config: &str) -> File {
        let folder = Temporary::new();
        folder.write("proxygw.yaml", &format!("version: v1\n{config}"));
        File { folder }
    }

    pub fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("proxygw.yaml")
    }
}

/// Runs a shell script that ends with the doctor, as `$DOCTOR`, in a namespace.
pub fn run(namespace: &Namespace, script: &str, config: &Path) -> Output {
    let mut command = namespace.command("/usr/bin/unshare");
    let doctor = format!("{} doctor --config {}", binary("proxygw").display(), config.display());
    // Mounts here are private.
    command.args(["--mount", "/bin/sh", "-ec", script]).env("DOCTOR", doctor).env("PATH", namespace.path_of_programs());
    command.output().expect("unshare")
}

/// Findings after a shell script, and the exit status.
#[track_caller]
pub fn findings_after(namespace: &Namespace, script: &str, config: &Path) -> (Vec<Value>, i32) {
    let output = run(namespace, &format!("{script}\nexec $DOCTOR --json"), config);
    let stderr = String::from_utf8_lossy(&output.stderr);
    let found: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {stderr}"));
    let found = found["findings"].as_array().expect("a list").clone();
    (found, output.status.code().expect("an exit status"))
}

/// Findings of the doctor.
#[track_caller]
pub fn findings(namespace: &Namespace, config: &Path) -> Vec<Value> {
    findings_after(namespace, "", config).0
}

pub fn codes(findings: &[Value]) -> Vec<&str> {
    findings.iter().filter_map(|finding| finding["code"].as_str()).collect()
}

pub fn field<'f>(finding: &'f Value, key: &str) -> &'f str {
    finding[key].as_str().unwrap_or_default()
}

/// Runs a remedy that is a command.
#[track_caller]
pub fn fix(namespace: &Namespace, finding: &Value) {
    // The namespace's own nft comes first.
    namespace.sh(&format!("PATH='{}'; {}", namespace.path_of_programs().to_string_lossy(), field(finding, "remedy")));
}
