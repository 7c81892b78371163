//! Removing flows that are over, so that the packet path never has to.
//!
//! A flow has two or three entries, one for each side that its packets are met on. They are judged together, by the last
//! packet on any side and by all that was seen of the connection, and go together. A flow that wakes up between the look
//! at it and its removal (microseconds, after minutes without a packet) is lost like one that was removed before.

use bytemuck::Pod;
use proxy_common::addr::Address;
use proxy_common::datapath::idle_limit;
use proxy_common::maps::{Flow, FlowKey, FlowSide};

use super::error::MapError;
use super::map::Map;
use super::maps::{FamilyMaps, MapSet};

/// The sides of a flow.
const SIDES: [FlowSide; 3] = [FlowSide::Client, FlowSide::Stack, FlowSide::Masquerade];

impl MapSet {
    /// Removes the flows that are over at `now` (whole seconds of CLOCK_MONOTONIC). Returns how many entries went.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn expire(&self, now: u32) -> Result<usize, MapError> {
        Ok(expire_family(&self.v4, now)? + expire_family(&self.v6, now)?)
    }
}

fn expire_family<A: Address>(maps: &FamilyMaps<A>, now: u32) -> Result<usize, MapError>
where
    FlowKey<A>: Pod,
    Flow<A>: Pod,
{
    let mut candidates = Vec::new();
    maps.flow.for_each(|key, values| {
        if let [flow] = values
            && is_over(key.proto, flow.state, flow.seen, now)
        {
            candidates.push((key, *flow));
        }
    })?;
    let mut removed = 0;
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
        removed += entries.len();
    }
    Ok(removed)
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
