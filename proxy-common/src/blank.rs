//! Memory that is all zero, for functions that fill it in.

use core::mem::MaybeUninit;

use bytemuck::Zeroable;

/// Zeroes a value, word by word. It has to be aligned as words are.
///
/// Of zeros as they are usually written the compiler makes calls of `memset`, which takes BPF byte by byte: those of a new flow were up to
/// a tenth of its time.
#[inline(always)]
pub fn blank<T: Zeroable>(place: &mut MaybeUninit<T>) -> &mut T {
    const { assert!(align_of::<T>() == align_of::<u64>(), "it is not aligned as words are") };
    let words = place.as_mut_ptr().cast::<u64>();
    for word in 0..size_of::<T>() / size_of::<u64>() {
        // SAFETY: a value is as long as a multiple of its alignment, that of a word, and this is one of its words.
        unsafe { words.add(word).write_volatile(0) };
    }
    // SAFETY: all of it is zero, and that is a value.
    unsafe { place.assume_init_mut() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::{Ipv4, Ipv6};
    use crate::flows::NewFlow;

    #[test]
    fn nothing_is_left_of_what_was_there() {
        assert_eq!(*blank(&mut MaybeUninit::new([u64::MAX; 5])), [0; 5]);
        let used = NewFlow { service: 1, client: Ipv4::new([1; 4]), frontend: Ipv4::new([2; 4]), ..NewFlow::default() };
        assert_eq!(*blank(&mut MaybeUninit::new(used)), NewFlow::default());
        let used = NewFlow { now: 1, backend: Ipv6::new([1; 16]), frontend: Ipv6::new([2; 16]), ..NewFlow::default() };
        assert_eq!(*blank(&mut MaybeUninit::new(used)), NewFlow::default());
    }
}
