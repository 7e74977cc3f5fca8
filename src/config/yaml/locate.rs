//! Search for the positions of some values of the tree.
//!
//! `serde_yaml` returns positions only in errors: an error of a visitor has the position of the visited value. After an
//! error at a key or a scalar the surrounding mapping or list can be read on, so one walk through the document finds any
//! number of positions. That of a mapping or a list is that of its first key or element; only an empty one ends the walk
//! with its error, so a few walks may be needed.

use std::cell::{Cell, RefCell};
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, EnumAccess, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::{Position, without_mark};

/// Maximum number of walks. Further empty mappings and lists have the position of what contains them.
const MAX_WALKS: usize = 16;

/// A value or a key in the tree.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Place {
    /// Path from the root: the index of an element or entry in each list or mapping on it.
    pub(crate) path: Vec<u32>,
    /// Whether it is the key of the last entry, not its value.
    pub(crate) key: bool,
}

/// Positions of some places, in their order. `None` for what the text does not have, such as merged entries, and for places
/// after an error of syntax.
pub(crate) fn locate(text: &str, places: &[Place]) -> Vec<Option<Position>> {
    let mut order: Vec<usize> = (0..places.len()).collect();
    order.sort_by_key(|index| &places[*index]);
    let found = RefCell::new(vec![None; places.len()]);
    let state = State { places, found, raised: Cell::new(false), ended: Cell::new(false) };
    for _ in 0..MAX_WALKS {
        state.ended.set(false);
        let start = order.iter().any(|index| places[*index].path.is_empty());
        let walk = Walk { state: &state, wanted: &order, depth: 0, start };
        let at = match walk.deserialize(serde_yaml::Deserializer::from_str(without_mark(text))) {
            Ok(at) => at,
            Err(error) => match state.caught(error) {
                Ok(at) => at,
                // The file may be broken after the part that was read.
                Err(_) => break,
            },
        };
        state.fill(walk.ending(0), at);
        if !state.ended.get() {
            break;
        }
        order.retain(|index| state.found.borrow()[*index].is_none());
    }
    state.found.into_inner()
}

/// Position of an error of [`State::raise`]. A visitor cannot know that the error is `serde_yaml`'s, only its message, which
/// omits the first column of the first line.
fn position(error: &impl fmt::Display) -> Position {
    let shown = error.to_string();
    let parse = || {
        let (line, column) = shown.rsplit_once(" at line ")?.1.split_once(" column ")?;
        Some(Position { line: line.parse().ok()?, column: column.parse().ok()? })
    };
    parse().unwrap_or(Position { line: 1, column: 1 })
}

struct State<'p> {
    places: &'p [Place],
    found: RefCell<Vec<Option<Position>>>,
    /// The current error was raised here, and is no error of syntax.
    raised: Cell<bool>,
    /// The walk ends with the position of an empty value.
    ended: Cell<bool>,
}

impl State<'_> {
    /// Raises an error with the position of the visited value.
    fn raise<T, E: Error>(&self) -> Result<T, E> {
        self.raised.set(true);
        Err(E::custom("here"))
    }

    /// Position of an error of [`State::raise`]. Any other error repeats itself, so it must end the walk.
    fn caught<E: fmt::Display>(&self, error: E) -> Result<Option<Position>, E> {
        if self.raised.take() { Ok(Some(position(&error))) } else { Err(error) }
    }

    /// Sets the position of those places that have none yet.
    fn fill<'i>(&self, places: impl Iterator<Item = &'i usize>, at: Option<Position>) {
        let mut found = self.found.borrow_mut();
        for index in places {
            found[*index] = found[*index].or(at);
        }
    }
}

/// Walks through one value. Returns the position of its first key or element, if wanted.
#[derive(Clone, Copy)]
struct Walk<'w> {
    state: &'w State<'w>,
    /// The sorted places that are this value or in it.
    wanted: &'w [usize],
    depth: usize,
    /// Whether the position of this value itself is wanted.
    start: bool,
}

