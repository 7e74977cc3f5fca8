//! Values in order of age, under small keys that are reused.
//!
//! The keys of the reactor are `usize`. A count of all connections would wrap on 32 bits, collide with the keys of the
//! listeners, and put the newest connection first. Age is a `u64` here, which never wraps.

use std::collections::BTreeMap;

/// A collection that assigns keys. Every operation costs at most the logarithm of the number of values.
pub(super) struct Aged<T> {
    /// By key, with the age: a smaller number is older.
    slots: Vec<Option<(u64, T)>>,
    free: Vec<usize>,
    /// By age.
    keys: BTreeMap<u64, usize>,
    next_age: u64,
}

impl<T> Aged<T> {
    /// An empty collection.
    pub(super) fn new() -> Aged<T> {
        Aged { slots: Vec::new(), free: Vec::new(), keys: BTreeMap::new(), next_age: 0 }
    }

    /// Number of values.
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// Key of the next value. Smaller than the largest number of values that were there at once.
    pub(super) fn next_key(&self) -> usize {
        self.free.last().copied().unwrap_or(self.slots.len())
    }

    /// Adds the youngest value and returns its key.
    pub(super) fn insert(&mut self, value: T) -> usize {
        let (key, age) = (self.next_key(), self.next_age);
        self.next_age += 1;
        match self.free.pop() {
            Some(_) => self.slots[key] = Some((age, value)),
            None => self.slots.push(Some((age, value))),
        }
        self.keys.insert(age, key);
        key
    }

    /// Value of a key.
    pub(super) fn get_mut(&mut self, key: usize) -> Option<&mut T> {
        self.slots.get_mut(key)?.as_mut().map(|(_, value)| value)
    }

    /// Removes the value of a key.
    pub(super) fn remove(&mut self, key: usize) -> Option<T> {
        let (age, value) = self.slots.get_mut(key)?.take()?;
        self.keys.remove(&age);
        self.free.push(key);
        Some(value)
    }

    /// Key and value of the oldest.
    pub(super) fn oldest(&self) -> Option<(usize, &T)> {
        self.iter().next()
    }

    /// Keys and values, the oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, &T)> {
        self.keys.values().filter_map(|key| Some((*key, &self.slots.get(*key)?.as_ref()?.1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Inserts and removes at random, compared with a plain list of (key, value), the oldest first.
    #[test]
    fn keys_are_reused_and_age_keeps_its_order() {
        let (mut aged, mut model) = (Aged::new(), Vec::<(usize, u32)>::new());
        let (mut random, mut most) = (1_u32, 0);
        for value in 0..20_000 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let pick = (random >> 16) as usize;
            if model.len() < 8 && pick % 5 < 3 {
                let expected = aged.next_key();
                let key = aged.insert(value);
                assert_eq!(key, expected);
                assert!(model.iter().all(|(other, _)| *other != key), "key {key} is in use");
                model.push((key, value));
            } else if !model.is_empty() {
                let (key, value) = model.remove(pick % model.len());
                assert_eq!(aged.get_mut(key), Some(&mut { value }));
                assert_eq!((aged.remove(key), aged.remove(key), aged.get_mut(key)), (Some(value), None, None));
            }
            most = most.max(model.len());
            assert!(model.iter().all(|(key, _)| *key < most), "{model:?}");
            assert_eq!(aged.iter().map(|(key, value)| (key, *value)).collect::<Vec<_>>(), model);
            assert_eq!((aged.len(), aged.oldest()), (model.len(), model.first().map(|(key, value)| (*key, value))));
        }
        assert_eq!(most, 8);
    }
}
