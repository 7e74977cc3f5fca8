//! Positions to the column, and files that are built to hurt.

use super::*;
use crate::config::file::MAX_SIZE;

/// The position of the value, or with a `true` of the key, at a path of a text.
fn at(text: &str, path: &[u32], key: bool) -> Option<(usize, usize)> {
    parse(text).expect("good YAML");
    locate(text, &[Place { path: path.to_vec(), key }])[0].map(|at| (at.line, at.column))
}

#[test]
fn positions_of_values() {
    let block = "# comment\nversion: v1\ntargets:\n  - name: a\n    kind: \"x:y\"\n  - name: b\n";
    for (text, path, expected) in [
        (block, &[][..], (2, 1)),
        (block, &[0], (2, 10)),
        (block, &[1], (4, 5)),
        (block, &[1, 0], (4, 5)),
        (block, &[1, 0, 1], (5, 11)),
        (block, &[1, 1, 0], (6, 11)),
        // Windows line ends, characters of more than one byte, a byte order mark.
        ("a: 1\r\nb: 2\r\n", &[1], (2, 4)),
        ("é: {ü: ß, x: y}\n", &[0, 1], (1, 14)),
        ("\u{feff}a: 1\n", &[0], (1, 4)),
        // Flow style, over more than one line, and with empty values.
        ("a: [1, {b: 2}]\n", &[0, 1, 0], (1, 12)),
        ("{a: 1,\n  b: [2,\n 3]}\n", &[1, 1], (3, 2)),
        ("a: {}\n", &[0], (1, 4)),
        ("a:\n  - {}\n  - []\n", &[0, 0], (2, 5)),
        ("a:\n  - {}\n  - []\n", &[0, 1], (3, 5)),
        ("a: [[[]]]\n", &[0, 0, 0], (1, 6)),
        ("- []\n- x\n", &[], (1, 1)),
        // Nothing at all.
        ("a:\nb: 1\n", &[0], (1, 3)),
        ("", &[], (1, 1)),
        // Every kind of scalar.
        ("a: 'x'\n", &[0], (1, 4)),
        ("a: |\n  text\n", &[0], (1, 4)),
        ("a: >-\n  text\nb: 1\n", &[1], (3, 4)),
        ("a: multi\n  line\nb: true\n", &[1], (3, 4)),
        ("a: 1.5\nb: -1\nc: 99999999999999999999999\n", &[2], (3, 4)),
        ("scalar\n", &[], (1, 1)),
        ("? a\n: 1\n", &[0], (2, 3)),
        // What an alias stands for is where the anchor is.
        ("a: &x 1\nb: *x\n", &[1], (1, 4)),
        ("a: &x {y: 1}\nb: *x\nc: 3\n", &[1, 0], (1, 11)),
        ("a: &x {y: 1}\nb: *x\nc: 3\n", &[2], (3, 4)),
        // Merged entries are where the mapping is that they are merged into.
        ("a: &x {y: 1}\nb:\n  <<: *x\n  z: 2\n", &[1, 2], (3, 3)),
        ("a: &x {y: 1}\nb:\n  <<: *x\n  z: 2\n", &[1, 1], (4, 6)),
    ] {
        assert_eq!(at(text, path, false), Some(expected), "{path:?} in {text:?}");
    }
}

/// proxygwctl reads a part of the file only, and reports problems with their places in all of it.
#[test]
fn a_walk_ends_at_an_error_of_syntax() {
    let first = Some(Position { line: 1, column: 4 });
    for text in
        ["a: 1\nb:\n  - c: x\n     y\n    z: [\n", "a: 1\nb: [1, {c: 2]]\n", "a: 1\nb:\n- c\n d: e\n", "a: 1\nb: *x\n"]
    {
        let places = [vec![0], vec![1, 0], vec![1, 0, 0], vec![1, 7]].map(|path| Place { path, key: false });
        assert_eq!(locate(text, &places)[0], first, "{text:?}");
    }
}

