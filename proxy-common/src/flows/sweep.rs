//! Housekeeping: what is over goes, and what is there is counted.
//!
//! No insertion needs it, as each takes the places of flows that are over by itself. It keeps what people see true, and
//! masquerade ports free, and finds aliases whose flow went in the moment when they came. It takes no lock.

use super::find::{Found, drop_alias};
use super::life::{Class, Rank, is_over};
use super::memory::{FlowMemory, Shared};
use super::{REACH, set_after};
use crate::maps::{FlowSet, FlowWay};

/// What a table has in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowUse {
    /// Flows that nothing evicts.
    pub established: u32,
    /// Flows that are half open.
    pub half_open: u32,
    /// Connections that are closed, and not yet forgotten.
    pub closed: u32,
    /// Second entries of flows.
    pub aliases: u32,
    /// Flows that were over, and are gone now.
    pub removed: u32,
    /// Places for flows and aliases.
    pub capacity: u32,
}

/// Goes through a table, removes what is over, and counts the rest.
pub fn sweep<A: Shared>(flows: &impl FlowMemory<A>, now: u32) -> FlowUse {
    let config = flows.config();
    let mut used = FlowUse { capacity: config.sets * FlowSet::<A>::WAYS, ..FlowUse::default() };
    for index in 0..config.sets {
        let Some(set) = flows.set(index) else { break };
        for way in 1..=FlowSet::<A>::WAYS {
            let word = set.way(way);
            let place = index * 8 + way;
            if word.is_free() {
                continue;
            }
            if word.is_alias() {
                if is_lost(flows, word, place) {
                    drop_alias(flows, place, word.seen);
                } else {
                    used.aliases += 1;
                }
                continue;
            }
            if is_over(word, now, config) && Found::at(flows, place).is_some_and(|flow| flow.remove(flows)) {
                used.removed += 1;
                continue;
            }
            match Rank::of(word, now, config).class() {
                Class::Stays => used.established += 1,
                Class::HalfOpen => used.half_open += 1,
                _ => used.closed += 1,
            }
        }
        lower_reach(flows, index);
    }
    used
}

/// About how many entries a table has that no new flow may take: established flows, and aliases. So many sets are looked at,
/// of all parts of the table.
pub fn staying<A: Shared>(flows: &impl FlowMemory<A>, now: u32, sample: u32) -> u32 {
    let config = flows.config();
    let step = (config.sets / sample.max(1)).max(1);
    let mut staying = 0;
    for index in (0..config.sets).step_by(step as usize) {
        let Some(set) = flows.set(index) else { break };
        let stays = |word: FlowWay| word.is_alias() || Rank::of(word, now, config).class() == Class::Stays;
        staying += (1..=FlowSet::<A>::WAYS).map(|way| u32::from(stays(set.way(way)))).sum::<u32>();
    }
    staying.saturating_mul(step)
}

/// Whether an alias leads to no flow that knows it.
fn is_lost<A: Shared>(flows: &impl FlowMemory<A>, word: FlowWay, place: u32) -> bool {
    Found::at(flows, word.seen).is_none_or(|flow| flow.disowns(place))
}

/// Lowers how far look-ups go on from a set, where nothing lies so far any more.
fn lower_reach<A: Shared>(flows: &impl FlowMemory<A>, index: u32) {
    let Some(set) = flows.set(index) else { return };
    let head = set.head();
    let reach = (head >> 32) as u32;
    if reach == 0 || head & 1 != 0 {
        return;
    }
    let sets = flows.config().sets;
    let is_from_here = |distance: u32| {
        flows.set(set_after(index, distance, sets)).is_none_or(|set| {
            (1..=FlowSet::<A>::WAYS).any(|way| {
                let word = set.way(way);
                !word.is_free() && u32::from(word.kind & FlowWay::DISTANCE) >> 4 == distance
            })
        })
    };
    let farthest = (1..REACH).rev().find(|&distance| is_from_here(distance)).unwrap_or(0);
    if farthest < reach {
        // In vain if anything has been inserted here since: its counter is in the same word.
        set.exchange_head(head, u64::from(head as u32) | (u64::from(farthest) << 32));
    }
}
