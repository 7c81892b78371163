//! Removing flows that are over, so that the packet path never has to.
//!
//! A flow has two or three entries, one for each side that its packets are met on. They are judged together, by the last
//! packet on any side and by all that was seen of the connection, and go together. A flow that wakes up between the look
//! at it and its removal (microseconds, after minutes without a packet) is lost like one that was removed before.

use bytemuck::Pod;
use proxy_common::addr::Address;
use proxy_common::datapath::idle_limit;
use proxy_common::maps::{Affinity, AffinityKey, Flow, FlowKey, FlowSide};

use super::error::MapError;
use super::map::Map;
use super::maps::{FamilyMaps, MapSet};

/// The sides of a flow.
const SIDES: [FlowSide; 3] = [FlowSide::Client, FlowSide::Stack, FlowSide::Masquerade];

/// What a look for flows that are over came to, in one family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expired {
    /// Entries that were there.
    pub found: usize,
    /// Entries that were removed.
    pub removed: usize,
}

impl MapSet {
    /// Removes the flows that are over at `now` (whole seconds of CLOCK_MONOTONIC): of IPv4, then of IPv6.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn expire(&self, now: u32) -> Result<[Expired; 2], MapError> {
        Ok([expire_family(&self.v4, now)?, expire_family(&self.v6, now)?])
    }
}

impl MapSet {
    /// Removes what is remembered of clients for longer than their Service port remembers them: `seconds` says for how long
    /// that is, 0 for one that has no affinity (any more). Returns how many entries went.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn expire_affinities(&self, now: u32, seconds: impl Fn(u32) -> u32) -> Result<usize, MapError> {
        Ok(forget(&self.v4.affinity, now, &seconds)? + forget(&self.v6.affinity, now, &seconds)?)
    }
}

fn forget<A: Address>(
    map: &Map<AffinityKey<A>, Affinity>,
    now: u32,
    seconds: &impl Fn(u32) -> u32,
) -> Result<usize, MapError>
where
    AffinityKey<A>: Pod,
{
    let mut over = Vec::new();
    map.for_each(|key, values| {
        let limit = seconds(key.service);
        if let [affinity] = values
            && (limit == 0 || now.saturating_sub(affinity.seen) > limit)
        {
            over.push(key);
        }
    })?;
    for key in &over {
        map.remove(key)?;
    }
    Ok(over.len())
}

fn expire_family<A: Address>(maps: &FamilyMaps<A>, now: u32) -> Result<Expired, MapError>
where
    FlowKey<A>: Pod,
    Flow<A>: Pod,
{
    let mut candidates = Vec::new();
    let mut expired = Expired::default();
    maps.flow.for_each(|key, values| {
        expired.found += 1;
        if let [flow] = values
            && is_over(key.proto, flow.state, flow.seen, now)
        {
            candidates.push((key, *flow));
        }
    })?;
    for (key, flow) in candidates {
        let entries = entries(&maps.flow, &flow, key.proto)?;
        let state = entries.iter().fold(flow.state, |state, (_, entry)| state | entry.state);
        let seen = entries.iter().fold(flow.seen, |seen, (_, entry)| seen.max(entry.seen));
        if !is_over(key.proto, state, seen, now) {
            continue;
        }
        for (key, _) in &entries {
            maps.flow.remove(key)?;
        }
        expired.removed += entries.len();
    }
    Ok(expired)
}

fn is_over(proto: u8, state: u8, seen: u32, now: u32) -> bool {
    now.saturating_sub(seen) > idle_limit(proto, state)
}

/// An entry of the flow map.
type Entry<A> = (FlowKey<A>, Flow<A>);

/// The entries that are there of the same connection: of what this one tells as it does.
fn entries<A: Address>(map: &Map<FlowKey<A>, Flow<A>>, flow: &Flow<A>, proto: u8) -> Result<Vec<Entry<A>>, MapError>
where
    FlowKey<A>: Pod,
    Flow<A>: Pod,
{
    let mut entries = Vec::new();
    for side in SIDES {
        let key = flow.key(side, proto);
        let Some(entry) = map.get(&key)?.and_then(|values| values.first().copied()) else { continue };
        // Another connection may have come to the same place since.
        if entry.began == flow.began && entry.client == flow.client && entry.client_port == flow.client_port {
            entries.push((key, entry));
        }
    }
    Ok(entries)
}
