//! Generates the registrations of the plugins in `plugins.yaml`, in its order.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs};

use serde_yaml::{Mapping, Value};

/// Maximum length of a namespace.
const MAX_NAME: usize = 64;

fn main() {
    if let Err(message) = generate() {
        // Cargo prints this as its own error and ends the build.
        println!("cargo::error={message}");
    }
}

fn generate() -> Result<(), String> {
    let here = env::var("CARGO_MANIFEST_DIR").map_err(|error| error.to_string())?;
    let out = env::var("OUT_DIR").map_err(|error| error.to_string())?;
    let root = Path::new(&here).join("../..");
    let (list, built_in, manifest) =
        (root.join("plugins.yaml"), root.join("src/plugins"), Path::new(&here).join("Cargo.toml"));
    for path in [&list, &built_in, &manifest] {
        println!("cargo::rerun-if-changed={}", path.display());
    }
    let list = fs::read_to_string(&list).map_err(|error| format!("plugins.yaml cannot be read: {error}"))?;
    let manifest =
        fs::read_to_string(&manifest).map_err(|error| format!("bin/proxygw/Cargo.toml cannot be read: {error}"))?;
    let code = registrations(&list, &manifest, |key| built_in.join(key).join("mod.rs").is_file())?;
    fs::write(Path::new(&out).join("plugins.rs"), code).map_err(|error| format!("cannot write plugins.rs: {error}"))
}

/// The function that registers the plugins of the list, or a message that names the fix.
pub fn registrations(list: &str, manifest: &str, is_built_in: impl Fn(&str) -> bool) -> Result<String, String> {
    let mut code = String::from("fn register(registry: &mut proxygw::plugin::Registry) {\n    let _ = &registry;\n");
    let mut owners = HashMap::new();
    for (key, namespace) in plugins(list)? {
        if !is_name(&namespace) {
            return Err(format!(
                "plugins.yaml: the namespace {namespace:?} of {key:?} is not a name: write a letter, then letters, digits, - \
                 or _, {MAX_NAME} at most"
            ));
        }
        if let Some(other) = owners.insert(namespace.clone(), key.clone()) {
            return Err(format!(
                "plugins.yaml: the namespace {namespace:?} is given to {other:?} and to {key:?}: each plugin needs its own"
            ));
        }
        let path = if is_name(&key) && is_built_in(&key) {
            format!("proxygw::plugins::r#{key}")
        } else if is_name(&key) && depends_on(manifest, &key) {
            key.replace('-', "_")
        } else {
            return Err(format!(
                "plugins.yaml: {key:?} is neither a folder below src/plugins/ nor a dependency of bin/proxygw/Cargo.toml: \
                 fix the key, or add the crate there"
            ));
        };
        // Writing to a string cannot fail.
        let _ = writeln!(code, "    registry.add({namespace:?}, {path}::plugin());");
    }
    code.push_str("}\n");
    Ok(code)
}

/// The keys and namespaces, in file order.
fn plugins(list: &str) -> Result<Vec<(String, String)>, String> {
    let document: Value = serde_yaml::from_str(list).map_err(|error| format!("plugins.yaml is not YAML: {error}"))?;
    let document = match document {
        Value::Mapping(document) => document,
        Value::Null => Mapping::new(),
        _ => {
            return Err(
                "plugins.yaml is not a mapping: write `plugins:` and below it each plugin's key and namespace".into()
            );
        }
    };
    if let Some(other) = document.keys().find(|key| key.as_str() != Some("plugins")) {
        return Err(format!("plugins.yaml: the key {} is unknown: its only key is `plugins`", shown(other)));
    }
    let Some(Value::Mapping(plugins)) = document.get("plugins") else {
        let what = if document.is_empty() { "is missing" } else { "is not a mapping" };
        return Err(format!("plugins.yaml: `plugins` {what}: write below it each plugin's key and namespace"));
    };
    let pair = |(key, namespace): (&Value, &Value)| match (key.as_str(), namespace.as_str()) {
        (Some(key), Some(namespace)) => Ok((key.to_owned(), namespace.to_owned())),
        (None, _) => Err(format!("plugins.yaml: the key {} is not a string: write a plugin's name", shown(key))),
        (_, None) => Err(format!(
            "plugins.yaml: the namespace of {} is not a string: write the name for configurations",
            shown(key)
        )),
    };
    plugins.iter().map(pair).collect()
}

/// A value as it may be written in the file.
fn shown(value: &Value) -> String {
    match value.as_str() {
        Some(text) => format!("{text:?}"),
        None => serde_yaml::to_string(value).unwrap_or_default().trim_end().replace('\n', " "),
    }
}

fn is_name(text: &str) -> bool {
    text.len() <= MAX_NAME
        && text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
}

/// Returns true if the manifest has the crate as a dependency: as `name = …`, `name.… = …` or `[dependencies.name]`.
fn depends_on(manifest: &str, name: &str) -> bool {
    let mut section = String::new();
    manifest.lines().map(|line| line.split('#').next().unwrap_or_default().trim()).any(|line| {
        if line.starts_with('[') {
            section = line.replace([' ', '"'], "");
            return section == format!("[dependencies.{name}]");
        }
        let rest = line.trim_start_matches('"').strip_prefix(name).map(|rest| rest.trim_start_matches(['"', ' ']));
        section == "[dependencies]" && rest.is_some_and(|rest| rest.starts_with(['=', '.']))
    })
}
