//! The examples of the documentation that are whole configurations can be used as they are.

mod config_kinds;

use std::fs;

use config_kinds::parse;

#[test]
fn the_examples_of_the_documents_are_good() {
    let mut whole = 0;
    let folder = fs::read_dir("docs").expect("the documents").map(|entry| entry.expect("a document").path());
    for path in folder.filter(|path| path.extension().is_some_and(|kind| kind == "md")).chain(["README.md".into()]) {
        let document = fs::read_to_string(&path).expect("a document");
        for block in document.split("```yaml\n").skip(1) {
            let text = block.split("```").next().unwrap_or_default();
            if text.contains("version: v1") {
                whole += 1;
                parse(text).unwrap_or_else(|error| panic!("{}: {error}\n{text}", path.display()));
            }
        }
    }
    assert!(whole >= 4, "{whole} examples");
}

#[test]
fn the_examples_of_the_manual_page_are_good() {
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

/// Both documents name every key of the schema.
#[test]
fn no_key_is_forgotten() {
    let reference = fs::read_to_string("docs/configuration.md").expect("the reference");
    let manual = fs::read_to_string("docs/proxygw.yaml.5").expect("the manual page");
    for key in [
        "version",
        "log",
        "output",
        "level",
        "plugins",
        "targets",
        "frontends",
        "name",
        "kind",
        "idle_timeout",
        "endpoints",
        "protocol",
        "address",
        "readiness",
        "probe",
        "path",
        "deadline",
        "options",
        "listen",
        "flow_timeout",
        "target",
        "socket",
        "codec",
        "mode",
        "group",
        "command",
        "stop_grace",
        "content",
        "endpoint",
    ] {
        assert!(reference.contains(&format!("`{key}`")), "docs/configuration.md does not explain {key}");
        assert!(manual.contains(&format!(".B {key}\n")), "docs/proxygw.yaml.5 does not explain {key}");
    }
}
