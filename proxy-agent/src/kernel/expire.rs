//! Forgetting the clients that came last so long ago that their affinity is over, and pieces of packets that nobody waits for.

use bytemuck::Pod;
use proxy_common::addr::Address;
use proxy_common::maps::{Affinity, AffinityKey, Early};

use super::error::MapError;
use super::map::Map;
use super::maps::MapSet;

impl MapSet {
    /// Removes what is remembered of clients for longer than their Service port remembers them: `seconds` says for how long
    /// that is, 0 for one that has no affinity (any more). Returns how many entries went.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn expire_affinities(&self, now: u32, seconds: impl Fn(u32) -> u32) -> Result<usize, MapError> {
        Ok(forget(&self.v4.affinity, now, &seconds)? + forget(&self.v6.affinity, now, &seconds)?)
    }

    /// Removes pieces of packets whose first has not come in time. Returns how many.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn expire_early(&self, now: u32) -> Result<usize, MapError> {
        let mut over = Vec::new();
        self.early.for_each(|key, pieces| {
            if pieces.iter().any(|piece| now.saturating_sub(piece.seen) > Early::LIFETIME) {
                over.push(key);
            }
        })?;
        for key in &over {
            self.early.remove(key)?;
        }
        Ok(over.len())
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
