//! Kinds, options and sections of a plugin.

use super::*;
use crate::Error;
use crate::dataplane::plan::ColdPath;
use crate::plugin::{Namespace, Plugin, Target, TargetContext};

/// Has the target kinds `t` and `mute`, which rejects its options without a reason, and the frontend kind `f`.
struct Fake;

struct Backend;

impl Target for Backend {
    fn start(&mut self, _: &TargetContext) -> Result<(), Error> {
        Ok(())
    }

    fn stop(&mut self, _: &TargetContext) -> Result<(), Error> {
        Ok(())
    }
}

impl Plugin for Fake {
    fn load(&mut self, config: &mut Section<'_>, namespace: &mut Namespace) {
        config.optional::<u16>("port");
        namespace
            .target("t", |_, options| options.required::<u16>("size").map(|_| Box::new(Backend) as Box<dyn Target>));
        namespace.target("mute", |_, _| None);
        namespace.frontend("f", |_, options| {
            let keeps_warm = options.optional("warm").unwrap_or(false);
            Some(Frontend { cold: ColdPath::Drop, keeps_warm, handler: None })
        });
    }
}

fn parse_with_fake(text: &str) -> Result<Setup, String> {
    let mut registry = Registry::default();
    registry.add("fake", Box::new(Fake));
    parse("f", text, &mut registry).map_err(|error| error.to_string())
}

const GOOD: &str = "
version: v1
plugins: {fake: {port: 1}}
targets:
- {name: a, kind: fake:t, idle_timeout: 1m, endpoints: [{name: x, protocol: tcp, address: 10.0.0.1:1}], options: {size: 1}}
- {name: b, kind: fake:t, idle_timeout: 1m, endpoints: [{name: x, protocol: tcp, address: 10.0.0.2:1}], options: {size: 2}}
frontends:
- {name: f, kind: fake:f, listen: 10.0.0.9:1, flow_timeout: 1m, target: b, options: {warm: true}}
- {name: g, kind: fake:f, listen: 10.0.0.9:2, flow_timeout: 1m, target: a}
";

#[test]
fn each_target_and_frontend_has_an_id() {
    let setup = parse_with_fake(GOOD).expect("a good configuration");
    let [a, b] = &setup.targets[..] else { panic!("two targets") };
    let [f, g] = &setup.frontends[..] else { panic!("two frontends") };
    assert!(a.id != b.id && f.id != g.id);
    assert_eq!((f.target, g.target), (b.id, a.id));
    assert_eq!((f.keeps_warm, g.keeps_warm), (true, false));
    let plan = setup.plan();
    assert_eq!(plan.frontends.keys().copied().collect::<Vec<_>>(), [f.id, g.id]);
    assert_eq!((plan.frontends[&f.id].name.as_str(), plan.frontends[&f.id].target), ("f", b.id));
    assert!(format!("{setup:?}").contains("\"g\""));
}

#[test]
fn problems_of_plugins_are_listed() {
    for (good, bad, expected) in [
        ("{port: 1}", "{port: x}", r#"line 3: plugins.fake.port: a whole number is expected, found the string "x""#),
        ("{port: 1}", "{size: 1}", r#"line 3: plugins.fake: unknown key "size": known keys are port"#),
        ("{fake:", "{other: 1, fake:", r#"line 3: plugins: unknown plugin "other": this program has fake"#),
        ("{size: 2}", "{}", r#"line 6: targets[1] "b": options: size is missing: a whole number is required"#),
        (
            "fake:t, idle_timeout: 1m, endpoints: [{name: x, protocol: tcp, address: 10.0.0.1:1}], options: {size: 1}",
            "fake:mute, idle_timeout: 1m, endpoints: [{name: x, protocol: tcp, address: 10.0.0.1:1}]",
            r#"line 5: targets[0] "a": options: rejected by fake:mute without a reason"#,
        ),
        (
            "name: f, kind: fake:f",
            "name: f, kind: fake:t",
            r#"line 8: frontends[0] "f": kind: "fake:t" is a target kind: the frontend kinds are fake:f"#,
        ),
        (
            "name: b, kind: fake:t",
            "name: b, kind: fake:f",
            r#"line 6: targets[1] "b": kind: "fake:f" is a frontend kind: the target kinds are fake:mute and fake:t"#,
        ),
        (
            "name: b, kind: fake:t",
            "name: b, kind: x:t",
            r#"line 6: targets[1] "b": kind: unknown target kind "x:t": the target kinds are fake:mute and fake:t"#,
        ),
        ("warm: true", "cold: true", r#"line 8: frontends[0] "f": options: unknown key "cold": known keys are warm"#),
    ] {
        assert!(GOOD.contains(good), "{good}");
        let error = parse_with_fake(&GOOD.replacen(good, bad, 1)).expect_err(bad);
        let (place, message) = error.split_once(": ").expect("a place");
        let line = place.split(':').nth(1).expect("a line");
        assert_eq!(format!("line {line}: {message}"), expected, "{bad}");
    }
}
