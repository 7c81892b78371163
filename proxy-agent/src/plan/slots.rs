//! Which slots are in use, and the ranges of the slot array that nobody uses.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Range;

/// How many frontends lead to each slot.
///
/// A change costs what it changes, however many ranges there are. Slots have no end here, as nothing is known of the map's:
/// damage may lead anywhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SlotUse {
    /// The number of users, from this slot up to the next that is in here. No two neighbours have the same.
    users: BTreeMap<u32, u32>,
    /// Length and start of what has no user, so that the smallest sufficient stretch is one look-up away.
    free: BTreeSet<(u32, u32)>,
    in_use: u32,
}

impl Default for SlotUse {
    fn default() -> Self {
        Self { users: [(0, 0)].into(), free: [(u32::MAX, 0)].into(), in_use: 0 }
    }
}

impl SlotUse {
    /// One more frontend leads to these.
    pub(super) fn enter(&mut self, range: Range<u32>) {
        self.change(range, |users| users.saturating_add(1));
    }

    /// One that led to these does so no more.
    pub(super) fn leave(&mut self, range: Range<u32>) {
        self.change(range, |users| users.saturating_sub(1));
    }

    /// How many slots have a user.
    pub(super) fn in_use(&self) -> u32 {
        self.in_use
    }

    fn change(&mut self, range: Range<u32>, change: impl Fn(u32) -> u32) {
        if range.is_empty() {
            return;
        }
        // What it touches, with the neighbours that may become one with it.
        let before = |slot: u32| self.users.range(..slot).next_back().map_or(0, |(start, _)| *start);
        let first = before(before(range.start.saturating_add(1)));
        let after = |slot: u32| self.users.range(slot..).next().map(|(start, _)| *start);
        let last = after(range.end).and_then(|next| after(next.saturating_add(1)));
        let end = last.unwrap_or(u32::MAX);
        let mut old: Vec<(u32, u32)> = self.users.range(first..end).map(|(start, users)| (*start, *users)).collect();
        old.push((end, 0));
        let mut new: Vec<(Range<u32>, u32)> = Vec::new();
        for pair in old.windows(2) {
            let &[(start, users), (stop, _)] = pair else { continue };
            self.users.remove(&start);
            self.count(start..stop, users, false);
            let (from, to) = (range.start.clamp(start, stop), range.end.clamp(start, stop));
            for (piece, users) in [(start..from, users), (from..to, change(users)), (to..stop, users)] {
                match new.last_mut() {
                    _ if piece.is_empty() => {}
                    Some((last, same)) if *same == users => last.end = piece.end,
                    _ => new.push((piece, users)),
                }
            }
        }
        for (piece, users) in new {
            self.users.insert(piece.start, users);
            self.count(piece, users, true);
        }
    }

    /// Takes a stretch into the indexes, or out of them.
    fn count(&mut self, stretch: Range<u32>, users: u32, is_in: bool) {
        let (length, entry) = (stretch.end - stretch.start, (stretch.end - stretch.start, stretch.start));
        match (users, is_in) {
            (0, true) => drop(self.free.insert(entry)),
            (0, false) => drop(self.free.remove(&entry)),
            (_, true) => self.in_use += length,
            (_, false) => self.in_use -= length,
        }
    }
}

/// Free ranges, to take from. Each time the smallest that suffices is taken, so that long ones stay long.
#[derive(Debug)]
pub(super) struct FreeSlots<'a> {
    slots: &'a SlotUse,
    capacity: u32,
    /// Starts of the stretches that something was taken of, and what is left of them, by length.
    touched: HashSet<u32>,
    rest: BTreeSet<(u32, u32)>,
    /// For each length that was asked for: those before this one are all touched.
    next: HashMap<u32, (u32, u32)>,
}

impl<'a> FreeSlots<'a> {
    /// What is free of the first `capacity` slots.
    pub(super) fn new(slots: &'a SlotUse, capacity: u32) -> Self {
        Self { slots, capacity, touched: HashSet::new(), rest: BTreeSet::new(), next: HashMap::new() }
    }

    /// The start of a free range of `length` slots, which is then no longer free.
    pub(super) fn take(&mut self, length: u32) -> Option<u32> {
        let next = self.next.get(&length).copied().unwrap_or((length, 0));
        let is_good =
            |(_, start): &&(u32, u32)| !self.touched.contains(start) && start.saturating_add(length) <= self.capacity;
        let whole = self.slots.free.range(next..).find(is_good).copied();
        let rest = self.rest.range((length, 0)..).next().copied();
        let (found, start) = match (whole, rest) {
            (Some(whole), rest) if rest.is_none_or(|rest| whole < rest) => {
                self.next.insert(length, whole);
                self.touched.insert(whole.1);
                (whole.0.min(self.capacity - whole.1), whole.1)
            }
            (_, rest) => {
                let rest = rest?;
                self.rest.remove(&rest);
                rest
            }
        };
        if found > length {
            self.rest.insert((found - length, start + length));
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
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn used(ranges: Vec<Range<u32>>) -> SlotUse {
        let mut slots = SlotUse::default();
        ranges.into_iter().for_each(|range| slots.enter(range));
        slots
    }

    #[test]
    fn ranges_are_taken_where_they_fit_best() {
        let slots = used(vec![10..12, 0..4, 3..7]);
        let mut free = FreeSlots::new(&slots, 20);
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
        for (ranges, length, expected) in [
            (vec![], 4, Some(0)),
            (vec![], 5, None),
            (vec![0..9], 1, None),
            (vec![8..9], 4, Some(0)),
            (vec![0..u32::MAX, 3..u32::MAX], 1, None),
        ] {
            let slots = used(ranges);
            assert_eq!(FreeSlots::new(&slots, 4).take(length), expected, "{slots:?}");
        }
    }

    proptest! {
        /// The same as counting slot by slot.
        #[test]
        fn users_are_counted(changes in vec((0..20_u32, 0..9_u32, any::<bool>()), 0..30), lengths in vec(1..5_u32, 0..9)) {
            let (mut slots, mut held, mut counts) = (SlotUse::default(), Vec::new(), [0_u32; 32]);
            for (first, length, is_new) in changes {
                let range = first..first + length;
                if is_new {
                    slots.enter(range.clone());
                    range.clone().for_each(|slot| counts[slot as usize] += 1);
                    held.push(range);
                } else if let Some(range) = held.pop() {
                    range.clone().for_each(|slot| counts[slot as usize] -= 1);
                    slots.leave(range);
                }
                prop_assert_eq!(slots.in_use() as usize, counts.iter().filter(|count| **count > 0).count());
                let lone = used(held.clone());
                prop_assert_eq!(&slots, &lone, "the same by another way");
            }
            let mut free = FreeSlots::new(&slots, 32);
            for length in lengths {
                let is_free = |counts: &[u32]| counts.iter().all(|count| *count == 0);
                let fits = counts.windows(length as usize).any(is_free);
                let taken = free.take(length);
                prop_assert_eq!(taken.is_some(), fits);
                if let Some(first) = taken {
                    let range = first as usize..(first + length) as usize;
                    prop_assert!(is_free(&counts[range.clone()]));
                    counts[range].fill(1);
                }
            }
        }
    }
}
