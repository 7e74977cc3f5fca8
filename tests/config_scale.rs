//! Ten thousand of everything.

mod config_kinds;

use std::fmt::Write;

use config_kinds::parse;

const MANY: usize = 10_000;

/// A file with many targets and frontends, and a frontend of its own at the end.
fn file(last: &str) -> String {
    let mut text = "version: v1\ntargets:\n".to_owned();
    for i in 0..MANY {
        let (high, low) = (i / 250, i % 250 + 1);
        write!(
            text,
            "  - name: target-{i}\n    kind: static:cmd\n    idle_timeout: 5m\n    endpoints:\n      - name: http\n        \
             protocol: tcp\n        address: 10.0.{high}.{low}:8080\n    options:\n      \
             command: \"exec /usr/bin/backend --number {i}\"\n"
        )
        .expect("memory");
    }
    text += "frontends:\n";
    for i in 0..MANY {
        write!(
            text,
            "  - name: frontend-{i}\n    kind: static:always\n    protocol: tcp\n    listen: 192.0.{}.{}:80\n    \
             flow_timeout: 1m\n    target: target-{i}:http\n",
            i / 250,
            i % 250 + 1
        )
        .expect("memory");
    }
    text + last
}

#[test]
fn ten_thousand_targets_and_frontends() {
    let setup = parse(&file("")).expect("a good configuration");
    assert_eq!((setup.targets.len(), setup.frontends.len()), (MANY, MANY));
    let last = &setup.frontends[MANY - 1].spec;
    assert_eq!(last.endpoint.addresses[0].to_string(), "10.0.39.250:8080");
}

#[test]
fn a_mistake_at_the_end_is_found_with_its_place() {
    let last = "  - name: frontend-7\n    kind: static:always\n    protocol: tcp\n    listen: 0.0.0.0:80\n    flow_timeout: 1m\n    \
                target: target-0:https\n";
    let expected = [
        r#"f:150004:11: frontends[10000] "frontend-7": name: "frontend-7" is already the name of frontends[7]: names are unique (line 90046)"#,
        r#"f:150007:13: frontends[10000] "frontend-7": listen: 0.0.0.0:80/tcp overlaps with frontends[0] "frontend-0" on 192.0.0.1:80: a packet could go to either (line 90007)"#,
        r#"f:150009:13: frontends[10000] "frontend-7": target: the target "target-0" has no endpoint "https": it has http"#,
    ];
    assert_eq!(parse(&file(last)).map(|_| ()), Err(expected.join("\n")));
}
