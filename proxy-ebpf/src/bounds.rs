//! Where values stand in a packet.

/// Mask that bounds every offset for the verifier, a little above the end of the last header that the core reads.
pub const OFFSETS: usize = 0xff;

/// Where a value stands, so many bytes behind the IP header's beginning, which lies `l2` bytes behind the packet's; `None` where the
/// packet, from the first of `bounds` to the second, is not as long.
#[inline(always)]
pub fn value_at<T>((data, end): (usize, usize), l2: usize, offset: usize) -> Option<*mut T> {
    let start = data + l2 + (offset & OFFSETS);
    if start + size_of::<T>() > end {
        return None;
    }
    Some(start as *mut T)
}
