//! The transcripts of the documents are what the programs print: each block fenced as `console` is run in network namespaces.
//!
//! `$ ` begins a command on the gateway, which is repeated until its output is the documented one, `client$ ` a command on the
//! client, which runs once. Times, process ids and ephemeral ports are compared as such, not by their values.

mod support;

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{Daemon, Lab, Namespace, Temporary, binary, require_namespaces};

/// How long an output may take to become the documented one.
const TIMEOUT: Duration = Duration::from_secs(20);

/// The blocks of a document that are fenced as of this language.
fn blocks(document: &str, language: &str) -> Vec<String> {
    let text = fs::read_to_string(document).unwrap_or_else(|error| panic!("{document}: {error}"));
    let fence = format!("```{language}\n");
    text.split(fence.as_str()).skip(1).map(|rest| rest.split("```").next().unwrap_or_default().to_owned()).collect()
}

/// The configuration that a document begins with, without its version.
fn configuration(document: &str) -> String {
    let found = blocks(document, "yaml").into_iter().find_map(|block| {
        let targets = block.split_once("targets:")?.1;
        Some(format!("targets:{targets}"))
    });
    found.unwrap_or_else(|| panic!("{document} has no configuration"))
}

/// One command and its output.
struct Step {
    on_client: bool,
    command: String,
    output: String,
}

fn steps(block: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for line in block.lines() {
        let command = line.strip_prefix("$ ").map(|command| (false, command));
        match (command.or_else(|| line.strip_prefix("client$ ").map(|command| (true, command))), steps.last_mut()) {
            (Some((on_client, command)), _) => {
                steps.push(Step { on_client, command: command.to_owned(), output: String::new() });
            }
            (None, Some(step)) => step.output += &format!("{line}\n"),
            (None, None) => panic!("a transcript begins with a command: {line}"),
        }
    }
    steps
}

/// The text without what differs between two runs.
fn normal(text: &str) -> Vec<String> {
    text.lines().map(normal_line).collect()
}

fn normal_line(line: &str) -> String {
    let mut words: Vec<String> = Vec::new();
    for word in line.split_whitespace() {
        let core = word.trim_end_matches([',', '.', ';', ':', ')']);
        let rest = &word[core.len()..];
        let before = words.last().map_or("", String::as_str);
        let is_count = !core.is_empty() && core.bytes().all(|byte| byte.is_ascii_digit());
        let differs = before == "is" || before.contains("pid") || before.contains("drains_in");
        let is_number = is_count && differs || core.contains('.') && core.parse::<f64>().is_ok();
        let (digits, unit) = core.split_at(core.bytes().take_while(u8::is_ascii_digit).count());
        let ephemeral = core.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok_and(|port| port >= 32768));
        if is_timestamp(core) {
            words.push(format!("TIME{rest}"));
        } else if !digits.is_empty() && ["ms", "s", "m", "h"].contains(&unit) {
            if before == "SPAN" {
                words.pop();
            }
            words.push(format!("SPAN{rest}"));
        } else if is_number {
            words.push(format!("NUMBER{rest}"));
        } else if let Some((address, _)) = ephemeral {
            words.push(format!("{address}:PORT{rest}"));
        } else {
            words.push(word.to_owned());
        }
    }
    words.join(" ")
}

fn is_timestamp(word: &str) -> bool {
    let word = word.trim_matches('"');
    word.len() > 15 && word.contains('T') && word.ends_with('Z') && word.starts_with("20")
}

