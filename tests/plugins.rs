//! Builds the daemon with a plugin crate of somebody else's, as `docs/plugins.md` says, and runs it.

mod support;

use std::fs;
use std::io::Read;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use support::{Daemon, DaemonOptions, GATEWAY_V4, Lab, require_namespaces};

const SECOND: Duration = Duration::from_secs(1);

/// A copy of the workspace, below the target folder so that its builds are kept for the next run.
struct Workspace {
    folder: PathBuf,
}

impl Workspace {
    fn copy() -> Workspace {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let folder = here.join("target/plugin-test");
        let files = Command::new("git").args(["ls-files", "-co", "--exclude-standard"]).current_dir(here).output();
        let files = files.expect("git runs");
        assert!(files.status.success(), "{}", String::from_utf8_lossy(&files.stderr));
        for name in String::from_utf8(files.stdout).expect("names").lines() {
            let (from, to) = (here.join(name), folder.join(name));
            let Ok(content) = fs::read(&from) else { continue };
            fs::create_dir_all(to.parent().expect("a folder")).expect("a folder");
            // What is unchanged is not built again.
            if fs::read(&to).ok().as_ref() != Some(&content) {
                fs::write(&to, content).expect("a copy");
            }
        }
        Workspace { folder }
    }

    /// Sets `plugins.yaml`, adds dependencies to the daemon's manifest, and builds.
    fn build(&self, plugins: &str, dependencies: &str) -> Output {
        fs::write(self.folder.join("plugins.yaml"), plugins).expect("it can be written");
        let manifest = self.folder.join("bin/proxygw/Cargo.toml");
        let original = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/bin/proxygw/Cargo.toml"));
        let own = "proxygw.workspace = true\n";
        let text = original.expect("a manifest").replacen(own, &format!("{own}{dependencies}"), 1);
        fs::write(manifest, text).expect("it can be written");
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(["build", "--offline", "-p", "proxygw-daemon"]).current_dir(&self.folder);
        cargo.env("CARGO_TARGET_DIR", self.folder.join("target")).env_remove("CARGO_BUILD_TARGET");
        cargo.output().expect("cargo runs")
    }
}

/// What a client is told.
fn hear(lab: &Lab) -> String {
    lab.client().run(|| {
        let mut stream = TcpStream::connect((GATEWAY_V4, 7777)).expect("somebody is there");
        stream.set_read_timeout(Some(10 * SECOND)).expect("a timeout");
        let mut words = String::new();
        stream.read_to_string(&mut words).expect("words");
        words
    })
}

const CONFIG: &str = "
targets:
  - name: backend
    kind: demo:thread
    idle_timeout: 1s
    endpoints: [{name: words, protocol: tcp, address: '127.0.0.1:7000'}]
    options: {answer: the backend}
frontends:
  - name: door
    kind: demo:knock
    protocol: tcp
    listen: 0.0.0.0:7777
    flow_timeout: 2s
    target: backend:words
    options: {greeting: the door}
";

/// One test, since the copy of the workspace is one.
#[test]
fn a_plugin_of_somebody_else_is_built_in_and_a_wrong_key_says_what_to_do() {
    if !require_namespaces() {
        return;
    }
    let workspace = Workspace::copy();
    let demo = "proxygw-demo = { path = \"../../tests/plugin-demo\" }\n";
    let wrong = [
        (
            "plugins: {ctl: ctl, proxygw-demo: demo}",
            "plugins.yaml: \"proxygw-demo\" is neither a folder below src/plugins/ nor a dependency of bin/proxygw/Cargo.toml: \
             correct the key, or add the crate there",
        ),
        ("plugins: {ctl: a, static: a}", "the namespace \"a\" is given twice: each plugin needs its own"),
        ("plugins: {ctl: 'a b'}", "the namespace \"a b\" of \"ctl\" is not a name"),
        ("plugin: {ctl: ctl}", "is unknown: its only key is `plugins`"),
        ("plugins: [ctl]", "`plugins` is missing, or not a mapping from plugins to their namespaces"),
        ("plugins: {ctl: ctl", "plugins.yaml: "),
    ];
    for (plugins, sentence) in wrong {
        let output = workspace.build(plugins, "");
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && words.contains(sentence), "{plugins}: {words}");
    }

    let output = workspace.build("plugins:\n  ctl: ctl\n  proxygw-demo: demo\n  static: static\n", demo);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lab = Lab::new();
    let options = DaemonOptions { program: Some(workspace.folder.join("target/debug/proxygw")), ..Default::default() };
    let mut daemon = Daemon::start_with(&lab, CONFIG, options);
    assert_eq!(hear(&lab), "the door\n");
    daemon.await_target("backend", "active", 10 * SECOND);
    assert_eq!(hear(&lab), "the backend\n");
    daemon.await_target("backend", "inactive", 20 * SECOND);
    assert_eq!(hear(&lab), "the door\n");
    assert_eq!(daemon.terminate().code(), Some(0));
}

#[test]
fn the_documentation_shows_the_code_that_is_tested() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(here.join("docs/plugins.md")).expect("docs/plugins.md");
    let files = ["Cargo.toml", "src/lib.rs", "src/knock.rs", "src/thread.rs"];
    let code: Vec<String> =
        files.map(|file| fs::read_to_string(here.join("tests/plugin-demo").join(file)).expect("the demo")).into();
    let mut blocks = 0;
    for block in page.split("\n```").skip(1).step_by(2) {
        let (language, text) = block.split_once('\n').expect("a block");
        if matches!(language, "rust" | "toml") && !text.contains("path = \"../my-plugin\"") {
            assert!(code.iter().any(|code| code.contains(text)), "not in the demo:\n{text}");
            blocks += 1;
        }
    }
    assert!(blocks >= 5, "{blocks} blocks");
}
