//! One pinned map, typed.

use std::fmt::Debug;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use bytemuck::Pod;

use super::error::MapError;
use super::sys::{self, Cursor, MapInfo};

/// How many elements are read by one call.
const BATCH: usize = 4096;

/// What an unsupported operation gives inside the kernel (`ENOTSUPP`), which some map types let out.
const ENOTSUPP: i32 = 524;

/// A map with keys `K` and values `V`, whose sizes have been compared with the kernel's.
#[derive(Debug)]
pub struct Map<K, V> {
    fd: OwnedFd,
    name: &'static str,
    info: MapInfo,
    /// How many values an entry has: 1, or one for each possible CPU.
    width: usize,
    types: PhantomData<fn(K, V)>,
}

impl<K: Pod + Debug, V: Pod> Map<K, V> {
    /// Takes a map whose type and sizes fit.
    pub(super) fn new(fd: OwnedFd, name: &'static str, info: MapInfo, width: usize) -> Self {
        Self { fd, name, info, width, types: PhantomData }
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// How many entries it has room for.
    pub fn capacity(&self) -> u32 {
        self.info.max_entries
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
        let found = sys::lookup(self.fd.as_fd(), bytemuck::bytes_of(key), bytemuck::cast_slice_mut(&mut values))
            .map_err(|source| self.access("reading", key, source))?;
        Ok(found.then_some(values))
    }

    /// Writes an entry. Of a map with a value for each CPU: the same for all of them.
    ///
    /// # Errors
    /// [`MapError::Full`] when there is no room, [`MapError::Access`] when the kernel refuses.
    pub fn set(&self, key: &K, value: &V) -> Result<(), MapError> {
        let values = vec![*value; self.width];
        sys::update(self.fd.as_fd(), bytemuck::bytes_of(key), bytemuck::cast_slice(&values)).map_err(|source| {
            match source.raw_os_error() {
                Some(libc::E2BIG | libc::ENOSPC) => {
                    MapError::Full { map: self.name, entry: format!("{key:?}"), capacity: self.info.max_entries }
                }
                _ => self.access("writing", key, source),
            }
        })
    }

    /// Removes an entry of a hash map. Nothing there: nothing to do.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn remove(&self, key: &K) -> Result<(), MapError> {
        sys::delete(self.fd.as_fd(), bytemuck::bytes_of(key))
            .map(drop)
            .map_err(|source| self.access("removing", key, source))
    }

    /// Reads every entry: by batches, or one by one where the kernel has no batches for this map. `each` gets
    /// the key and the values of all CPUs (one, where the map isn't per CPU).
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
        match self.by_batch(count, &mut each) {
            Err(error) if is_unsupported(&error) => self.one_by_one(count, &mut each),
            other => other,
        }
        .map_err(|source| MapError::Access {
            action: "reading",
            map: self.name,
            entry: "all entries".to_owned(),
            source,
        })
    }

    fn by_batch(&self, count: usize, each: &mut impl FnMut(K, &[V])) -> io::Result<()> {
        let mut left = count;
        let mut room = BATCH.min(self.info.max_entries as usize).min(count).max(1);
        let mut keys = vec![K::zeroed(); room];
        let mut values = vec![V::zeroed(); room * self.width];
        let mut cursor: Option<Cursor> = None;
        loop {
            let (key_bytes, value_bytes) = (bytemuck::cast_slice_mut(&mut keys), bytemuck::cast_slice_mut(&mut values));
            let batch =
                match sys::lookup_batch(self.fd.as_fd(), &mut cursor, size_of::<K>(), key_bytes, value_bytes, room) {
                    Ok(batch) => batch,
                    // One bucket of a hash map has more elements than there is room for.
                    Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                        room *= 2;
                        keys.resize(room, K::zeroed());
                        values.resize(room * self.width, V::zeroed());
                        continue;
                    }
                    Err(error) => return Err(error),
                };
            for (key, values) in keys.iter().zip(values.chunks_exact(self.width)).take(batch.count.min(left)) {
                each(*key, values);
            }
            left = left.saturating_sub(batch.count);
            if batch.is_last || left == 0 {
                return Ok(());
            }
        }
    }

    fn one_by_one(&self, count: usize, each: &mut impl FnMut(K, &[V])) -> io::Result<()> {
        let mut values = vec![V::zeroed(); self.width];
        let mut key: Option<K> = None;
        for _ in 0..count {
            let mut next = K::zeroed();
            let from = key.as_ref().map(bytemuck::bytes_of);
            if !sys::next_key(self.fd.as_fd(), from, bytemuck::bytes_of_mut(&mut next))? {
                return Ok(());
            }
            // Gone since: skipped.
            if sys::lookup(self.fd.as_fd(), bytemuck::bytes_of(&next), bytemuck::cast_slice_mut(&mut values))? {
                each(next, &values);
            }
            key = Some(next);
        }
        Ok(())
    }
}

impl<V: Pod> Map<u32, V> {
    /// Writes a range of an array: by one call, or one by one where the kernel has no batches for this map.
    ///
    /// # Errors
    /// When the kernel refuses, or the range is not in the array. The beginning of the range may be written then.
    pub fn set_range(&self, first: u32, values: &[V]) -> Result<(), MapError> {
        if let [value] = values {
            return self.set(&first, value);
        }
        let keys: Vec<u32> = (first..).take(values.len()).collect();
        let (key_bytes, value_bytes) = (bytemuck::cast_slice(&keys), bytemuck::cast_slice(values));
        match sys::update_batch(self.fd.as_fd(), key_bytes, value_bytes, values.len()) {
            Err(error) if is_unsupported(&error) => {
                keys.iter().zip(values).try_for_each(|(key, value)| self.set(key, value))
            }
            written => written.map_err(|source| self.access("writing from", &first, source)),
        }
    }
}

impl<K, V> AsFd for Map<K, V> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn is_unsupported(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP | ENOTSUPP))
}
