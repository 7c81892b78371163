//! Maps in this process's memory: mmap(2) of an array.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{self, NonNull};

/// The values of an array map (BPF_F_MMAPABLE) in this process's memory.
#[derive(Debug)]
pub(super) struct Mapping {
    start: NonNull<libc::c_void>,
    length: usize,
}

impl Mapping {
    /// Maps so many bytes of it, to read and write.
    pub(super) fn new(map: BorrowedFd<'_>, length: usize) -> io::Result<Self> {
        // SAFETY: a new mapping, where the kernel likes it; nothing that is mapped already is touched.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start).ok_or_else(|| io::Error::other("mapped at address 0"))?;
        Ok(Self { start, length })
    }

    /// Where a value of type `T` lies that begins at this offset. `None` beyond the end.
    pub(super) fn at<T>(&self, offset: usize) -> Option<NonNull<T>> {
        let end = offset.checked_add(size_of::<T>())?;
        if end > self.length || !offset.is_multiple_of(align_of::<T>()) {
            return None;
        }
        // SAFETY: within the mapping, whose beginning is that of a page.
        Some(unsafe { self.start.byte_add(offset) }.cast())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is this one's own, and nothing that `at` gave outlives it.
        unsafe { libc::munmap(self.start.as_ptr(), self.length) };
    }
}
