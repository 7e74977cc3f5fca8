//! The documents keep their word: whole configurations load with the daemon's own plugins, JSON is JSON, no key is
//! forgotten, links lead to a file and a heading, manual pages are well formed, and the table that is shown is the one in the kernel.

mod config_kinds;
mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use config_kinds::parse;
use serde_json::Value;
use support::{Daemon, Lab, nft, nft_ruleset, require_namespaces};

/// All documents in Markdown, with their texts.
fn documents() -> Vec<(PathBuf, String)> {
    let folder = fs::read_dir("docs").expect("the documents").map(|entry| entry.expect("a document").path());
    let pages = folder.filter(|path| path.extension().is_some_and(|kind| kind == "md"));
    let pages = pages.chain(["README.md".into(), "CHANGELOG.md".into(), "CONTRIBUTING.md".into()]);
    let read = |path: PathBuf| fs::read_to_string(&path).map(|text| (path, text)).expect("a document");
    pages.map(read).collect()
}

/// The blocks of a document that are fenced as of this language.
fn blocks<'t>(text: &'t str, language: &str) -> Vec<&'t str> {
    let fence = format!("```{language}\n");
    text.split(fence.as_str()).skip(1).map(|rest| rest.split("```").next().unwrap_or_default()).collect()
}

/// The one block of a document that is fenced as of this language.
fn block_of(path: &str, language: &str) -> String {
    let text = fs::read_to_string(path).expect("a document");
    let found = blocks(&text, language);
    assert_eq!(found.len(), 1, "{path}: {language}");
    found[0].to_owned()
}

#[test]
fn the_configurations_of_the_documents_are_good() {
    let mut whole = 0;
    for (path, text) in documents() {
        for block in blocks(&text, "yaml").into_iter().filter(|block| block.contains("version: v1")) {
            whole += 1;
            parse(block).unwrap_or_else(|error| panic!("{}: {error}\n{block}", path.display()));
        }
    }
    assert!(whole >= 6, "{whole} examples");
}

#[test]
fn the_configuration_of_the_manual_page_is_good() {
    let document = fs::read_to_string("docs/proxygw.yaml.5").expect("the manual page");
    let mut examples = 0;
    for block in document.split(".EX\n").skip(1) {
        let text = block.split(".EE").next().unwrap_or_default().replace("\\-", "-");
        if text.contains("version: v1") {
            examples += 1;
            parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        }
    }
    assert!(examples >= 1);
}

#[test]
fn the_json_of_the_documents_is_json() {
    let mut found = 0;
    for (path, text) in documents() {
        for block in blocks(&text, "json") {
            found += 1;
            for line in serde_json::Deserializer::from_str(block).into_iter::<Value>() {
                line.unwrap_or_else(|error| panic!("{}: {error}\n{block}", path.display()));
            }
        }
    }
    assert!(found >= 2, "{found} examples");
}

/// Every key of a value, with those of the values in it.
fn keys_of(value: &Value, keys: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => object.iter().for_each(|(key, value)| {
            keys.insert(key.clone());
            keys_of(value, keys);
        }),
        Value::Array(values) => values.iter().for_each(|value| keys_of(value, keys)),
        _ => {}
    }
}

/// The status of the documentation has exactly the keys that a daemon's has, and each is explained.
#[test]
fn the_status_that_is_shown_has_every_key() {
    if !require_namespaces() {
        return;
    }
    let text = fs::read_to_string("docs/status.md").expect("a document");
    let shown = blocks(&text, "json").into_iter().find(|block| block.contains("\"targets\"")).expect("a status");
    let (mut shown_keys, mut real_keys) = (BTreeSet::new(), BTreeSet::new());
    keys_of(&serde_json::from_str(shown).expect("JSON"), &mut shown_keys);
    let lab = Lab::new();
    let daemon = Daemon::start(&lab, FAILING);
    support::eventually("the target has failed", Duration::from_secs(10), || {
        let status = daemon.status();
        real_keys.clear();
        keys_of(&status, &mut real_keys);
        status["targets"][0].get("retry_in").is_some()
    });
    assert_eq!(shown_keys, real_keys);
    for key in real_keys {
        assert!(text.contains(&format!("`{key}`")), "docs/status.md does not explain {key}");
    }
}

/// A target that dies at once, behind a frontend that holds packets.
const FAILING: &str = "
targets:
  - name: backend
    kind: static:cmd
    idle_timeout: 1m
    endpoints: [{name: http, protocol: tcp, address: ['127.0.0.1:8080', '[::1]:8080']}]
    options: {command: exit 3}
frontends:
  - {name: awake, kind: static:always, protocol: tcp, listen: '0.0.0.0:81', flow_timeout: 1m, target: 'backend:http'}
  - {name: web, kind: packet:hold, protocol: tcp, listen: ['0.0.0.0:80', '[::]:80'], flow_timeout: 1m, target: 'backend:http'}
";

/// Reference and manual page name every key that the schema has.
#[test]
fn no_key_is_forgotten() {
    let schema = fs::read_to_string("configs/proxygw.schema.yaml").expect("the schema");
    let schema: Value = serde_yaml::from_str(&schema).expect("YAML");
    let mut keys = BTreeSet::new();
    properties_of(&schema, &mut keys);
    assert!(keys.len() > 35, "{keys:?}");
    let reference = fs::read_to_string("docs/configuration.md").expect("the reference");
    let manual = fs::read_to_string("docs/proxygw.yaml.5").expect("the manual page");
    for key in keys {
        assert!(reference.contains(&format!("`{key}`")), "docs/configuration.md does not explain {key}");
        let named = manual.contains(&format!(".B {key}\n")) || manual.contains(&format!(".BR {key} "));
        assert!(named, "docs/proxygw.yaml.5 does not explain {key}");
    }
}