#[test]
fn positions_of_keys() {
    for (text, path, expected) in [
        ("a: 1\n\"b\": 2\n", &[1][..], (2, 1)),
        ("a:\n  - b: 1\n    c: 2\n", &[0, 0, 1], (3, 5)),
        ("{a: 1, b: []}\n", &[1], (1, 8)),
        ("? a\n: 1\n", &[0], (1, 3)),
    ] {
        assert_eq!(at(text, path, true), Some(expected), "{path:?} in {text:?}");
    }
}

/// Every place of a document at once is what each is alone. A mapping may be where it begins or where its first key is.
#[test]
fn many_places_in_one_walk() {
    let text = "a: [1, {b: 2, c: [x, y]}, z]\nd: {e: {}, f: []}\ng: []\nh: {i: j}\n";
    let mut places = Vec::new();
    collect(&parse(text).expect("good YAML"), &mut Vec::new(), &mut places);
    places.reverse();
    let together = locate(text, &places.iter().map(|(place, _)| place.clone()).collect::<Vec<_>>());
    for ((place, leaf), found) in places.iter().zip(together) {
        let alone = locate(text, std::slice::from_ref(place))[0];
        assert_eq!(alone.map(|at| at.line), found.map(|at| at.line), "{place:?}");
        assert!(!leaf || alone == found, "{place:?}: {alone:?} and {found:?}");
    }
}

/// All places of a tree, and whether they are keys or have nothing in them.
fn collect(node: &Node, path: &mut Vec<u32>, places: &mut Vec<(Place, bool)>) {
    let (children, map): (Vec<&Node>, bool) = match node {
        Node::Seq(elements) => (elements.iter().collect(), false),
        Node::Map(entries) => (entries.iter().map(|(_, value)| value).collect(), true),
        _ => (Vec::new(), false),
    };
    places.push((Place { path: path.clone(), key: false }, children.is_empty()));
    for (index, child) in children.into_iter().enumerate() {
        path.push(index as u32);
        if map {
            places.push((Place { path: path.clone(), key: true }, true));
        }
        collect(child, path, places);
        path.pop();
    }
}

#[test]
fn merges_are_those_of_yaml_1_1() {
    let node = parse("a: &a {x: 1, y: 1}\nb: &b {y: 2, z: 2}\nc:\n  z: 3\n  <<: [*a, *b]\n").expect("good YAML");
    let merged = node.get("c").expect("c");
    for (key, value) in [("x", 1), ("y", 1), ("z", 3)] {
        assert_eq!(merged.get(key), Some(&Node::Int(value)), "{key}");
    }
}

/// The place and the text of what is wrong.
fn wrong(text: &str) -> (Option<(usize, usize)>, String) {
    let invalid = parse(text).expect_err("bad YAML");
    (invalid.at.map(|at| (at.line, at.column)), invalid.what)
}

