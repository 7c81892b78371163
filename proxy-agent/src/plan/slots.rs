//! The ranges of the slot array that nobody uses.

use std::collections::BTreeSet;
use std::ops::Range;

/// Free ranges, to take from. Each time the smallest that suffices is taken, so that long ones stay long.
#[derive(Debug)]
pub(super) struct FreeSlots {
    /// Length and start of each, so that the smallest sufficient one is one look-up away.
    by_length: BTreeSet<(u32, u32)>,
}

impl FreeSlots {
    /// What `used` leaves free of `capacity` slots. The ranges may come in any order and overlap.
    pub(super) fn new(mut used: Vec<Range<u32>>, capacity: u32) -> Self {
        used.sort_unstable_by_key(|range| range.start);
        let mut by_length = BTreeSet::new();
        let mut free_from = 0;
        let end = capacity..capacity;
        for range in used.into_iter().chain([end]) {
            let gap = range.start.min(capacity).saturating_sub(free_from);
            if gap > 0 {
                by_length.insert((gap, free_from));
            }
            free_from = free_from.max(range.end);
        }
        Self { by_length }
    }

    /// The start of a free range of `length` slots, which is then no longer free.
    pub(super) fn take(&mut self, length: u32) -> Option<u32> {
        let (found, start) = *self.by_length.range((length, 0)..).next()?;
        self.by_length.remove(&(found, start));
        if found > length {
            self.by_length.insert((found - length, start + length));
        }
        Some(start)
    }
}

/// Joins ranges that overlap or touch. They may come in any order.
pub(super) fn joined(mut ranges: Vec<Range<u32>>) -> Vec<Range<u32>> {
    ranges.sort_unstable_by_key(|range| range.start);
    let mut joined: Vec<Range<u32>> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => joined.push(range),
        }
    }
    joined
}

#[cfg(test)]
#[expect(clippy::single_range_in_vec_init, reason = "a list of ranges is meant")]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_taken_where_they_fit_best() {
        let mut free = FreeSlots::new(vec![10..12, 0..4, 3..7], 20);
        assert_eq!(free.take(8), Some(12), "only the tail is that long");
        assert_eq!(free.take(2), Some(7), "of the gap 7..10");
        assert_eq!(free.take(2), None);
        assert_eq!(free.take(1), Some(9));
        assert_eq!(free.take(1), None);
    }

    #[test]
    fn ranges_that_overlap_or_touch_are_one() {
        assert_eq!(joined(vec![7..9, 0..2, 2..4, 8..12, 1..3, 20..21]), [0..4, 7..12, 20..21]);
    }

    #[test]
    fn everything_is_free_at_first_and_nothing_outside_the_map_ever() {
        assert_eq!(FreeSlots::new(Vec::new(), 4).take(4), Some(0));
        assert_eq!(FreeSlots::new(Vec::new(), 4).take(5), None);
        assert_eq!(FreeSlots::new(vec![0..9], 4).take(1), None);
        assert_eq!(FreeSlots::new(vec![8..9], 4).take(4), Some(0));
    }
}
