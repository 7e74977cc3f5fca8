//! Reads `plugins.yaml` and writes the registrations of the plugins that it names, in its order.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs};

use serde_yaml::{Mapping, Value};

fn main() {
    if let Err(message) = generate() {
        // Cargo prints this as an error of its own and ends the build.
        println!("cargo::error={message}");
    }
}

fn generate() -> Result<(), String> {
    let here = env::var("CARGO_MANIFEST_DIR").map_err(|error| error.to_string())?;
    let root = Path::new(&here).join("../..");
    let list = root.join("plugins.yaml");
    let built_in = root.join("src/plugins");
    for path in [&list, &built_in, &Path::new(&here).join("Cargo.toml")] {
        println!("cargo::rerun-if-changed={}", path.display());
    }
    let text = fs::read_to_string(&list).map_err(|error| format!("plugins.yaml cannot be read: {error}"))?;
    let manifest = fs::read_to_string(Path::new(&here).join("Cargo.toml")).map_err(|error| error.to_string())?;

    let mut code = String::from("fn register(registry: &mut proxygw::plugin::Registry) {\n");
    let mut namespaces = HashSet::new();
    for (key, namespace) in plugins(&text)? {
        if !is_name(&namespace) {
            return Err(format!(
                "plugins.yaml: the namespace {namespace:?} of {key:?} is not a name: write a lower-case letter, then letters, digits, - or _"
            ));
        }
        if !namespaces.insert(namespace.clone()) {
            return Err(format!("plugins.yaml: the namespace {namespace:?} is given twice: each plugin needs its own"));
        }
        let path = if is_name(&key) && built_in.join(&key).is_dir() {
            format!("proxygw::plugins::r#{key}")
        } else if depends_on(&manifest, &key) {
            key.replace('-', "_")
        } else {
            return Err(format!(
                "plugins.yaml: {key:?} is neither a folder below src/plugins/ nor a dependency of bin/proxygw/Cargo.toml: \
                 correct the key, or add the crate there"
            ));
        };
        // Writing to a string cannot fail.
        let _ = writeln!(code, "    registry.add({namespace:?}, {path}::plugin());");
    }
    code.push_str("}\n");
    let out = env::var("OUT_DIR").map_err(|error| error.to_string())?;
    fs::write(Path::new(&out).join("plugins.rs"), code).map_err(|error| format!("cannot write plugins.rs: {error}"))
}

/// The keys and namespaces, in file order.
fn plugins(text: &str) -> Result<Vec<(String, String)>, String> {
    let document: Mapping = serde_yaml::from_str(text).map_err(|error| format!("plugins.yaml: {error}"))?;
    if let Some(other) = document.keys().find(|key| key.as_str() != Some("plugins")) {
        return Err(format!("plugins.yaml: the key {other:?} is unknown: its only key is `plugins`"));
    }
    let Some(Value::Mapping(plugins)) = document.get("plugins") else {
        return Err("plugins.yaml: `plugins` is missing, or not a mapping from plugins to their namespaces".to_owned());
    };
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let pair = |(key, namespace): (&Value, &Value)| Some((text(key)?, text(namespace)?));
    plugins
        .iter()
        .map(|entry| {
            pair(entry).ok_or_else(|| format!("plugins.yaml: {entry:?} is not a plugin's key and its namespace"))
        })
        .collect()
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_')
}

/// Whether the manifest has the crate among its dependencies, as `name = …`, `name.… = …` or `[dependencies.name]`.
fn depends_on(manifest: &str, name: &str) -> bool {
    let mut section = "";
    manifest.lines().map(str::trim).any(|line| {
        if line.starts_with('[') {
            section = line;
            return line == format!("[dependencies.{name}]");
        }
        let rest = line.strip_prefix(name).map(str::trim_start);
        section == "[dependencies]" && rest.is_some_and(|rest| rest.starts_with(['=', '.']))
    })
}
