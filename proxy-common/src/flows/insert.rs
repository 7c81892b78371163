//! A new flow, an alias, and who makes room for it.

use super::find::{Found, drop_alias, find, label, labelled};
use super::life::{Class, Rank, greater, is_ending, is_vacant};
use super::memory::{Fields, FlowMemory, SetRef, Shared};
use super::ports::Ports;
use super::{HELD, Home, Place, REACH, home_of, set_after};
use crate::maps::{FlowEvent, FlowKey, FlowSet, FlowSide, FlowWay};

/// How often a lock is tried that another CPU has: some microseconds.
const LOCKS: u32 = 64;
/// How often room is looked for, where another CPU takes what was found.
const ROOMS: u32 = 3;
/// How many source ports are tried for a client port that already leads to the same backend.
const PORTS: u32 = 4;

/// A flow that is to be stored.
///
/// What is written or read at once begins at a multiple of 8: the compiler takes 8 bytes of it, and BPF's stack gives that
/// only aligned.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NewFlow<A: Shared> {
    /// Id of the Service port.
    pub service: u32,
    /// Id of the backend.
    pub backend_id: u32,
    /// Its generation.
    pub generation: u32,
    /// The port of the endpoint; network order, as all ports here.
    pub backend_port: [u8; 2],
    /// [`Flow::MASQUERADE`](crate::maps::Flow::MASQUERADE).
    pub flags: u8,
    /// Always 0.
    pub zero: u8,
    /// Whole seconds since boot.
    pub now: u32,
    /// The client's port, as it sees itself.
    pub client_port: [u8; 2],
    /// The port that the client talks to.
    pub frontend_port: [u8; 2],
    /// The client's port inside the node's stack.
    pub stack_port: [u8; 2],
    /// IP protocol number.
    pub proto: u8,
    /// Bits of [`FlowState`](crate::maps::FlowState).
    pub state: u8,
    /// Always 0.
    pub fill: A::Fill,
    /// The endpoint that is to serve it.
    pub backend: A,
    /// The client, as it sees itself.
    pub client: A,
    /// The address that the client talks to.
    pub frontend: A,
}

/// A flow that is in the table now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inserted {
    /// This one.
    New,
    /// One that another CPU has stored meanwhile for the same addresses.
    There,
}

/// Why a flow was not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InsertError {
    /// There is no room: all the others are established.
    Full,
    /// Another CPU held what was needed for too long.
    Contended,
    /// The same client port leads to this backend through another frontend, and no other port was free.
    Ports,
}

/// Why an alias was not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AliasError {
    /// Another flow has these addresses.
    Taken,
    /// There is no room, or no lock.
    Failed,
}

impl<A: Shared> NewFlow<A> {
    /// Its addresses as they are met on one side; the masquerade's are not known yet.
    #[inline(always)]
    pub fn key(&self, side: FlowSide) -> FlowKey<A> {
        let (near_port, far, far_port) = match side {
            FlowSide::Client => (self.client_port, self.frontend, self.frontend_port),
            FlowSide::Stack | FlowSide::Masquerade => (self.stack_port, self.backend, self.backend_port),
        };
        FlowKey { near: self.client, far, near_port, far_port, proto: self.proto, zero: [0; 3] }
    }
}

/// What [`FlowMemory::insert`] has done, as a number: the place of a flow that needs an alias yet in its upper half, 0 if none
/// does; one of these in its lower half.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Insertion(u64);

impl Insertion {
    const NEW: Self = Self(0);
    const THERE: Self = Self(1);
    /// See [`InsertError`].
    pub const FULL: Self = Self(2);
    const CONTENDED: Self = Self(3);
    const PORTS: Self = Self(4);

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
    fn moved(self) -> Place {
        (self.0 >> 32) as u32
    }

    #[inline(always)]
    fn result(self) -> Result<Inserted, InsertError> {
        match self {
            Self::NEW => Ok(Inserted::New),
            Self::THERE => Ok(Inserted::There),
            Self::FULL => Err(InsertError::Full),
            Self::PORTS => Err(InsertError::Ports),
            _ => Err(InsertError::Contended),
        }
    }
}

