//! Who makes room for a new entry, and the lock of a set.

use super::find::{Found, drop_alias};
use super::life::{Class, Rank, greater};
use super::memory::{Fields, FlowMemory, SetRef, Shared};
use super::{HELD, Place, REACH, set_after};
use crate::maps::{FlowEvent, FlowSet, FlowWay};

/// How often a lock is tried that another CPU has: some microseconds.
const LOCKS: u64 = 64;

/// Which way is to be taken: its distance from home, and its number. `None` if nobody makes way.
#[inline(always)]
pub(super) fn choose<A: Shared>(flows: &impl FlowMemory<A>, home: u32, now: u32) -> Option<(u32, u32)> {
    let number = flows.room(home, now);
    // Way 0 is none.
    (number != 0).then_some((number >> 3 & 3, number & 7))
}

/// [`FlowMemory::room`].
#[inline(always)]
pub fn room<A: Shared>(flows: &impl FlowMemory<A>, home: u32, now: u32) -> u32 {
    let (rank, number) = Rank::split(best(flows, home, now));
    if rank == Rank::STAYS { choose_alias(flows, home, now) } else { number }
}

/// The way that makes room most readily, as [`Rank::with_number`] has it: 8 × its distance, and its number.
#[inline(always)]
fn best<A: Shared>(flows: &impl FlowMemory<A>, home: u32, now: u32) -> u64 {
    let config = flows.config();
    let mut best = 0;
    for distance in 0..REACH {
        let Some(set) = flows.set(set_after(home, distance, config.sets)) else { break };
        for way in 1..=FlowSet::<A>::WAYS {
            let rank = Rank::of(set.way(way), now, config);
            best = greater(best, rank.with_number(distance * 8 + way));
        }
        if Rank::split(best).0 >= Rank::OVER {
            break;
        }
    }
    best
}

/// The number of one of the aliases of the set itself whose flow is gone, or makes way; 0 if there is none.
#[inline(always)]
fn choose_alias<A: Shared>(flows: &impl FlowMemory<A>, home: u32, now: u32) -> u32 {
    let Some(set) = flows.set(home) else { return 0 };
    // A whole word: see `ROOMS`.
    for way in 1..=u64::from(FlowSet::<A>::WAYS) {
        let way = way as u32;
        let word = set.way(way);
        if !word.is_alias() {
            continue;
        }
        let place = home * 8 + way;
        let is_gone = match Found::at(flows, word.seen) {
            Some(flow) => {
                flow.disowns(place)
                    || (flow.is_settled()
                        && Rank::of(flow.word, now, flows.config()) != Rank::STAYS
                        && flow.remove(flows))
            }
            None => true,
        };
        if is_gone {
            drop_alias(flows, place, word.seen);
            return way;
        }
    }
    0
}

/// Makes a way one's own to write, and takes away what was there. The sequence as it is now, which is odd; `None` where
/// another CPU was quicker.
#[inline(always)]
pub(super) fn seize<A: Shared>(flows: &impl FlowMemory<A>, set: SetRef<'_, A>, place: Place, now: u32) -> Option<u32> {
    let way = place & 7;
    let word = set.way(way);
    let class = Rank::of(word, now, flows.config()).class();
    let sequence = set.load(way, Fields::<A>::SEQUENCE);
    if class == Class::Stays
        || sequence & (HELD | 1) != 0
        || !set.exchange(way, Fields::<A>::SEQUENCE, sequence, sequence | 1)
    {
        return None;
    }
    if class == Class::Free {
        if set.way(way).is_free() {
            return Some(sequence | 1);
        }
        set.publish(way, Fields::<A>::SEQUENCE, sequence);
        return None;
    }
    let aliases = [set.load(way, Fields::<A>::STACK_ALIAS), set.load(way, Fields::<A>::MASQUERADE_ALIAS)];
    if !set.exchange_way(way, word, FlowWay::FREE) {
        // It has just been used.
        set.publish(way, Fields::<A>::SEQUENCE, sequence);
        return None;
    }
    drop_alias(flows, aliases[0], place);
    drop_alias(flows, aliases[1], place);
    flows.count(match class {
        Class::Closed => FlowEvent::EvictedClosed,
        Class::HalfOpen => FlowEvent::EvictedHalfOpen,
        _ => FlowEvent::Reused,
    });
    Some(sequence | 1)
}

/// Takes a set's lock. Answers its word as it was.
#[inline(always)]
pub(super) fn lock<A: Shared>(flows: &impl FlowMemory<A>, set: SetRef<'_, A>) -> Option<u64> {
    for _ in 0..LOCKS {
        // Odd while another CPU has it: then it is not what this expects.
        let head = set.head() & !1;
        if set.exchange_head(head, head | 1) {
            return Some(head);
        }
    }
    flows.count(FlowEvent::Contended);
    None
}

#[inline(always)]
pub(super) fn unlock<A: Shared>(set: SetRef<'_, A>, head: u64, reach: u32) {
    set.publish_head(u64::from((head as u32).wrapping_add(2)) | (u64::from(reach) << 32));
}
