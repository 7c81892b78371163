//! Look-up, and what may be read of what was found.

use super::memory::{Field, Fields, FlowMemory, SetRef, Shared, anew, order_loads};
use super::{HELD, Home, Place, REACH, home, set_after};
use crate::maps::{FlowKey, FlowSet, FlowSide, FlowWay};

/// How often a state is tried to be noted that others change at the same time.
const TOUCHES: u64 = 3;

/// A flow that was found by its addresses.
///
/// Others may write it. What was read counts only if [`Found::is_whole`] says so afterwards.
#[derive(Clone, Copy)]
pub struct Found<'a, A: Shared> {
    set: SetRef<'a, A>,
    /// Where it is.
    pub place: Place,
    /// Its way's word, as it was.
    pub word: FlowWay,
    /// Its sequence, without the mark of a masquerade that is being added.
    pub sequence: u32,
}

/// Where the entry of a key belongs.
#[inline(always)]
pub fn home_of<A: Shared>(flows: &impl FlowMemory<A>, key: &FlowKey<A>, side: FlowSide) -> Home {
    let config = flows.config();
    home(config.seed, config.sets, key, side == FlowSide::Masquerade)
}

/// Looks for the flow that has these addresses on this side.
#[inline(always)]
pub fn find<'a, A: Shared>(flows: &'a impl FlowMemory<A>, key: &FlowKey<A>, side: FlowSide) -> Option<Found<'a, A>> {
    Found::numbered(flows, flows.search(key, side))
}

/// Why there is no flow that could be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// There is none with the near side's address and port.
    Nobody,
    /// There may be others with them.
    Alike,
    /// It is over. [`find_fast`] does not look at that.
    Over,
}

/// [`find`] for the common packet: nearly always without a call, which costs as much as all else.
///
/// The set where a key belongs says nearly always all by itself, in its first entry with the right label or by having none.
///
/// # Errors
/// If there is none, and what was seen of others.
#[inline(always)]
pub fn find_fast<'a, A: Shared>(
    flows: &'a impl FlowMemory<A>,
    key: &FlowKey<A>,
    side: FlowSide,
) -> Result<Found<'a, A>, Missing> {
    let home = home_of(flows, key, side);
    let Some(set) = flows.set(home.set) else {
        return Err(Missing::Nobody);
    };
    let ways = labelled(set, label(home, key.protocol, side));
    if ways != 0 {
        let way = lowest(ways);
        let word = set.way(way);
        let (differs, sequence) = compare(anew(key), side as u32, set, way);
        if differs == 0 {
            return Ok(Found { set, place: home.set * 8 + way, word, sequence });
        }
    } else if reach(set) == 0 {
        return Err(Missing::Nobody);
    }
    let number = flows.search(key, side);
    Found::numbered(flows, number).ok_or(if number == NOBODY { Missing::Nobody } else { Missing::Alike })
}

/// In how many of the sets that follow there may be entries that belong into this one.
#[inline(always)]
fn reach<A: Shared>(set: SetRef<'_, A>) -> u32 {
    (set.head() >> 32) as u32
}

/// No entry is even alike.
pub const NOBODY: u64 = 0;
/// There is no such flow, but entries with the same label in the same sets.
const OTHERS: u64 = 1;

/// The place and the sequence of a flow in one number: what a function of its own can answer.
#[inline(always)]
fn found(place: Place, sequence: u32) -> u64 {
    u64::from(place) << 32 | u64::from(sequence)
}

