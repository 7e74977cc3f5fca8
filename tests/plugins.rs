//! Plugins at build time: builds the daemon with the plugin of tests/plugin-demo, as docs/plugins.md describes, and uses it.
//! Mistakes in plugins.yaml end the build with a message.

mod support;

// The build script's own source, so that its messages are tested without a build.
#[allow(dead_code)]
#[path = "../bin/proxygw/build.rs"]
mod build;

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use support::{Daemon, DaemonOptions, GATEWAY_V4, Lab, eventually, nft_ruleset, require_namespaces};

const SECOND: Duration = Duration::from_secs(1);

/// Parts of the workspace that a build needs.
const PARTS: [&str; 8] = [
    "Cargo.toml",
    "Cargo.lock",
    "plugins.yaml",
    "src",
    "bin",
    "docs/proxygw.8",
    "docs/proxygwctl.1",
    "tests/plugin-demo",
];

/// A copy of the workspace with the demo plugin. It is kept, so that the next run only builds changes.
struct Copy {
    root: PathBuf,
    target: PathBuf,
}

impl Copy {
    fn new() -> Copy {
        let base = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("plugin-test");
        let copy = Copy { root: base.join("proxygw"), target: base.join("target") };
        let source = Path::new(env!("CARGO_MANIFEST_DIR"));
        for part in PARTS {
            mirror(&source.join(part), &copy.root.join(part), &copy.edits(part));
        }
        copy
    }

    /// Changes of the workspace that docs/plugins.md describes: the dependency and the key.
    fn edits(&self, part: &str) -> Vec<(&'static str, &'static str, &'static str)> {
        match part {
            "bin" => vec![(
                "proxygw/Cargo.toml",
                "[dependencies]\n",
                "[dependencies]\nproxygw-demo = { path = \"../../tests/plugin-demo\" }\n",
            )],
            "plugins.yaml" => vec![("", "plugins:\n", "plugins:\n  proxygw-demo: demo\n")],
            // A member here, so that its tests reuse the build.
            "Cargo.toml" => vec![("", "exclude = [\"tests/plugin-demo\"]\n", "")],
            _ => Vec::new(),
        }
    }

    fn cargo(&self, arguments: &[&str]) -> Output {
        Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args(arguments)
            .args(["--offline", "--color", "never"])
            .current_dir(&self.root)
            .env("CARGO_TARGET_DIR", &self.target)
            // Halves the build time.
            .env("CARGO_PROFILE_DEV_DEBUG", "0")
            .stdin(Stdio::null())
            .output()
            .expect("cargo runs")
    }
}

/// Makes a copy equal to its source, writing only differences. Keeps a lock file that cargo has changed.
fn mirror(source: &Path, copy: &Path, edits: &[(&str, &str, &str)]) {
    if source.is_file() {
        let mut content = fs::read(source).expect("a file of the workspace");
        for (_, from, to) in edits.iter().filter(|(path, ..)| path.is_empty()) {
            let text = String::from_utf8(content).expect("text");
            assert_eq!(text.matches(from).count(), 1, "{from:?} in {}", source.display());
            content = text.replace(from, to).into();
        }
        let locked = source.ends_with("Cargo.lock") && copy.exists();
        if !locked && fs::read(copy).ok().as_ref() != Some(&content) {
            fs::create_dir_all(copy.parent().expect("a folder")).expect("a folder below target/");
            fs::write(copy, content).expect("a file below target/");
        }
        return;
    }
    let names = |folder: &Path| -> Vec<_> {
        fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.file_name()).collect()
    };
    for name in names(source).iter().filter(|name| *name != "target") {
        let path = name.to_str().expect("a name");
        let below: Vec<_> = edits
            .iter()
            .filter_map(|(place, from, to)| {
                let rest = place.strip_prefix(path)?;
                Some((rest.strip_prefix('/').unwrap_or(rest), *from, *to))
            })
            .collect();
        mirror(&source.join(name), &copy.join(name), &below);
    }
    for name in names(copy).iter().filter(|name| !source.join(name).exists()) {
        let gone = copy.join(name);
        let _ = if gone.is_dir() { fs::remove_dir_all(&gone) } else { fs::remove_file(&gone) };
    }
}

#[track_caller]
fn succeeds(output: &Output) {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}\n{}", text(&output.stdout), text(&output.stderr));
}

