//! What one map operation costs, for comparison.
//!
//! Each floor makes sure that it found what it looked for: a program that misses is not a floor.

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use proxy_bench_ebpf::{FLOOR_VALUE, FloorValue, floor_key};

use crate::NEXT;
use crate::maps::{ARRAY, HASH, INSERT, LRU, PLAN};

/// The entry that is looked up again and again.
const HOT: u32 = 7;

/// One look-up in an array.
#[classifier]
pub fn array_hot(_ctx: TcContext) -> i32 {
    found(ARRAY.get(HOT))
}

/// One look-up in a hash map, the same each time.
#[classifier]
pub fn hash_hot(_ctx: TcContext) -> i32 {
    // SAFETY: nothing writes to the map meanwhile.
    found(unsafe { HASH.get(floor_key(HOT)) })
}

/// One look-up in an LRU hash map, the same each time.
#[classifier]
pub fn lru_hot(_ctx: TcContext) -> i32 {
    // SAFETY: nothing writes to the map meanwhile.
    found(unsafe { LRU.get(floor_key(HOT)) })
}

/// One look-up in an LRU hash map, of the flow's number.
#[classifier]
pub fn lru_cold(_ctx: TcContext) -> i32 {
    // SAFETY: nothing writes to the map meanwhile.
    found(unsafe { LRU.get(floor_key(number())) })
}

/// One insertion into an LRU hash map, of the flow's number.
#[classifier]
pub fn lru_insert(_ctx: TcContext) -> i32 {
    if INSERT.insert(floor_key(number()), [FLOOR_VALUE; 6], 0).is_ok() { NEXT } else { lost() }
}

/// The same look-up, for another hook.
#[inline(always)]
pub fn is_hot_found() -> bool {
    // SAFETY: nothing writes to the map meanwhile.
    found(unsafe { LRU.get(floor_key(HOT)) }) == NEXT
}

#[inline(always)]
fn number() -> u32 {
    PLAN.get(0).map_or(0, |plan| plan.last)
}

#[inline(always)]
fn found(value: Option<&FloorValue>) -> i32 {
    match value {
        Some([FLOOR_VALUE, ..]) => NEXT,
        _ => lost(),
    }
}

#[inline(always)]
fn lost() -> i32 {
    if let Some(plan) = PLAN.get_ptr_mut(0) {
        // SAFETY: one CPU runs the bench, and user space writes only between runs.
        unsafe { (*plan).lost += 1 }
    }
    0
}
