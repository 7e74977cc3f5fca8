//! What a script can check of the language: the width of the documents, and expressions that no message contains.

use std::fs;
use std::path::PathBuf;

/// Columns of a line in a document.
const COLUMNS: usize = 100;

/// Expressions that no string of the programs and no document contains, as whole words.
const AVOIDED: [&str; 11] = [
    "mend",
    "mends",
    "nobody",
    "somebody",
    "everybody",
    "whoever",
    "anew",
    "at the most",
    "at the least",
    "not to be had",
    "in silence",
];

/// The files below a folder whose names end like this.
fn files(folder: &str, endings: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap_or_else(|error| panic!("{folder}: {error}")) {
        let path = entry.expect("an entry").path();
        let name = path.to_str().expect("UTF-8");
        if path.is_dir() {
            found.extend(files(name, endings));
        } else if endings.iter().any(|ending| name.ends_with(ending)) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The lines of a document that are too wide. Tables, fenced blocks and lines with an address of the web may be.
fn wide_lines(text: &str) -> Vec<(usize, &str)> {
    let mut is_fenced = false;
    let mut wide = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            is_fenced = !is_fenced;
        } else if !is_fenced && !line.starts_with('|') && !line.contains("://") && line.chars().count() > COLUMNS {
            wide.push((number + 1, line));
        }
    }
    wide
}

/// All documents.
fn documents() -> Vec<PathBuf> {
    let mut documents = files("docs", &[".md", ".1", ".5", ".8"]);
    documents.extend(["README.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(PathBuf::from));
    assert!(documents.len() >= 12, "{documents:?}");
    documents
}

/// What is quoted between backticks, such as an older message, may have them.
#[test]
fn documents_avoid_the_same_expressions() {
    let mut found = String::new();
    for path in documents() {
        let text = fs::read_to_string(&path).expect("a document");
        let prose: Vec<&str> = text.split('`').step_by(2).collect();
        let prose = words(&prose.join("`"));
        for avoided in AVOIDED.iter().filter(|avoided| prose.contains(&format!(" {avoided} "))) {
            found += &format!("{}: {avoided:?}\n", path.display());
        }
    }
    assert!(found.is_empty(), "{found}");
}

#[test]
fn documents_are_at_most_100_columns_wide() {
    let mut found = String::new();
    for path in documents() {
        let text = fs::read_to_string(&path).expect("a document");
        for (number, line) in wide_lines(&text) {
            found += &format!("{}:{number}: {line}\n", path.display());
        }
    }
    assert!(found.is_empty(), "more than {COLUMNS} columns:\n{found}");
}

/// The string literals of a program, each with its line, without those of its module of tests.
fn strings(text: &str) -> Vec<(usize, String)> {
    let text = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    let text: Vec<char> = text.chars().collect();
    let (mut at, mut line) = (0, 1);
    let mut found = Vec::new();
    while at < text.len() {
        let rest = &text[at..];
        let length = match rest {
            ['/', '/', ..] => rest.iter().position(|letter| *letter == '\n').unwrap_or(rest.len()),
            ['\'', '\\', _, ..] => 3,
            ['\'', _, '\'', ..] => 3,
            ['r', '"' | '#', ..] if is_raw(rest) && !text[..at].last().is_some_and(|last| last.is_alphanumeric()) => {
                let hashes = rest[1..].iter().take_while(|letter| **letter == '#').count();
                let end: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
                let body = &rest[hashes + 2..];
                let length = body.windows(end.len()).position(|part| *part == end).expect("the end of a raw string");
                found.push((line, body[..length].iter().collect()));
                hashes + 2 + length + end.len()
            }
            ['"', body @ ..] => {
                let mut length = 0;
                while body[length] != '"' {
                    length += if body[length] == '\\' { 2 } else { 1 };
                }
                found.push((line, body[..length].iter().collect()));
                length + 2
            }
            _ => 1,
        };
        line += rest[..length].iter().filter(|letter| **letter == '\n').count();
        at += length;
    }
    found
}

fn is_raw(rest: &[char]) -> bool {
    rest[1..].iter().find(|letter| **letter != '#') == Some(&'"')
}

/// The text as words between single spaces, so that an expression is found across a continued line.
fn words(text: &str) -> String {
    let text = text.replace("\\\n", " ").to_lowercase();
    let words: Vec<&str> =
        text.split(|letter: char| !letter.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
    format!(" {} ", words.join(" "))
}

#[test]
fn messages_avoid_certain_expressions() {
    let (mut found, mut read) = (String::new(), 0);
    for path in files("src", &[".rs"]).into_iter().chain(files("bin", &[".rs"])) {
        let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
        let is_test = name.ends_with("tests.rs") || path.components().any(|part| part.as_os_str() == "simulation");
        if is_test {
            continue;
        }
        for (line, string) in strings(&fs::read_to_string(&path).expect("a program")) {
            read += 1;
            let string = words(&string);
            for avoided in AVOIDED.iter().filter(|avoided| string.contains(&format!(" {avoided} "))) {
                found += &format!("{}:{line}: {avoided:?} in{string}\n", path.display());
            }
        }
    }
    assert!(read > 1000, "{read} strings");
    assert!(found.is_empty(), "{found}");
}

#[test]
fn strings_are_found_between_comments_and_characters() {
    let program = "// \"no\"\nlet a = '\"'; f(\"one\", b'\\'', r#\"two \"2\"\"#, &'a str, \"th\\\"ree\")\n#[cfg(test)]\nmod t { \"no\" }";
    let found: Vec<(usize, String)> =
        [(2, "one"), (2, "two \"2\""), (2, "th\\\"ree")].map(|(line, text)| (line, text.to_owned())).into();
    assert_eq!(strings(program), found);
    assert_eq!(words("Nobody,\\\n   though"), " nobody though ");
}

#[test]
fn wide_lines_are_found_outside_of_tables_and_blocks() {
    let wide = "x".repeat(COLUMNS + 1);
    let text = format!("| {wide}\n```text\n{wide}\n```\nhttps://{wide}\n{wide}\n{}", "x".repeat(COLUMNS));
    assert_eq!(wide_lines(&text), [(6, wide.as_str())]);
}
