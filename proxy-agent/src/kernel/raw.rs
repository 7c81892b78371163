//! One pinned map, as bytes.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::sys::{self, Cursor, MapInfo};

/// How many elements are read by one call.
const BATCH: usize = 4096;

/// What an unsupported operation gives inside the kernel (`ENOTSUPP`), which some map types let out.
const ENOTSUPP: i32 = 524;

/// A map with keys and values of the sizes that the kernel tells.
#[derive(Debug)]
pub(super) struct RawMap {
    fd: OwnedFd,
    info: MapInfo,
    /// Bytes in a key, and in a value of all CPUs.
    key: usize,
    value: usize,
}

impl RawMap {
    /// Takes a map that has `width` values an entry: 1, or one for each possible CPU.
    pub(super) fn new(fd: OwnedFd, info: MapInfo, width: usize) -> Self {
        // The kernel rounds the values of each CPU up to 8 bytes.
        let value = match width {
            1 => info.value_size as usize,
            cpus => (info.value_size as usize).next_multiple_of(8) * cpus,
        };
        Self { key: info.key_size as usize, value, fd, info }
    }

    /// How many entries it has room for.
    pub(super) fn capacity(&self) -> u32 {
        self.info.max_entries
    }

    /// Reads an entry into `value`. False where there is none.
    pub(super) fn get(&self, key: &[u8], value: &mut [u8]) -> io::Result<bool> {
        self.check(key, value)?;
        sys::lookup(self.fd.as_fd(), key, value)
    }

    /// Writes an entry.
    pub(super) fn set(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        self.check(key, value)?;
        sys::update(self.fd.as_fd(), key, value)
    }

    /// Removes an entry of a hash map. Nothing there: nothing to do.
    pub(super) fn remove(&self, key: &[u8]) -> io::Result<()> {
        if key.len() != self.key {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        sys::delete(self.fd.as_fd(), key).map(drop)
    }

    /// Slices of other sizes would have the kernel read or write beyond them.
    fn check(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        let is_right = key.len() == self.key && value.len() == self.value;
        is_right.then_some(()).ok_or(io::ErrorKind::InvalidInput.into())
    }

    /// Writes `count` entries, whose keys and values lie one behind the other: by one call, or one by one where the kernel
    /// has no batches for this map. Those before one that fails are written.
    pub(super) fn set_all(&self, keys: &[u8], values: &[u8], count: usize) -> io::Result<()> {
        if keys.len() != count * self.key || values.len() != count * self.value {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        match sys::update_batch(self.fd.as_fd(), keys, values, count) {
            Err(error) if is_unsupported(&error) => {
                let mut entries = keys.chunks_exact(self.key).zip(values.chunks_exact(self.value));
                entries.try_for_each(|(key, value)| self.set(key, value))
            }
            written => written,
        }
    }

    /// Writes an entry that is not there yet. False where it is.
    pub(super) fn insert(&self, key: &[u8], value: &[u8]) -> io::Result<bool> {
        self.check(key, value)?;
        sys::insert(self.fd.as_fd(), key, value)
    }

    /// Reads so many entries, or all: by batches, or one by one where the kernel has no batches for this map. `each` gets
    /// the key and the values of all CPUs.
    pub(super) fn for_each(&self, count: usize, mut each: impl FnMut(&[u8], &[u8])) -> io::Result<()> {
        match self.by_batch(count, &mut each) {
            Err(error) if is_unsupported(&error) => self.one_by_one(count, &mut each),
            other => other,
        }
    }

    fn by_batch(&self, count: usize, each: &mut impl FnMut(&[u8], &[u8])) -> io::Result<()> {
        let mut left = count;
        let mut room = BATCH.min(self.info.max_entries as usize).min(count).max(1);
        let mut keys = vec![0; room * self.key];
        let mut values = vec![0; room * self.value];
        let mut cursor: Option<Cursor> = None;
        loop {
            let batch = match sys::lookup_batch(self.fd.as_fd(), &mut cursor, self.key, &mut keys, &mut values, room) {
                Ok(batch) => batch,
                // One bucket of a hash map has more elements than there is room for.
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                    room *= 2;
                    keys.resize(room * self.key, 0);
                    values.resize(room * self.value, 0);
                    continue;
                }
                Err(error) => return Err(error),
            };
            let entries = keys.chunks_exact(self.key).zip(values.chunks_exact(self.value));
            for (key, value) in entries.take(batch.count.min(left)) {
                each(key, value);
            }
            left = left.saturating_sub(batch.count);
            if batch.is_last || left == 0 {
                return Ok(());
            }
        }
    }

    fn one_by_one(&self, count: usize, each: &mut impl FnMut(&[u8], &[u8])) -> io::Result<()> {
        let mut value = vec![0; self.value];
        let mut key: Option<Vec<u8>> = None;
        for _ in 0..count {
            let mut next = vec![0; self.key];
            if !sys::next_key(self.fd.as_fd(), key.as_deref(), &mut next)? {
                return Ok(());
            }
            // Gone since: skipped.
            if sys::lookup(self.fd.as_fd(), &next, &mut value)? {
                each(&next, &value);
            }
            key = Some(next);
        }
        Ok(())
    }
}

impl AsFd for RawMap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn is_unsupported(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP | ENOTSUPP))
}