/// Stores a flow. `ended` is the sequence of the one that it is to replace, if there was one of the same addresses;
/// `random` leads to a source port for the stack where the client's is taken.
#[inline(always)]
pub fn open<A: Shared>(
    flows: &impl FlowMemory<A>,
    new: &mut NewFlow<A>,
    ended: Option<u32>,
    random: u32,
) -> Result<Inserted, InsertError> {
    let insertion = flows.insert(new, ended, random);
    let place = insertion.moved();
    if place == 0 {
        return insertion.result();
    }
    flows.count(FlowEvent::PortChanged);
    let alias = flows.alias(&new.key(FlowSide::Stack), FlowSide::Stack, place, new.now);
    let Some(stored) = Found::at(flows, place) else {
        return Err(InsertError::Contended);
    };
    if let Some(alias) = alias.place() {
        stored.set().store(stored.way(), Fields::<A>::STACK_ALIAS, alias);
        stored.set().publish(stored.way(), Fields::<A>::SEQUENCE, stored.sequence);
        return Ok(Inserted::New);
    }
    stored.set().publish(stored.way(), Fields::<A>::SEQUENCE, stored.sequence);
    stored.remove(flows);
    Err(InsertError::Ports)
}

/// [`FlowMemory::insert`].
#[inline(always)]
pub fn insert<A: Shared>(
    flows: &impl FlowMemory<A>,
    new: &mut NewFlow<A>,
    ended: Option<u32>,
    random: u32,
) -> Insertion {
    let mut key = new.key(FlowSide::Client);
    let home = home_of(flows, &key, FlowSide::Client);
    let Some(set) = flows.set(home.set) else {
        return Insertion::FULL;
    };
    let Some(head) = lock(flows, set) else {
        return Insertion::CONTENDED;
    };
    let mut reach = (head >> 32) as u32;
    let result = insert_locked(flows, new, &mut key, home, &mut reach, ended, random);
    unlock(set, head, reach);
    result
}

#[inline(always)]
fn insert_locked<A: Shared>(
    flows: &impl FlowMemory<A>,
    new: &mut NewFlow<A>,
    key: &mut FlowKey<A>,
    home: Home,
    reach: &mut u32,
    ended: Option<u32>,
    random: u32,
) -> Insertion {
    let config = flows.config();
    if let Some(old) = find(flows, key, FlowSide::Client) {
        if Some(old.sequence) != ended && !is_ending(old.word, new.now, config) {
            return Insertion::THERE;
        }
        if !old.remove(flows) {
            return Insertion::CONTENDED;
        }
    }
    // The backend must not see two connections with the same addresses and ports.
    (key.far, key.far_port) = (new.backend, new.backend_port);
    let mut ports = Ports::from(random);
    let mut is_free = false;
    for _ in 0..PORTS + 1 {
        let Some(other) = find(flows, key, FlowSide::Stack) else {
            is_free = true;
            break;
        };
        if is_vacant(other.word, new.now, config) && other.remove(flows) {
            is_free = true;
            break;
        }
        key.near_port = ports.next();
    }
    if !is_free {
        return Insertion::PORTS;
    }
    let is_moved = key.near_port != new.stack_port;
    new.stack_port = key.near_port;
    // Until it knows its alias nobody may take the alias for lost.
    match store(flows, new, home, reach, if is_moved { HELD } else { 0 }) {
        Ok(place) if is_moved => Insertion(u64::from(place) << 32),
        Ok(_) => Insertion::NEW,
        Err(InsertError::Full) => Insertion::FULL,
        Err(_) => Insertion::CONTENDED,
    }
}

