//! An element of `targets`, `endpoints` or `frontends`.

use std::collections::HashMap;

use super::Section;
use super::suggest::quoted;
use super::yaml::Place;

/// An element whose own keys have been read. What its plugin reads follows.
pub(crate) struct Element<'a, S> {
    /// Complete; a placeholder stands where something is wrong.
    pub(crate) spec: S,
    /// The element. All its keys have been read.
    pub(crate) section: Section<'a>,
    /// `options`, unread; `None` if the kind is missing or wrong.
    pub(crate) options: Option<Section<'a>>,
}

/// The names in a list so far.
pub(super) struct Names<'a> {
    list: &'static str,
    first: HashMap<&'a str, (usize, Place)>,
}

impl<'a> Names<'a> {
    pub(super) fn of(list: &'static str) -> Names<'a> {
        Names { list, first: HashMap::new() }
    }

    /// Adds the name of the element at `index`, or reports that an earlier element has it.
    pub(super) fn add(&mut self, index: usize, section: &mut Section<'a>) {
        let Some(name) = section.name() else { return };
        if let Some((other, place)) = self.first.get(name) {
            let message = format!("{} is already the name of {}[{other}]: names are unique", quoted(name), self.list);
            section.problem_about("name", message, Some(place.clone()));
        } else {
            self.first.insert(name, (index, section.place("name")));
        }
    }
}