/// The names of all properties in a schema.
fn properties_of(schema: &Value, keys: &mut BTreeSet<String>) {
    match schema {
        Value::Object(object) => {
            if let Some(Value::Object(properties)) = object.get("properties") {
                keys.extend(properties.keys().filter(|key| !key.starts_with('$')).cloned());
            }
            object.values().for_each(|value| properties_of(value, keys));
        }
        Value::Array(values) => values.iter().for_each(|value| properties_of(value, keys)),
        _ => {}
    }
}

#[test]
fn every_link_leads_to_a_file_and_a_heading() {
    for (path, text) in documents() {
        let folder = path.parent().unwrap_or(Path::new(""));
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") {
                continue;
            }
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let file = if file.is_empty() { path.clone() } else { folder.join(file) };
            assert!(file.exists(), "{}: {link}", path.display());
            if !heading.is_empty() {
                let text = fs::read_to_string(&file).expect("a document");
                assert!(anchors(&text).contains(heading), "{}: {link}", path.display());
            }
        }
    }
}

/// The anchors that a document's headings have.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    let is_kept = |letter: &char| letter.is_alphanumeric() || matches!(letter, ' ' | '-' | '_');
    headings
        .map(|heading| heading.to_lowercase().chars().filter(is_kept).collect::<String>().replace(' ', "-"))
        .collect()
}

/// Every path of the repository that a document names in backticks is there.
#[test]
fn every_path_that_is_named_exists() {
    let roots = ["src/", "bin/", "tests/", "contrib/", "configs/", "docs/"];
    for (path, text) in documents() {
        for word in text.split('`').skip(1).step_by(2) {
            let is_path = roots.iter().any(|root| word.starts_with(root)) && !word.contains([' ', '*', '…']);
            assert!(!is_path || Path::new(word).exists(), "{}: {word}", path.display());
        }
    }
}

#[test]
fn the_manual_pages_are_well_formed() {
    for page in ["docs/proxygw.8", "docs/proxygwctl.1", "docs/proxygw.yaml.5"] {
        let text = fs::read_to_string(page).expect("a manual page");
        let section = page.rsplit('.').next().expect("a section");
        let heading = text.lines().find(|line| line.starts_with(".TH ")).expect("a heading");
        assert_eq!(heading.split(' ').nth(2), Some(section), "{page}");
        for (name, section) in [("proxygw", "8"), ("proxygwctl", "1"), ("proxygw.yaml", "5")] {
            for wrong in ["1", "5", "8"].iter().filter(|other| **other != section) {
                assert!(!text.contains(&format!("{name} ({wrong})")), "{page}: {name}({wrong})");
                assert!(!text.contains(&format!("{name}({wrong})")), "{page}: {name}({wrong})");
            }
        }
        let groff = Command::new("groff").args(["-man", "-Tutf8", "-ww", page]).stdout(Stdio::null()).output();
        let output = groff.expect("groff runs: contrib/test installs it");
        assert!(output.status.success(), "{page}: {}", output.status);
        assert!(output.stderr.is_empty(), "{page}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// The table in the documentation is what nft lists of a daemon that runs the configuration beside it.
#[test]
fn the_table_that_is_shown_is_the_one_in_the_kernel() {
    if !require_namespaces() {
        return;
    }
    // Both are listed by the same nft, since versions differ in how they write.
    let shown = Lab::new();
    nft(&shown.gateway, &block_of("docs/architecture.md", "nft"));
    let shown = nft_ruleset(&shown.gateway).expect("the table of the document");

    let lab = Lab::new();
    let config = block_of("docs/architecture.md", "yaml");
    let config = config.split_once("targets:").expect("targets").1;
    let daemon = Daemon::start(&lab, &format!("targets:{config}"));
    daemon.await_target("awake", "active", Duration::from_secs(10));
    let real = nft_ruleset(&lab.gateway).expect("the table of the daemon");
    assert_eq!(shown, real, "docs/architecture.md shows another table than the kernel has:\n{real}");
}

/// All programs of a folder, as one text.
fn programs(folder: &Path) -> String {
    let mut text = String::new();
    for entry in fs::read_dir(folder).expect("programs") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            text += &programs(&path);
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            text += &fs::read_to_string(&path).expect("a program");
        }
    }
    text
}

/// The messages that troubleshooting explains are those of the programs, and its codes those of the doctor.
#[test]
fn troubleshooting_knows_the_messages_and_codes() {
    let document = fs::read_to_string("docs/troubleshooting.md").expect("a document");
    let programs = programs(Path::new("src"));
    let messages = document.lines().filter_map(|line| line.strip_prefix("- \"")?.split('"').next());
    let messages: Vec<&str> = messages.collect();
    assert!(messages.len() >= 7, "{messages:?}");
    for message in messages {
        assert!(programs.contains(message), "no program prints {message:?}");
    }
    let rows = document.lines().filter(|line| line.starts_with("| `") && !line.contains("| works |"));
    let shown: BTreeSet<&str> =
        rows.flat_map(|row| row.split('|').nth(1).unwrap_or_default().split('`').skip(1).step_by(2)).collect();
    assert!(shown.len() >= 25, "{shown:?}");
    for code in &shown {
        assert!(programs.contains(&format!("\"{code}\"")), "the doctor has no code {code}");
    }
    for kind in ["Finding::error(", "Finding::warning("] {
        let made =
            programs.split(kind).skip(1).filter_map(|rest| rest.trim_start().strip_prefix('"')?.split('"').next());
        for code in made.filter(|code| code.len() > 1) {
            assert!(shown.contains(code), "docs/troubleshooting.md does not explain {code}");
        }
    }
}