/// Writes a flow to a place of its own.
#[inline(always)]
fn store<A: Shared>(
    flows: &impl FlowMemory<A>,
    new: &NewFlow<A>,
    home: Home,
    reach: &mut u32,
    held: u32,
) -> Result<Place, InsertError> {
    for _ in 0..ROOMS {
        let Some((distance, way)) = choose(flows, home.set, new.now) else {
            flows.count(FlowEvent::Full);
            return Err(InsertError::Full);
        };
        let index = set_after(home.set, distance, flows.config().sets);
        let Some(set) = flows.set(index) else {
            return Err(InsertError::Full);
        };
        let place = index * 8 + way;
        let Some(sequence) = seize(flows, set, place, new.now) else {
            continue;
        };
        write(set, way, new);
        let protocol = FlowWay::protocol(new.proto);
        let next = ((sequence & !HELD).wrapping_add(8) & !(HELD | 7)) | (u32::from(protocol) << 1);
        set.publish(way, Fields::<A>::SEQUENCE, next | held);
        let kind = protocol | (distance as u8) << 4;
        let word = FlowWay { seen: new.now, tag: home.tag, kind, state: new.state };
        if set.exchange_way(way, FlowWay::FREE, word) {
            if distance > *reach {
                *reach = distance;
            }
            return Ok(place);
        }
        // An alias came here meanwhile.
        set.publish(way, Fields::<A>::SEQUENCE, next);
    }
    flows.count(FlowEvent::Contended);
    Err(InsertError::Contended)
}

#[inline(always)]
fn write<A: Shared>(set: SetRef<'_, A>, way: u32, new: &NewFlow<A>) {
    let NewFlow { client_port: [a, b], frontend_port: [c, d], stack_port: [e, f], backend_port: [g, h], .. } = *new;
    set.store(way, Fields::<A>::CLIENT, new.client);
    set.store(way, Fields::<A>::FRONTEND, new.frontend);
    set.store(way, Fields::<A>::BACKEND, new.backend);
    set.store(way, Fields::<A>::OUTER_PORTS, u32::from_ne_bytes([a, b, c, d]));
    set.store(way, Fields::<A>::INNER_PORTS, u32::from_ne_bytes([e, f, g, h]));
    set.store(way, Fields::<A>::SERVICE, new.service);
    set.store(way, Fields::<A>::BACKEND_ID, new.backend_id);
    set.store(way, Fields::<A>::GENERATION, new.generation);
    set.store(way, Fields::<A>::MASQUERADE, A::default());
    set.store(way, Fields::<A>::MASQUERADE_PORT, u32::from_ne_bytes([0, 0, new.flags, 0]));
    set.store(way, Fields::<A>::STACK_ALIAS, 0);
    set.store(way, Fields::<A>::MASQUERADE_ALIAS, 0);
    set.store(way, Fields::<A>::BEGAN, new.now);
}

/// Which way is to be taken: its distance from home, and its number. `None` if nobody makes way.
#[inline(always)]
fn choose<A: Shared>(flows: &impl FlowMemory<A>, home: u32, now: u32) -> Option<(u32, u32)> {
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
    for way in 1..=FlowSet::<A>::WAYS {
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
fn seize<A: Shared>(flows: &impl FlowMemory<A>, set: SetRef<'_, A>, place: Place, now: u32) -> Option<u32> {
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
    fn place(self) -> Option<Place> {
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
fn alias_locked<A: Shared>(
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
        let kind = FlowWay::protocol(key.proto) | FlowWay::ALIAS | side_bit | (distance as u8) << 4;
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
const TAKE_OVERS: u32 = 4;

/// How many ports are tried in one turn. Those of all turns are spread over the whole range: with 28,000 of its ports in use,
/// one flow in 7,000 finds none.
const PROBES: u32 = 64;

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
        key.near_port = ports.next();
        let home = home_of(flows, key, FlowSide::Masquerade);
        let Some(set) = flows.set(home.set) else { return false };
        if labelled(set, label(home, key.proto, FlowSide::Masquerade)) == 0 {
            return true;
        }
    }
    false
}

/// Takes a set's lock. Answers its word as it was.
#[inline(always)]
fn lock<A: Shared>(flows: &impl FlowMemory<A>, set: SetRef<'_, A>) -> Option<u64> {
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
fn unlock<A: Shared>(set: SetRef<'_, A>, head: u64, reach: u32) {
    set.publish_head(u64::from((head as u32).wrapping_add(2)) | (u64::from(reach) << 32));
}
