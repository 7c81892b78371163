//! Maps of a few entries.

/// A map in one piece of memory, which is no larger than its entries, in the order of the keys. A change costs as much as
/// there is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SortedMap<K, V>(Vec<(K, V)>);

impl<K, V> Default for SortedMap<K, V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<K: Ord, V> SortedMap<K, V> {
    /// Where a key is, or else would be.
    fn position(&self, key: &K) -> Result<usize, usize> {
        self.0.binary_search_by(|(known, _)| known.cmp(key))
    }

    /// The value of a key.
    pub fn get(&self, key: &K) -> Option<&V> {
        let (_, value) = self.0.get(self.position(key).ok()?)?;
        Some(value)
    }

    /// Whether there is this key.
    pub fn contains_key(&self, key: &K) -> bool {
        self.position(key).is_ok()
    }

    /// Gives a key a value, and returns the one that it had.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        match self.position(&key) {
            Ok(at) => self.0.get_mut(at).map(|(_, known)| std::mem::replace(known, value)),
            Err(at) => {
                self.0.reserve_exact(1);
                self.0.insert(at, (key, value));
                None
            }
        }
    }
}

impl<K, V> SortedMap<K, V> {
    /// The entries, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> + Clone {
        self.0.iter().map(|(key, value)| (key, value))
    }

    /// The keys, in their order.
    pub fn keys(&self) -> impl Iterator<Item = &K> + Clone {
        self.0.iter().map(|(key, _)| key)
    }

    /// The values, by key.
    pub fn values(&self) -> impl Iterator<Item = &V> + Clone {
        self.0.iter().map(|(_, value)| value)
    }

    /// The values, by key, to be changed.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.0.iter_mut().map(|(_, value)| value)
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes those out that are not to stay.
    pub fn retain(&mut self, mut stays: impl FnMut(&K, &V) -> bool) {
        self.0.retain(|(key, value)| stays(key, value));
    }
}

impl<K: Ord, V> FromIterator<(K, V)> for SortedMap<K, V> {
    /// Of those with one key, the last stays.
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut entries: Vec<_> = entries.into_iter().collect();
        entries.sort_by(|(one, _), (other, _)| one.cmp(other));
        entries.dedup_by(|later, former| {
            let is_same = later.0 == former.0;
            if is_same {
                std::mem::swap(later, former);
            }
            is_same
        });
        entries.shrink_to_fit();
        Self(entries)
    }
}

impl<K: Ord, V, const N: usize> From<[(K, V); N]> for SortedMap<K, V> {
    fn from(entries: [(K, V); N]) -> Self {
        entries.into_iter().collect()
    }
}

impl<K, V> IntoIterator for SortedMap<K, V> {
    type Item = (K, V);
    type IntoIter = std::vec::IntoIter<(K, V)>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Collected, inserted one by one, and thinned out, it is what any other map is.
        #[test]
        fn it_is_a_map(entries in vec((0..9_u8, any::<u8>()), 0..20), key in 0..9_u8) {
            let mut expected: BTreeMap<u8, u8> = entries.iter().copied().collect();
            let mut map: SortedMap<u8, u8> = entries.iter().copied().collect();
            let mut inserted = SortedMap::default();
            let mut before = BTreeMap::new();
            for (key, value) in entries {
                prop_assert_eq!(inserted.insert(key, value), before.insert(key, value));
            }
            prop_assert_eq!(&inserted, &map);
            prop_assert_eq!(map.get(&key), expected.get(&key));
            prop_assert_eq!(map.contains_key(&key), expected.contains_key(&key));
            map.retain(|known, _| *known != key);
            expected.remove(&key);
            prop_assert_eq!((map.len(), map.is_empty()), (expected.len(), expected.is_empty()));
            prop_assert!(map.iter().eq(&expected) && map.keys().eq(expected.keys()) && map.values().eq(expected.values()));
            prop_assert!(map.into_iter().eq(expected));
        }
    }
}
