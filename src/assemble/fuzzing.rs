//! The fuzz target of the configuration. See [`crate::fuzzing`].

use super::parse;
use crate::config::with_text_section;
use crate::plugin::Registry;
use crate::plugins::{ctl, packet, r#static};

/// Reads a configuration with the built-in plugins, as the daemon does, and its plugin section, as proxygwctl does.
///
/// # Panics
/// A message has no place in the text, has control characters, or there are more of them than promised.
pub fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut registry = Registry::default();
    registry.add("ctl", ctl::plugin());
    registry.add("static", r#static::plugin());
    registry.add("packet", packet::plugin());
    // YAML has more line ends than one, and a position can be behind the last of them.
    let lines = text.split(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}']).count() + 1;
    let check = |shown: &[String]| {
        assert!(shown.len() <= 101, "{} messages", shown.len());
        for message in shown {
            assert!(!message.contains(char::is_control), "{message:?}");
            let rest = message.strip_prefix("f:").expect("the name of the file");
            let number = rest.split(':').next().and_then(|digits| digits.parse::<usize>().ok());
            assert!(number.is_none_or(|line| (1..=lines).contains(&line)), "{message:?} of {lines} lines");
        }
    };
    match parse("f", text, &mut registry) {
        Ok(setup) => {
            check(&setup.warnings);
            for frontend in &setup.frontends {
                let target = setup.targets.iter().find(|target| target.id == frontend.target).expect("its target");
                assert_eq!(target.spec.name, frontend.spec.target);
                assert!(target.spec.endpoints.contains(&frontend.spec.endpoint));
            }
        }
        Err(error) => check(error.lines()),
    }
    let read = with_text_section("f", text, "ctl", ctl::settings::Settings::read);
    if let Err(error) = read {
        check(error.lines());
    }
}
