//! One pinned map, typed.

use std::fmt::Debug;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd};

use bytemuck::Pod;

use super::error::MapError;
use super::raw::RawMap;

/// A map with keys `K` and values `V`, whose sizes have been compared with the kernel's.
#[derive(Debug)]
pub struct Map<K, V> {
    raw: RawMap,
    name: &'static str,
    /// How many values an entry has: 1, or one for each possible CPU.
    width: usize,
    types: PhantomData<fn(K, V)>,
}

impl<K: Pod + Debug, V: Pod> Map<K, V> {
    /// Takes a map whose type and sizes fit.
    pub(super) fn new(raw: RawMap, name: &'static str, width: usize) -> Self {
        Self { raw, name, width, types: PhantomData }
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// How many entries it has room for.
    pub fn capacity(&self) -> u32 {
        self.raw.capacity()
    }

    fn access(&self, action: &'static str, key: &K, source: io::Error) -> MapError {
        MapError::Access { action, map: self.name, entry: format!("{key:?}"), source }
    }

    /// The value of a key, if there is one. Of a map with a value for each CPU: all of them.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn get(&self, key: &K) -> Result<Option<Vec<V>>, MapError> {
        let mut values = vec![V::zeroed(); self.width];
        let found = self
            .raw
            .get(bytemuck::bytes_of(key), bytemuck::cast_slice_mut(&mut values))
            .map_err(|source| self.access("reading", key, source))?;
        Ok(found.then_some(values))
    }

    /// Writes an entry. Of a map with a value for each CPU: the same for all of them.
    ///
    /// # Errors
    /// [`MapError::Full`] when there is no room, [`MapError::Access`] when the kernel refuses.
    pub fn set(&self, key: &K, value: &V) -> Result<(), MapError> {
        let values = vec![*value; self.width];
        let written = self.raw.set(bytemuck::bytes_of(key), bytemuck::cast_slice(&values));
        written.map_err(|source| match source.raw_os_error() {
            Some(libc::E2BIG | libc::ENOSPC) => {
                MapError::Full { map: self.name, entry: format!("{key:?}"), capacity: self.capacity() }
            }
            _ => self.access("writing", key, source),
        })
    }

    /// Writes entries at once, in their order, to a map with one value an entry. False where the kernel cannot, or did not
    /// write them all: they are then to be written one by one, which tells what is wrong with which.
    pub(super) fn set_all(&self, keys: &[K], values: &[V]) -> bool {
        let count = keys.len();
        self.width == 1
            && values.len() == count
            && self.raw.set_all(bytemuck::cast_slice(keys), bytemuck::cast_slice(values), count).is_ok()
    }

    /// Removes an entry of a hash map. Nothing there: nothing to do.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn remove(&self, key: &K) -> Result<(), MapError> {
        self.raw.remove(bytemuck::bytes_of(key)).map_err(|source| self.access("removing", key, source))
    }

    /// Reads every entry. `each` gets the key and the values of all CPUs (one, where the map isn't per CPU).
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn for_each(&self, each: impl FnMut(K, &[V])) -> Result<(), MapError> {
        self.for_each_of_first(usize::MAX, each)
    }

    /// Reads so many entries, as [`Self::for_each`] does. Those of an array come in the order of their indexes, so it
    /// need not be read to its end for the few that are in use.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn for_each_of_first(&self, count: usize, mut each: impl FnMut(K, &[V])) -> Result<(), MapError> {
        let mut values = vec![V::zeroed(); self.width];
        let read = self.raw.for_each(count, |key, bytes| {
            // The bytes need not be aligned as the values are.
            bytemuck::cast_slice_mut::<V, u8>(&mut values).copy_from_slice(bytes);
            each(bytemuck::pod_read_unaligned(key), &values);
        });
        read.map_err(|source| MapError::Access {
            action: "reading",
            map: self.name,
            entry: "all entries".to_owned(),
            source,
        })
    }
}

impl<V: Pod> Map<u32, V> {
    /// Writes a range of an array.
    ///
    /// # Errors
    /// When the kernel refuses, or the range is not in the array. The beginning of the range may be written then.
    pub fn set_range(&self, first: u32, values: &[V]) -> Result<(), MapError> {
        if let [value] = values {
            return self.set(&first, value);
        }
        let keys: Vec<u32> = (first..).take(values.len()).collect();
        let written = self.raw.set_all(bytemuck::cast_slice(&keys), bytemuck::cast_slice(values), values.len());
        written.map_err(|source| self.access("writing from", &first, source))
    }
}

impl<K, V> AsFd for Map<K, V> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.raw.as_fd()
    }
}
