//! Second entries of flows: for a source port that had to be changed, and for a masquerade.

use super::find::{Found, find, label, labelled};
use super::life::is_ending;
use super::memory::{Fields, FlowMemory, Shared};
use super::ports::Ports;
use super::room::{choose, lock, seize, unlock};
use super::{HELD, Home, Place, ROOMS, home_of, set_after};
use crate::maps::{FlowEvent, FlowKey, FlowSide, FlowWay};

/// Why an alias was not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AliasError {
    /// Another flow has these addresses.
    Taken,
    /// There is no room, or no lock.
    Failed,
}

/// What came of an alias, as a number: its place in the upper half and how far from its own set that is in the lower one. Or
/// one of these two.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Alias(u64);

impl Alias {
    /// Another flow has these addresses.
    const TAKEN: Self = Self(0);
    /// There is no room, or no lock.
    pub const FAILED: Self = Self(1);

    /// From the number.
    #[inline(always)]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The number.
    #[inline(always)]
    pub const fn bits(self) -> u64 {
        self.0
    }

    #[inline(always)]
    pub(super) fn place(self) -> Option<Place> {
        let place = (self.0 >> 32) as u32;
        if place == 0 { None } else { Some(place) }
    }
}

/// [`FlowMemory::alias`].
#[inline(always)]
pub fn alias<A: Shared>(flows: &impl FlowMemory<A>, key: &FlowKey<A>, side: FlowSide, place: Place, now: u32) -> Alias {
    let home = home_of(flows, key, side);
    let Some(set) = flows.set(home.set) else {
        return Alias::FAILED;
    };
    let Some(head) = lock(flows, set) else {
        return Alias::FAILED;
    };
    let mut reach = (head >> 32) as u32;
    let alias = alias_locked(flows, key, side, home, place, now, &mut reach);
    unlock(set, head, reach);
    alias
}

#[inline(always)]
pub(super) fn alias_locked<A: Shared>(
    flows: &impl FlowMemory<A>,
    key: &FlowKey<A>,
    side: FlowSide,
    home: Home,
    place: Place,
    now: u32,
    reach: &mut u32,
) -> Alias {
    if let Some(other) = find(flows, key, side)
        && other.place != place
    {
        // Only whoever was asked before may have its addresses taken away: see `masquerade`.
        return Alias::TAKEN;
    }
    let side_bit = if side == FlowSide::Masquerade { FlowWay::MASQUERADE } else { 0 };
    for _ in 0..ROOMS {
        let Some((distance, way)) = choose(flows, home.set, now) else {
            flows.count(FlowEvent::Full);
            return Alias::FAILED;
        };
        let index = set_after(home.set, distance, flows.config().sets);
        let Some(set) = flows.set(index) else {
            return Alias::FAILED;
        };
        if index * 8 + way == place {
            // Never the flow itself.
            return Alias::FAILED;
        }
        let Some(sequence) = seize(flows, set, index * 8 + way, now) else {
            continue;
        };
        let kind = key.protocol as u8 | FlowWay::ALIAS | side_bit | (distance as u8) << 4;
        let word = FlowWay { seen: place, tag: home.tag, kind, state: 0 };
        let is_stored = set.exchange_way(way, FlowWay::FREE, word);
        // Nothing was written to the flow's fields; but a new number, as somebody may have read a flow that is no more.
        set.publish(way, Fields::<A>::SEQUENCE, (sequence & !1).wrapping_add(8) & !HELD);
        if is_stored {
            if distance > *reach {
                *reach = distance;
            }
            return Alias(u64::from(index * 8 + way) << 32 | u64::from(distance));
        }
    }
    flows.count(FlowEvent::Contended);
    Alias::FAILED
}

/// Adds a masquerade to a flow. `key` has the address in it, and gets the port: one that no other flow to the same backend
/// has. Fails where another CPU does the same at this moment.
///
/// Many ports are tried by the tags alone: where none fits, no flow has the port. If all are in use, a few are asked
/// whether they may be taken from a connection that is closing.
#[inline(always)]
pub fn masquerade<A: Shared>(
    flows: &impl FlowMemory<A>,
    flow: &Found<'_, A>,
    key: &mut FlowKey<A>,
    now: u32,
    random: u32,
) -> Result<(), AliasError> {
    let (set, way) = (flow.set(), flow.way());
    let (_, flags) = flow.masquerade_port();
    if !set.exchange(way, Fields::<A>::SEQUENCE, flow.sequence, flow.sequence | HELD) {
        flows.count(FlowEvent::Contended);
        return Err(AliasError::Failed);
    }
    let result = alias_port(flows, flow.place, key, now, Ports::from(random));
    if let Ok(alias) = result {
        set.store(way, Fields::<A>::MASQUERADE, key.near);
        set.store(way, Fields::<A>::MASQUERADE_ALIAS, alias);
        let [high, low] = key.near_port;
        set.publish(way, Fields::<A>::MASQUERADE_PORT, u32::from_ne_bytes([high, low, flags, 0]));
    }
    set.publish(way, Fields::<A>::SEQUENCE, flow.sequence);
    result.map(|_| ())
}

/// In how many turns a port is looked for: one ends with a port that seemed free and was taken by another CPU meanwhile, or
/// with one whose flow stays.
const TAKE_OVERS: u64 = 4;

/// How many ports are tried in one turn. Those of all turns are spread over the whole range: with 28,000 of its ports in use,
/// one flow in 7,000 finds none.
const PROBES: u64 = 64;

#[inline(always)]
fn alias_port<A: Shared>(
    flows: &impl FlowMemory<A>,
    place: Place,
    key: &mut FlowKey<A>,
    now: u32,
    mut ports: Ports,
) -> Result<Place, AliasError> {
    for _ in 0..TAKE_OVERS {
        let is_free = flows.untagged_port(key, &mut ports);
        if !is_free
            && let Some(other) = find(flows, key, FlowSide::Masquerade)
            && !(is_ending(other.word, now, flows.config()) && other.remove(flows))
        {
            continue;
        }
        let alias = flows.alias(key, FlowSide::Masquerade, place, now);
        if let Some(place) = alias.place() {
            return Ok(place);
        }
        if alias != Alias::TAKEN {
            return Err(AliasError::Failed);
        }
    }
    Err(AliasError::Taken)
}

/// [`FlowMemory::untagged_port`].
#[inline(always)]
pub fn untagged_port<A: Shared>(flows: &impl FlowMemory<A>, key: &mut FlowKey<A>, ports: &mut Ports) -> bool {
    for _ in 0..PROBES {
        key.near_port = ports.draw();
        let home = home_of(flows, key, FlowSide::Masquerade);
        let Some(set) = flows.set(home.set) else { return false };
        if labelled(set, label(home, key.protocol, FlowSide::Masquerade)) == 0 {
            return true;
        }
    }
    false
}