/// One test, because there is one copy.
#[test]
fn daemon_is_built_with_a_plugin_crate() {
    let copy = Copy::new();

    // The failing build first, so that the last build is the good one.
    let list = copy.root.join("plugins.yaml");
    let good = fs::read_to_string(&list).expect("it has been copied");
    fs::write(&list, good.replace("proxygw-demo:", "proxygw-dmeo:")).expect("a file below target/");
    let output = copy.cargo(&["build", "--package", "proxygw-daemon"]);
    fs::write(&list, &good).expect("a file below target/");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{errors}");
    let message = "plugins.yaml: \"proxygw-dmeo\" is neither a folder below src/plugins/ nor a dependency of \
                    bin/proxygw/Cargo.toml: fix the key, or add the crate there";
    assert!(errors.lines().any(|line| line.starts_with("error: ") && line.ends_with(message)), "{errors}");

    succeeds(&copy.cargo(&["build", "--package", "proxygw-daemon"]));
    succeeds(&copy.cargo(&["test", "--package", "proxygw-demo"]));
    if require_namespaces() {
        knock_wakes_and_is_routed(copy.target.join("debug/proxygw"));
    }
}

const CONFIG: &str = "
targets:
  - name: host
    kind: demo:greeter
    idle_timeout: 1s
    endpoints: [{name: door, protocol: tcp, address: '127.0.0.1:19000'}]
    options: {greeting: welcome, boot: 300ms}
frontends:
  - name: door
    kind: demo:knock
    protocol: tcp
    listen: 0.0.0.0:7000
    flow_timeout: 1s
    target: host:door
    options: {secret: sesame}
";

fn knock_wakes_and_is_routed(program: PathBuf) {
    let lab = Lab::new();
    let plugins = serde_json::json!({"demo": {"timeout": "500ms"}});
    let options = DaemonOptions { program: Some(program), plugins, ..DaemonOptions::default() };
    let mut daemon = Daemon::start_with(&lab, CONFIG, options);
    let door = SocketAddr::new(GATEWAY_V4, 7000);
    let send = |text: &str| lab.client().run(|| send(door, text)).expect("a response");

    assert_eq!(send("status\n"), "inactive\n");
    assert_eq!(send("knock pumpkin\n"), "unknown command\n");
    assert_eq!(send(""), "", "the timeout of plugins.demo");
    assert_eq!(send(&"x".repeat(1000)), "");
    assert_eq!(daemon.target("host")["state"], "inactive");

    assert_eq!(send("knock sesame\n"), "starting, connect again\n");
    assert_eq!(daemon.target("host")["state"], "warming");
    let booted = daemon.await_target("host", "active", 5 * SECOND);
    assert!(booted > Duration::from_millis(100), "{booted:?}");
    let rules = nft_ruleset(&lab.gateway).expect("a table");
    assert!(
        rules.contains("tcp . 7000 : goto frontend-0") || rules.contains("tcp . 7000 : jump frontend-0"),
        "{rules}"
    );
    assert_eq!(send(""), format!("welcome, {}\n", Lab::client_v4(0)), "by the kernel, with the client's own address");
    assert_eq!(daemon.frontend("door")["kind"], "demo:knock");

    daemon.await_target("host", "inactive", 20 * SECOND);
    eventually("the frontend answers again", SECOND, || send("status\n") == "inactive\n");
    assert!(daemon.terminate().success());
    assert_eq!(nft_ruleset(&lab.gateway), None);
}

/// Sends a string and returns the response up to the end. A reset is an end, too.
fn send(address: SocketAddr, text: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, 5 * SECOND)?;
    stream.set_read_timeout(Some(5 * SECOND))?;
    stream.write_all(text.as_bytes())?;
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Err(error) if error.kind() != io::ErrorKind::ConnectionReset => Err(error),
        _ => Ok(String::from_utf8_lossy(&answer).into_owned()),
    }
}