/// Runs a document's transcripts against a daemon.
fn replay(document: &str, lab: &Lab, daemon: &Daemon) {
    let folder = Temporary::new();
    let script = |name: &str, arguments: &str| {
        let path = folder.write(name, &format!("#!/bin/sh\nexec {} {arguments}\n", binary(name).display()));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a script");
    };
    script("proxygwctl", &format!("--socket {} \"$@\"", daemon.socket().display()));
    script("proxygw", &format!("\"$@\" --config {}", daemon.config().display()));
    let blocks = blocks(document, "console");
    assert!(!blocks.is_empty(), "{document} has no transcript");
    for step in blocks.iter().flat_map(|block| steps(block)) {
        let place = if step.on_client { lab.client() } else { &lab.gateway };
        let (wanted, until) = (normal(&step.output), Instant::now() + TIMEOUT);
        loop {
            let output = run(place, folder.path(), &step.command);
            if normal(&output) == wanted {
                break;
            }
            let is_over = step.on_client || Instant::now() > until;
            assert!(!is_over, "{document}: {}\nprints\n{output}\nnot\n{}", step.command, step.output);
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Output of a shell command; its exit status is up to the reader of the document.
fn run(place: &Namespace, programs: &Path, command: &str) -> String {
    let mut path = programs.as_os_str().to_owned();
    path.push(":");
    path.push(place.path_of_programs());
    let output = place.command("/bin/sh").args(["-c", command]).env("PATH", path).output().expect("a shell");
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    format!("{stdout}{stderr}")
}

#[test]
fn readme_and_status_show_a_cold_start() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let daemon = Daemon::start(&lab, &configuration("README.md"));
    replay("README.md", &lab, &daemon);
    replay("docs/status.md", &lab, &daemon);
    exchange_as_documented(&daemon);
}

/// Sends the documented requests over the control socket: each is followed by its reply.
fn exchange_as_documented(daemon: &Daemon) {
    let block =
        blocks("docs/status.md", "json").into_iter().find(|block| block.contains("\"method\"")).expect("requests");
    let messages: Vec<Value> =
        serde_json::Deserializer::from_str(&block).into_iter().map(|one| one.expect("JSON")).collect();
    let mut stream = UnixStream::connect(daemon.socket()).expect("the control socket");
    stream.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
    let mut replies = serde_json::Deserializer::from_reader(stream.try_clone().expect("a stream")).into_iter::<Value>();
    for pair in messages.chunks(2) {
        stream.write_all(pair[0].to_string().as_bytes()).expect("a request");
        assert_eq!(replies.next().expect("a reply").expect("JSON"), pair[1], "{}", pair[0]);
    }
}

#[test]
fn the_log_names_the_program_that_changed_the_table() {
    if !require_namespaces() {
        return;
    }
    let text = fs::read_to_string("docs/running.md").expect("a document");
    let shown = text.lines().find(|line| line.starts_with("    table inet proxygw: chain output")).expect("a log line");
    let lab = Lab::new();
    let daemon = Daemon::start(&lab, &configuration("README.md"));
    lab.gateway.sh("nft 'flush chain inet proxygw output; delete chain inet proxygw output'");
    let until = Instant::now() + TIMEOUT;
    while !daemon.log().lines().any(|line| normal_line(line).contains(&normal_line(shown))) {
        assert!(Instant::now() < until, "{}", daemon.log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn troubleshooting_shows_a_finding() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    lab.gateway.sysctl("ipv4/ip_forward", "0");
    let daemon = Daemon::start(&lab, REMOTE);
    replay("docs/troubleshooting.md", &lab, &daemon);
}

/// A backend on another host.
const REMOTE: &str = "
targets:
  - name: backend
    kind: static:none
    idle_timeout: 5m
    readiness: {probe: none}
    endpoints: [{name: http, protocol: tcp, address: '203.0.113.2:8080'}]
frontends:
  - {name: web, kind: static:always, listen: '198.51.100.1:80', flow_timeout: 1m, target: backend}
";

/// The documented mistake is the one that `--check` reports for the first configuration with another port.
#[test]
fn the_configuration_shows_a_mistake() {
    let document = "docs/configuration.md";
    let folder = Temporary::new();
    let path = folder.write("proxygw.yaml", &blocks(document, "yaml")[0].replace("0.0.0.0:8088", "0.0.0.0:0"));
    let output = Command::new(binary("proxygw")).arg("--check").arg("--config").arg(&path).output().expect("proxygw");
    let printed = String::from_utf8_lossy(&output.stderr).replace(path.to_str().expect("UTF-8"), "/etc/proxygw.yaml");
    let text = fs::read_to_string(document).expect("a document");
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words(&text).contains(&words(printed.lines().next().expect("a mistake"))), "{printed}");
}

#[test]
fn what_differs_between_two_runs_is_not_compared() {
    let shown = "It has been in this state for 1h 3m 20s, since 2026-11-23T09:14:40.123Z.";
    assert_eq!(normal_line(shown), "It has been in this state for SPAN, since TIME.");
    assert_eq!(normal_line("  tcp 198.51.100.2:41240 to 198.51.100.1:80"), "tcp 198.51.100.2:PORT to 198.51.100.1:80");
    assert_eq!(normal_line("\"pid\": 4711, 200 in 0.12 s"), "\"pid\": NUMBER, 200 in NUMBER s");
    assert_eq!(normal_line("Its process is 4711. 3 flows"), "Its process is NUMBER. 3 flows");
}
