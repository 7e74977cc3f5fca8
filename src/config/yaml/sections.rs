//! Finds a few sections of a large file by their indentation, without reading the others.

use std::collections::HashSet;

/// The sections of the topmost mapping that have these keys, as a text of their own. `None` if the file is not of the plain form
/// in which a section begins with its key at the beginning of a line and ends before the next one, or if they may refer to
/// others.
pub(super) fn only(text: &str, keys: &[&str]) -> Option<String> {
    let mut found = HashSet::new();
    let mut kept = String::new();
    let mut keep = false;
    for line in text.split_inclusive('\n') {
        let first = line.bytes().next()?;
        match first {
            b' ' | b'\t' | b'\r' | b'\n' | b'#' => {}
            // A list may stand as far to the left as its key.
            b'-' if line[1..].starts_with([' ', '\n', '\r']) && !found.is_empty() => {}
            _ => {
                let (key, rest) = line.split_once(':')?;
                let plain = key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
                let ends = rest.is_empty() || rest.starts_with([' ', '\t', '\n', '\r']);
                // Twice the same key is a mistake, or the inside of a text.
                if !plain || !ends || !found.insert(key) {
                    return None;
                }
                keep = keys.contains(&key);
            }
        }
        if keep {
            kept.push_str(line);
        }
    }
    // An alias could stand for what was left out.
    (!kept.contains('*')).then_some(kept)
}

#[cfg(test)]
mod tests {
    use super::only;

    #[test]
    fn sections_are_cut_out() {
        let text = "# head\nversion: v1\ntargets:\n- name: a\n  x: {y: 1}\n\nplugins:\n  ctl:\n    socket: /s\nfrontends: []\n";
        let cut = only(text, &["version", "plugins"]).expect("plain");
        assert_eq!(cut, "version: v1\nplugins:\n  ctl:\n    socket: /s\n");
        assert_eq!(only("version: v1", &["version"]).as_deref(), Some("version: v1"));
        assert_eq!(only("", &["version"]).as_deref(), Some(""));
    }

    #[test]
    fn what_is_not_plain_is_left_to_the_parser() {
        for text in [
            "{version: v1}",
            "---\nversion: v1\n",
            "\"version\": v1\n",
            "version: v1\nversion: v1\n",
            "version: v1\nplugins: *p\n",
            "a: \"text\nversion: v2\nmore\"\nversion: v1\n",
            "- a\n",
            "version:v1\n",
            "? version\n: v1\n",
            "%YAML 1.2\n",
        ] {
            assert_eq!(only(text, &["version", "plugins"]), None, "{text}");
        }
    }
}