const MANIFEST: &str = "
[package]
name = \"proxygw-daemon\"
[dependencies] # plugins
proxygw.workspace = true
one = \"1\"
two-b = { path = \"..\" }
# three = \"1\"
[dependencies.four]
version = \"1\"
[build-dependencies]
five = \"1\"
";

fn registrations(list: &str) -> Result<String, String> {
    build::registrations(list, MANIFEST, |key| ["ctl", "static"].contains(&key))
}

#[test]
fn plugins_are_registered_in_file_order() {
    let code = registrations("plugins: {two-b: B, static: a, one: c_1, ctl: ctl, four: d}").expect("it is good");
    let lines: Vec<_> = code.lines().filter(|line| line.contains("add")).map(str::trim).collect();
    let expected = [
        "registry.add(\"B\", two_b::plugin());",
        "registry.add(\"a\", proxygw::plugins::r#static::plugin());",
        "registry.add(\"c_1\", one::plugin());",
        "registry.add(\"ctl\", proxygw::plugins::r#ctl::plugin());",
        "registry.add(\"d\", four::plugin());",
    ];
    assert_eq!(lines, expected);
    assert!(registrations("plugins: {}").is_ok());
}

#[test]
fn mistakes_in_plugins_yaml_are_explained() {
    let neither = |key: &str| {
        format!(
            "plugins.yaml: \"{key}\" is neither a folder below src/plugins/ nor a dependency of bin/proxygw/Cargo.toml: \
             fix the key, or add the crate there"
        )
    };
    let name = |name: &str| {
        format!(
            "plugins.yaml: the namespace \"{name}\" of \"ctl\" is not a name: write a letter, then letters, digits, - or _, \
             64 at most"
        )
    };
    let long = "x".repeat(65);
    let list_of_long = format!("plugins: {{ctl: {long}}}");
    let missing = "plugins.yaml: `plugins` is missing: write below it each plugin's key and namespace".to_owned();
    let no_mapping =
        "plugins.yaml: `plugins` is not a mapping: write below it each plugin's key and namespace".to_owned();
    for (list, message) in [
        ("plugins: {nothing: x}", neither("nothing")),
        ("plugins: {three: x}", neither("three")),
        ("plugins: {five: x}", neither("five")),
        ("plugins: {tw: x}", neither("tw")),
        ("plugins: {../ctl: x}", neither("../ctl")),
        ("plugins: {'': x}", neither("")),
        ("plugins: {ctl: 'a:b'}", name("a:b")),
        ("plugins: {ctl: ''}", name("")),
        ("plugins: {ctl: 1a}", name("1a")),
        (&list_of_long, name(&long)),
        (
            "plugins: {ctl: a, static: a}",
            "plugins.yaml: the namespace \"a\" is given to \"ctl\" and to \"static\": each plugin needs its own".to_owned(),
        ),
        (
            "plugins: {ctl: 5}",
            "plugins.yaml: the namespace of \"ctl\" is not a string: write the name for configurations".to_owned(),
        ),
        (
            "plugins: {ctl: }",
            "plugins.yaml: the namespace of \"ctl\" is not a string: write the name for configurations".to_owned(),
        ),
        ("plugins: {5: a}", "plugins.yaml: the key 5 is not a string: write a plugin's name".to_owned()),
        ("", missing.clone()),
        ("# nothing\n", missing),
        ("plugins:", no_mapping.clone()),
        ("plugins: [ctl]", no_mapping),
        (
            "- ctl",
            "plugins.yaml is not a mapping: write `plugins:` and below it each plugin's key and namespace".to_owned(),
        ),
        (
            "plugins: {ctl: ctl}\nmore: 1",
            "plugins.yaml: the key \"more\" is unknown: its only key is `plugins`".to_owned(),
        ),
        (
            "plugins: {ctl: a, ctl: b}",
            "plugins.yaml is not YAML: plugins: duplicate entry with key \"ctl\" at line 1 column 10".to_owned(),
        ),
        (
            "plugins: {ctl: a",
            "plugins.yaml is not YAML: did not find expected ',' or '}' at line 2 column 1, while parsing a flow mapping at \
             line 1 column 10"
                .to_owned(),
        ),
    ] {
        assert_eq!(registrations(list), Err(message), "{list}");
    }
}

#[test]
fn document_shows_the_code_of_the_demo_plugin() {
    let read = |path: &Path| fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let sources = fs::read_dir("tests/plugin-demo/src").expect("the demo plugin");
    let sources: Vec<String> = sources.map(|entry| read(&entry.expect("an entry").path())).collect();
    let document = read(Path::new("docs/plugins.md"));
    let mut blocks = 0;
    for block in document.split("```rust\n").skip(1) {
        let block = block.split("```").next().unwrap_or_default();
        assert!(sources.iter().any(|source| source.contains(block)), "not in tests/plugin-demo/src:\n{block}");
        blocks += 1;
    }
    assert!(blocks >= 8, "{blocks} blocks");
    let manifest = document.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a manifest");
    assert!(read(Path::new("tests/plugin-demo/Cargo.toml")).contains(manifest), "{manifest}");
}