#[test]
fn what_is_no_yaml_is_refused_with_its_place() {
    for (text, at, what) in [
        ("a: 1\nb: 2\na: 3\n", Some((3, 1)), r#"duplicate key "a""#),
        ("a:\n  - b: 1\n    b: 2\n", Some((3, 5)), r#"a[0]: duplicate key "b""#),
        (
            "a:\n\t- b\n",
            Some((2, 1)),
            "found character that cannot start any token, while scanning for the next token (this is a tab: indent with spaces)",
        ),
        ("a: [1\n", Some((2, 1)), "did not find expected ',' or ']', while parsing a flow sequence at line 1 column 4"),
        ("a: !tag 1\n", Some((1, 4)), "a: tags (!name) are not supported: remove this one"),
        ("!x {}\n", Some((1, 1)), "tags (!name) are not supported: remove this one"),
        ("1: x\n", Some((1, 1)), "invalid type: integer `1`, expected a key that is a string: quote it"),
        ("a: *x\n", Some((1, 4)), "unknown anchor"),
        (
            "a: 1\n---\nb: 2\n",
            Some((3, 1)),
            "more than one document: remove the --- between them, or all but the first",
        ),
        ("a: \0\n", Some((1, 4)), "control character 0x00: remove it"),
        ("é: 1\nü: \u{7f}\n", Some((2, 4)), "control character 0x7f: remove it"),
        ("%TAG ! x\n---\na: 1\n", Some((1, 1)), "tags are not supported: remove this directive"),
        ("a: &a [*a]\n", Some((1, 4)), "nested too deeply: at most 128 levels"),
        ("a:\n  <<: 5\n", Some((2, 3)), "a: <<: a mapping is expected, found the number 5"),
    ] {
        assert_eq!(wrong(text), (at, what.to_owned()), "{text:?}");
    }
    let invalid = decode(b"a: 1\nb: \xc3\xa9\xff\n").expect_err("not UTF-8");
    assert_eq!(invalid.at, Some(Position { line: 2, column: 5 }));
}

/// The control client must reach the daemon while an operator edits the file.
#[test]
fn parts_can_be_read_from_a_broken_file() {
    let part = |text: &str| parse_only(text, &["version", "plugins"]);
    let head = "version: v1\nlog: {a: 1, a: 2}\nplugins: {ctl: {x: 1}}\n";
    let expected = parse("version: v1\nlog:\nplugins: {ctl: {x: 1}}\n").expect("good YAML");
    for tail in
        ["targets:\n  - a: [\n", "targets: *x\n", "targets: {a: 1, a: 2}\n", "a: !tag 1\n", "  x\n", "version: v2\n"]
    {
        let node = part(&format!("{head}{tail}")).expect(tail);
        for key in ["version", "plugins"] {
            assert_eq!(node.get(key), expected.get(key), "{key} before {tail:?}");
        }
    }
    let whole = part(&format!("{head}a: [1]\n")).expect("it can be skipped");
    assert_eq!((whole.get("plugins"), whole.get("a")), (expected.get("plugins"), None));
    assert_eq!(part("version: v1\n"), parse("version: v1\n"));
    assert_eq!(part("- version: v1\n"), parse("- version: v1\n"));
    for (text, line) in [
        ("version: v1\ntargets: [\nplugins: {}\n", 4),
        ("version: v1\na: b: c\n", 2),
        ("version: v1\nplugins: {a: 1, a: 1}\n", 2),
        ("version: v1\nversion: v1\nplugins: {}\n", 2),
    ] {
        assert_eq!(part(text).expect_err(text).at.map(|at| at.line), Some(line), "{text:?}");
    }
}

/// As many repetitions as a file can have.
fn full(unit: &str) -> String {
    unit.repeat(MAX_SIZE / unit.len())
}

#[test]
fn hostile_files_are_refused_at_once() {
    let laughs = (0..40).fold("a0: &a0 [x, x]\n".to_owned(), |text, i| {
        text + &format!("a{}: &a{} [*a{i}, *a{i}, *a{i}, *a{i}, *a{i}, *a{i}, *a{i}, *a{i}]\n", i + 1, i + 1)
    });
    let copies = format!("a: &a {}\nb: [{}]\n", "x".repeat(1 << 20), "*a, ".repeat(100_000));
    for (name, text) in [
        ("brackets", full("[")),
        ("mappings", full("{a: ")),
        ("dashes", full("- ")),
        ("questions", full("? ")),
        ("dashes in turn", full(&("- ".repeat(500) + "\n"))),
        ("commas", format!("[{}]", full("a,"))),
        ("brackets in turn", full("[[[[[[[[]]]]]]]],")),
        ("keys", full("a: 1\n")),
        ("laughs", laughs),
        ("copies", copies),
        ("unclosed quote", format!("\"{}", full("x"))),
        ("anchors", full("&a ")),
        ("tags", format!("%TAG !a! {}\n---\n", "x".repeat(1 << 20)) + &full("- !a!x\n")),
        ("deep block", (0..3000).map(|depth| " ".repeat(depth) + "a:\n").collect()),
    ] {
        let result = parse(&text);
        assert!(result.is_err(), "{name}");
        let what = result.map(|_| ()).expect_err("just checked").what;
        assert!(what.len() < 1000, "{name}: {what}");
    }
}

#[test]
fn large_but_plain_files_are_read() {
    for (name, text) in [
        ("comment", full("# a comment without end\n")),
        ("blank lines", full("\n")),
        ("text", format!("a: |\n{}", full("  some words here\n"))),
        ("quoted", format!("a: \"{}\"\n", "x".repeat(MAX_SIZE - 10))),
        ("number", format!("a: {}\n", "9".repeat(MAX_SIZE - 10))),
        ("many values", format!("[{}]", "a,".repeat(MAX_VALUES - 3))),
        ("dashes in a text", format!("a: {}\n", "b - ".repeat(100_000))),
        ("many keys", (0..100_000).map(|key| format!("k{key}: 1\n")).collect()),
    ] {
        assert!(parse(&text).is_ok(), "{name}");
    }
}

#[test]
fn limits_of_the_scan_are_exact() {
    let scan = |text: &str| scan::check(text).map_err(|invalid| invalid.what);
    let deep = Err("nested too deeply".to_owned());
    assert_eq!(scan(&"[".repeat(512)), Ok(()));
    assert_eq!(scan(&"{".repeat(513)), deep);
    assert_eq!(scan(&"[]".repeat(513)), Ok(()));
    assert_eq!(scan(&"- ".repeat(512)), Ok(()));
    assert_eq!(scan(&"- ".repeat(513)), deep);
    assert_eq!(scan(&"- ? ".repeat(257)), deep);
    assert_eq!(scan(&"- \n".repeat(513)), Ok(()));
    assert_eq!(scan(&"-x".repeat(513)), Ok(()));
    assert_eq!(scan(&format!("a {}", "- ".repeat(513))), Ok(()));
    for unit in [",", ":", "?", "*", "&", "[]", "{}", "a - "] {
        let many = unit.repeat(MAX_VALUES - 1);
        assert_eq!(scan(&many), Ok(()), "{unit}");
        assert_eq!(
            scan(&(many + unit)),
            Err("more than 1000000 values: too many for a configuration".to_owned()),
            "{unit}"
        );
    }
    assert_eq!(scan("a: %TAG\n\t\r"), Ok(()));
    let invalid = scan::check("a\n\u{e9}\u{1}").expect_err("a control character");
    assert_eq!(invalid.at, Some(Position { line: 2, column: 2 }));
}

#[test]
fn aliases_are_counted_as_what_they_stand_for() {
    let list = |values: usize| format!("a: &a [{}]\nb: [{}]\n", "x,".repeat(998), "*a,".repeat(values));
    assert!(parse(&list(999)).is_ok());
    let invalid = parse(&list(1000)).expect_err("too many values");
    assert!(invalid.what.contains("more than 1000000 values"), "{}", invalid.what);
    let text = |copies: usize| format!("a: &a {}\nb: [{}]\n", "x".repeat(1 << 20), "*a,".repeat(copies));
    assert!(parse(&text(30)).is_ok());
    assert!(parse(&text(32)).is_err());
}

#[test]
fn numbers_keep_their_type() {
    let node =
        parse("[0, -5, 9223372036854775807, 9223372036854775808, 1.5, true, ~, 0x10, 99999999999999999999999999]");
    let Ok(Node::Seq(values)) = node else { panic!("a list") };
    let expected = [
        Node::Int(0),
        Node::Int(-5),
        Node::Int(i64::MAX),
        Node::Float(9223372036854775808.0),
        Node::Float(1.5),
        Node::Bool(true),
        Node::Null,
        Node::Int(16),
        Node::Float(1e26),
    ];
    assert_eq!(values, expected);
}

/// A list of keys is searched by a set once it is long.
#[test]
fn duplicate_keys_are_found_in_long_mappings() {
    for length in [15, 16, 17, 18, 100] {
        let keys: String = (0..length).map(|key| format!("k{key}: 1\n")).collect();
        assert!(parse(&keys).is_ok());
        for again in [0, length / 2, length - 1] {
            let what = parse(&format!("{keys}k{again}: 2\n")).expect_err("a duplicate").what;
            assert_eq!(what, format!("duplicate key \"k{again}\""), "{length}");
        }
    }
}