/// [`FlowMemory::search`].
///
/// Each way that is looked at leads to the next in one way only, or out: the verifier goes through every way there is to
/// come to the next, and through all that follows.
#[inline(always)]
pub fn search<A: Shared>(flows: &impl FlowMemory<A>, key: &FlowKey<A>, side: FlowSide) -> u64 {
    let mut none = NOBODY;
    let home = home_of(flows, key, side);
    let label = label(home, key.protocol, side);
    let number = side as u32;
    let sets = flows.config().sets;
    let Some(mut set) = flows.set(home.set) else { return 0 };
    let reach = reach(set);
    let mut index = home.set;
    for distance in 0..REACH {
        let mut ways = labelled(set, label);
        none |= u64::from(ways != 0) * OTHERS;
        for _ in 0..FlowSet::<A>::WAYS {
            if ways == 0 {
                break;
            }
            let way = lowest(ways);
            ways &= ways - 1;
            // An alias tells another place, and whoever is found there is compared in the same way.
            let word = set.way(way);
            let place = word.place(index * 8 + way);
            let Some(other) = flows.set(place >> 3) else { return 0 };
            let (differs, sequence) = compare(anew(key), *anew(&number), other, place & 7);
            if differs == 0 {
                return found(place, sequence);
            }
        }
        if distance >= reach {
            break;
        }
        index = set_after(home.set, distance + 1, sets);
        let Some(next) = flows.set(index) else { return 0 };
        set = next;
    }
    none
}

/// What tells the entries of a key from others of its set: see [`labelled`].
#[inline(always)]
pub(super) fn label(home: Home, protocol: u32, side: FlowSide) -> u32 {
    let kind = protocol | (u32::from(FlowWay::MASQUERADE) * (side as u32 >> 1));
    u32::from(home.tag) | (kind << 16)
}

/// 0 if this is the flow that has these addresses on this side (the number of a [`FlowSide`]); and its sequence. What is no flow at all has another
/// sequence or word than one.
///
/// Without a branch for each side, and products for the offsets, as the verifier knows how large they may be.
#[inline(always)]
fn compare<A: Shared>(key: &FlowKey<A>, side: u32, set: SetRef<'_, A>, way: u32) -> (u64, u32) {
    let word = set.way(way);
    let sequence = set.load(way, Fields::<A>::SEQUENCE) & !HELD;
    order_loads();
    let is_masquerade = side >> 1 & 1;
    let is_inside = side & 1 | is_masquerade;
    let between = |from: u32, to: u32, step: u32| (from + (to - from) * step) as usize;
    let (outer, inner) = (Fields::<A>::OUTER_PORTS.offset(), Fields::<A>::INNER_PORTS.offset());
    let far_port = between(outer, inner, is_inside);
    let near_port = far_port + between(0, Fields::<A>::MASQUERADE_PORT.offset() - inner, is_masquerade);
    let near = between(Fields::<A>::CLIENT.offset(), Fields::<A>::MASQUERADE.offset(), is_masquerade);
    let far = between(Fields::<A>::FRONTEND.offset(), Fields::<A>::BACKEND.offset(), is_inside);
    // Of the words with the ports, the lower half of one and the upper half of the other.
    let [near_0, near_1, _, _] = set.load::<u32>(way, Field::at(near_port)).to_ne_bytes();
    order_loads();
    let [_, _, far_0, far_1] = set.load::<u32>(way, Field::at(far_port)).to_ne_bytes();
    let ports = u32::from_ne_bytes([near_0, near_1, far_0, far_1]);
    let wanted = u32::from_ne_bytes([key.near_port[0], key.near_port[1], key.far_port[0], key.far_port[1]]);
    let differs = u64::from(ports ^ wanted)
            | set.load::<A>(way, Field::at(near)).differs(key.near)
            | set.load::<A>(way, Field::at(far)).differs(key.far)
            // Odd, or of another protocol.
            | u64::from(sequence & 7 ^ key.protocol << 1)
            | u64::from((word.kind ^ key.protocol as u8) & (FlowWay::ALIAS | FlowWay::PROTOCOL))
            | u64::from(way.wrapping_sub(1) >> 31);
    (differs, sequence)
}

