//! The problems of a file: collected, located, sorted and bounded in number.

use std::cell::{Cell, RefCell};
use std::cmp::Ordering;
use std::fmt;

use super::yaml::{Invalid, Place, Position, locate};

/// Maximum number of problems that are shown. The others are counted.
const MAX_SHOWN: usize = 100;

/// Number of problems from which on those that will not be shown are dropped.
const MAX_KEPT: usize = 4 * MAX_SHOWN;

/// The problems of one file so far.
#[derive(Default)]
pub(crate) struct Problems {
    list: RefCell<Vec<Problem>>,
    /// Parts that may not work as intended.
    warnings: RefCell<Vec<Problem>>,
    dropped: Cell<usize>,
}

struct Problem {
    place: Place,
    text: String,
    /// Another place that the text names, whose line is appended.
    related: Option<Place>,
}

impl Problems {
    /// Adds a problem. The text begins with the element and the key.
    pub(crate) fn add(&self, place: Place, text: String, related: Option<Place>) {
        let mut list = self.list.borrow_mut();
        list.push(Problem { place, text, related });
        if list.len() >= MAX_KEPT {
            list.sort_by(by_place);
            self.dropped.set(self.dropped.get() + list.len() - MAX_SHOWN);
            list.truncate(MAX_SHOWN);
        }
    }

    /// Adds a warning. The file can be used anyway.
    pub(crate) fn warn(&self, place: Place, text: String) {
        let mut warnings = self.warnings.borrow_mut();
        if warnings.len() < MAX_SHOWN {
            warnings.push(Problem { place, text, related: None });
        }
    }

    /// The warnings in the order of the document, a line each.
    pub(crate) fn into_warnings(self, name: &str, text: &str) -> Vec<String> {
        let warnings = self.warnings.into_inner();
        let places: Vec<Place> = warnings.iter().map(|warning| warning.place.clone()).collect();
        if places.is_empty() {
            return Vec::new();
        }
        let positions = locate(text, &places);
        warnings.iter().zip(positions).map(|(warning, at)| line(name, at, &warning.text)).collect()
    }

    /// Whether there is no problem.
    pub(crate) fn is_empty(&self) -> bool {
        self.list.borrow().is_empty()
    }

    /// How many have been reported so far.
    pub(crate) fn count(&self) -> usize {
        self.list.borrow().len() + self.dropped.get()
    }

    /// The error that shows all problems with their positions.
    pub(crate) fn into_error(self, name: &str, text: &str) -> LoadError {
        let mut list = self.list.into_inner();
        list.sort_by(by_place);
        let more = self.dropped.get() + list.len().saturating_sub(MAX_SHOWN);
        list.truncate(MAX_SHOWN);

        let places: Vec<Place> = list.iter().map(|problem| problem.place.clone()).collect();
        let related: Vec<Place> = list.iter().filter_map(|problem| problem.related.clone()).collect();
        let positions = locate(text, &[places, related].concat());
        let (positions, related) = positions.split_at(list.len());

        let mut related = related.iter();
        let mut lines: Vec<(Option<Position>, String)> = list
            .into_iter()
            .zip(positions)
            .map(|(problem, at)| {
                let mut text = problem.text;
                if problem.related.is_some()
                    && let Some(Some(other)) = related.next()
                {
                    text += &format!(" (line {})", other.line);
                }
                (*at, text)
            })
            .collect();
        lines.sort_by_key(|(at, _)| at.map_or((usize::MAX, 0), |at| (at.line, at.column)));
        let mut lines: Vec<String> = lines.into_iter().map(|(at, text)| line(name, at, &text)).collect();
        if more > 0 {
            lines.push(format!("{name}: and {more} more"));
        }
        LoadError { lines }
    }
}

/// Order of the document. The sort is stable, so problems of one place stay in the order in which they were found.
fn by_place(a: &Problem, b: &Problem) -> Ordering {
    a.place.cmp(&b.place)
}

fn line(name: &str, at: Option<Position>, text: &str) -> String {
    match at {
        Some(Position { line, column }) => format!("{name}:{line}:{column}: {text}"),
        None => format!("{name}: {text}"),
    }
}

/// The problems of a configuration, one per line, in the order of the file:
/// `/etc/proxygw.yaml:12:5: frontends[0] "public-http": listen: port 0 is not a port: write one from 1 to 65535`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadError {
    lines: Vec<String>,
}

impl LoadError {
    /// At most a hundred problems, and a line that counts the others.
    pub fn lines(&self) -> &[String] {
        &self.lines
    }

    /// The file as a whole is unusable.
    pub(crate) fn file(name: &str, what: &str) -> LoadError {
        LoadError { lines: vec![line(name, None, what)] }
    }

    /// The file is no YAML.
    pub(crate) fn invalid(name: &str, invalid: &Invalid) -> LoadError {
        LoadError { lines: vec![line(name, invalid.at, &invalid.what)] }
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines.join("\n"))
    }
}

impl std::error::Error for LoadError {}