impl<'w> Walk<'w> {
    /// The places that are in the child at `index`, or are its key.
    fn within(&self, index: usize) -> &'w [usize] {
        let step = |place: &usize| self.state.places[*place].path.get(self.depth).map(|step| *step as usize);
        let first = self.wanted.partition_point(|place| step(place).is_none_or(|step| step < index));
        let last = self.wanted.partition_point(|place| step(place).is_none_or(|step| step <= index));
        &self.wanted[first..last]
    }

    /// The places that end at this depth: this value itself, or its key.
    fn ending(&self, depth: usize) -> impl Iterator<Item = &'w usize> {
        let places = self.state.places;
        self.wanted.iter().filter(move |index| places[**index].path.len() == depth)
    }

    fn child(&self, wanted: &'w [usize], first: bool) -> Walk<'w> {
        let depth = self.depth + 1;
        let own = wanted.iter().any(|index| {
            let place = &self.state.places[*index];
            place.path.len() == depth && !place.key
        });
        Walk { state: self.state, wanted, depth, start: own || first }
    }
}

/// Raises the position of every type of scalar except null.
macro_rules! visit_scalars {
    () => {
        visit_scalars!(visit_bool: bool, visit_i64: i64, visit_i128: i128, visit_u64: u64, visit_u128: u128, visit_f64: f64, visit_str: &str);
    };
    ($($visit:ident: $scalar:ty),*) => {
        $(fn $visit<E: Error>(self, _: $scalar) -> Result<Self::Value, E> {
            self.state.raise()
        })*
    };
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = Option<Position>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<Position>, D::Error> {
        if self.wanted.is_empty() && !self.start {
            return deserializer.deserialize_ignored_any(IgnoredAny).map(|_| None);
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = Option<Position>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    visit_scalars!();

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        self.state.raise()
    }

    fn visit_none<E: Error>(self) -> Result<Self::Value, E> {
        self.state.raise()
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
        let mut start = None;
        for index in 0.. {
            let element = self.child(self.within(index), self.start && index == 0);
            let at = match access.next_element_seed(element) {
                Ok(None) if self.start && index == 0 => {
                    self.state.ended.set(true);
                    return self.state.raise();
                }
                Ok(None) => break,
                Ok(Some(at)) => at,
                Err(error) => self.state.caught(error)?,
            };
            self.state.fill(element.ending(element.depth), at);
            if self.state.ended.get() {
                return self.state.raise();
            }
            if index == 0 {
                start = at;
            }
        }
        Ok(start)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
        let mut start = None;
        for index in 0.. {
            let value = self.child(self.within(index), false);
            let first = index == 0;
            let key_at =
                match access.next_key_seed(Key { state: self.state, locate: first || !value.wanted.is_empty() }) {
                    Ok(None) if first && self.start => {
                        self.state.ended.set(true);
                        return self.state.raise();
                    }
                    Ok(None) => break,
                    Ok(Some(())) => None,
                    Err(error) => self.state.caught(error)?,
                };
            let keys = value.ending(value.depth).filter(|index| self.state.places[**index].key);
            self.state.fill(keys, key_at);
            let at = match access.next_value_seed(value) {
                Ok(at) => at,
                Err(error) => self.state.caught(error)?,
            };
            self.state.fill(value.ending(value.depth), at);
            if self.state.ended.get() {
                return self.state.raise();
            }
            if first {
                start = key_at;
            }
        }
        // Merged entries are not in this mapping's text.
        self.state.fill(self.wanted.iter(), start);
        Ok(start)
    }

    fn visit_enum<A: EnumAccess<'de>>(self, _access: A) -> Result<Self::Value, A::Error> {
        self.state.raise()
    }
}

/// Reads a key, or raises its position.
struct Key<'w> {
    state: &'w State<'w>,
    locate: bool,
}

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        if self.locate { deserializer.deserialize_any(self) } else { deserializer.deserialize_ignored_any(self) }
    }
}

impl<'de> Visitor<'de> for Key<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    visit_scalars!();

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        if self.locate { self.state.raise() } else { Ok(()) }
    }
}