/// The ways with this tag, protocol and side, as bits: that of way n is 2ⁿ.
///
/// Without a branch for each: the CPU compares all seven at once, and the verifier goes one way, not seven.
#[inline(always)]
pub(super) fn labelled<A: Shared>(set: SetRef<'_, A>, label: u32) -> u64 {
    const MASK: u32 = 0xffff | ((FlowWay::PROTOCOL | FlowWay::MASQUERADE) as u32) << 16;
    const { assert!(FlowSet::<A>::WAYS == 7) };
    // Nothing less one has the highest bit, no other number of 32 bits does.
    let bit = |way| (u64::from((set.label(way) ^ label) & MASK).wrapping_sub(1) >> 63) << way;
    // Not as a loop: the compiler leaves it one, at thrice the cost.
    bit(1) | bit(2) | bit(3) | bit(4) | bit(5) | bit(6) | bit(7)
}

/// The number of the lowest bit that is set, of eight.
#[inline(always)]
fn lowest(ways: u64) -> u32 {
    let bit = ways & ways.wrapping_neg();
    // A de Bruijn sequence: each bit brings other three bits to the front. A table would be one more look-up.
    let front = (bit.wrapping_mul(0x17) >> 5) & 7;
    ((0x5637_4210_u64 >> (front * 4)) & 7) as u32
}

impl<'a, A: Shared> Found<'a, A> {
    /// A flow by the number that [`FlowMemory::search`] answered, or [`Found::number`].
    #[inline(always)]
    pub fn numbered(flows: &'a impl FlowMemory<A>, number: u64) -> Option<Self> {
        let (place, sequence) = ((number >> 32) as u32, number as u32);
        if place == 0 {
            return None;
        }
        let set = flows.set(place >> 3)?;
        let word = set.way(place & 7);
        // It may be gone by now.
        (!word.is_free() && !word.is_alias()).then_some(Self { set, place, word, sequence })
    }

    /// Its place and its sequence in one number.
    #[inline(always)]
    pub fn number(&self) -> u64 {
        found(self.place, self.sequence)
    }

    /// A flow by its place, if there is one.
    #[inline(always)]
    pub(super) fn at(flows: &'a impl FlowMemory<A>, place: Place) -> Option<Self> {
        let way = place & 7;
        let set = flows.set(place >> 3)?;
        let word = set.way(way);
        if way == 0 || word.is_free() || word.is_alias() {
            return None;
        }
        let sequence = set.load(way, Fields::<A>::SEQUENCE) & !HELD;
        order_loads();
        (sequence & 1 == 0).then_some(Self { set, place, word, sequence })
    }

    #[inline(always)]
    pub(super) fn set(&self) -> SetRef<'a, A> {
        self.set
    }

    #[inline(always)]
    pub(super) fn way(&self) -> u32 {
        self.place & 7
    }

    /// Whether all that was read since it was found is of this one flow.
    #[inline(always)]
    pub fn is_whole(&self) -> bool {
        order_loads();
        self.set.load(self.way(), Fields::<A>::SEQUENCE) & !HELD == self.sequence
    }

    /// The client's address.
    #[inline(always)]
    pub fn client(&self) -> A {
        self.set.load(self.way(), Fields::<A>::CLIENT)
    }

    /// The address that the client talks to.
    #[inline(always)]
    pub fn frontend(&self) -> A {
        self.set.load(self.way(), Fields::<A>::FRONTEND)
    }

    /// The endpoint's address.
    #[inline(always)]
    pub fn backend(&self) -> A {
        self.set.load(self.way(), Fields::<A>::BACKEND)
    }

    /// The client's port and the frontend's.
    #[inline(always)]
    pub fn outer_ports(&self) -> [[u8; 2]; 2] {
        pair(self.set.load(self.way(), Fields::<A>::OUTER_PORTS))
    }

    /// The stack's port and the backend's.
    #[inline(always)]
    pub fn inner_ports(&self) -> [[u8; 2]; 2] {
        pair(self.set.load(self.way(), Fields::<A>::INNER_PORTS))
    }

    /// Id of the Service port.
    #[inline(always)]
    pub fn service(&self) -> u32 {
        self.set.load(self.way(), Fields::<A>::SERVICE)
    }

    /// Id and generation of the backend.
    #[inline(always)]
    pub fn backend_identity(&self) -> (u32, u32) {
        (self.set.load(self.way(), Fields::<A>::BACKEND_ID), self.set.load(self.way(), Fields::<A>::GENERATION))
    }

    /// The masquerade port and the flags. Where the port is not 0, [`Found::masquerade`] may be read.
    #[inline(always)]
    pub fn masquerade_port(&self) -> ([u8; 2], u8) {
        let [high, low, flags, _] = self.set.load(self.way(), Fields::<A>::MASQUERADE_PORT).to_ne_bytes();
        ([high, low], flags)
    }

    /// The masquerade address, once the port is there.
    #[inline(always)]
    pub fn masquerade(&self) -> A {
        order_loads();
        self.set.load(self.way(), Fields::<A>::MASQUERADE)
    }

    /// When it began.
    pub fn began(&self) -> u32 {
        self.set.load(self.way(), Fields::<A>::BEGAN)
    }

    /// Notes that a packet was seen, and what it says. Writes only what differs: the line is shared among CPUs.
    #[inline(always)]
    pub fn touch(&self, now: u32, news: u8) {
        let mut old = self.word;
        for _ in 0..TOUCHES {
            let new = FlowWay { seen: now, state: old.state | news, ..old };
            if new == old || self.set.exchange_way(self.way(), old, new) {
                return;
            }
            old = self.set.way(self.way());
            if old.tag != self.word.tag || old.kind != self.word.kind {
                // Another flow's by now.
                return;
            }
        }
    }

    /// Removes it with its aliases. False if it has changed since it was found.
    #[inline(always)]
    pub(super) fn remove(&self, flows: &impl FlowMemory<A>) -> bool {
        flows.remove(self.place, self.sequence, self.word)
    }

    /// Whether nobody is about to give it an alias.
    #[inline(always)]
    pub(super) fn is_settled(&self) -> bool {
        order_loads();
        self.set.load(self.way(), Fields::<A>::SEQUENCE) == self.sequence
    }

    /// Whether an alias that leads here is none of its own.
    #[inline(always)]
    pub(super) fn disowns(&self, alias: Place) -> bool {
        // Settled before: an alias that came since has been seen. And after: what was read is of this flow.
        let [stack, masquerade] = if self.is_settled() { self.aliases() } else { [alias, alias] };
        stack != alias && masquerade != alias && self.is_settled()
    }

    /// Where its aliases are; 0 for none.
    #[inline(always)]
    pub(super) fn aliases(&self) -> [Place; 2] {
        let at = |field| self.set.load(self.way(), field);
        [at(Fields::<A>::STACK_ALIAS), at(Fields::<A>::MASQUERADE_ALIAS)]
    }
}

/// [`FlowMemory::remove`].
#[inline(always)]
pub fn remove<A: Shared>(flows: &impl FlowMemory<A>, place: Place, sequence: u32, word: FlowWay) -> bool {
    let Some(set) = flows.set(place >> 3) else {
        return false;
    };
    let flow = Found { set, place, word, sequence };
    let aliases = flow.aliases();
    if !flow.is_whole() || !set.exchange_way(place & 7, word, FlowWay::FREE) {
        return false;
    }
    drop_alias(flows, aliases[0], place);
    drop_alias(flows, aliases[1], place);
    true
}

/// Removes an alias if it still leads to this place.
#[inline(always)]
pub(super) fn drop_alias<A: Shared>(flows: &impl FlowMemory<A>, alias: Place, place: Place) {
    if alias == 0 {
        return;
    }
    if let Some(set) = flows.set(alias >> 3) {
        let word = set.way(alias & 7);
        if word.is_alias() && word.seen == place {
            set.exchange_way(alias & 7, word, FlowWay::FREE);
        }
    }
}

#[inline(always)]
fn pair(ports: u32) -> [[u8; 2]; 2] {
    let [a, b, c, d] = ports.to_ne_bytes();
    [[a, b], [c, d]]
}

#[cfg(test)]
mod tests {
    use super::lowest;

    #[test]
    fn the_lowest_bit_of_eight() {
        for ways in 1..256_u64 {
            assert_eq!(lowest(ways), ways.trailing_zeros(), "{ways:08b}");
        }
    }
}
