//! A new flow.

use bytemuck::Zeroable;

use super::find::{Found, NOBODY, find};
use super::life::{is_ending, is_vacant};
use super::memory::{Fields, FlowMemory, SetRef, Shared};
use super::ports::Ports;
use super::renew::renew;
use super::room::{choose, lock, seize, unlock};
use super::{HELD, Home, Place, ROOMS, home_of, set_after};
use crate::maps::{FlowEvent, FlowKey, FlowSide, FlowWay};

/// How many source ports are tried for a client port that already leads to the same backend.
const PORTS: u64 = 4;

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

// SAFETY: zero is a value of each of its fields, which are integers, bytes and addresses.
unsafe impl<A: Shared> Zeroable for NewFlow<A> {}

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

impl<A: Shared> NewFlow<A> {
    /// Its addresses as they are met on one side; the masquerade's are not known yet.
    #[inline(always)]
    pub fn key(&self, side: FlowSide) -> FlowKey<A> {
        let (near_port, far, far_port) = match side {
            FlowSide::Client => (self.client_port, self.frontend, self.frontend_port),
            FlowSide::Stack | FlowSide::Masquerade => (self.stack_port, self.backend, self.backend_port),
        };
        FlowKey { near: self.client, far, near_port, far_port, protocol: u32::from(FlowWay::protocol(self.proto)) }
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
    let number = flows.search(key, FlowSide::Client);
    if let Some(old) = Found::numbered(flows, number) {
        if Some(old.sequence) != ended && !is_ending(old.word, new.now, config) {
            return Insertion::THERE;
        }
        if renew(&old, new) {
            return Insertion::NEW;
        }
        if !old.remove(flows) {
            return Insertion::CONTENDED;
        }
    }
    // The backend must not see two connections with the same addresses and ports. They would have the same label.
    (key.far, key.far_port) = (new.backend, new.backend_port);
    let mut ports = Ports::from(random);
    let mut is_free = number == NOBODY;
    for _ in 0..PORTS + 1 {
        if is_free {
            break;
        }
        let Some(other) = find(flows, key, FlowSide::Stack) else {
            is_free = true;
            break;
        };
        if is_vacant(other.word, new.now, config) && other.remove(flows) {
            is_free = true;
            break;
        }
        key.near_port = ports.draw();
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
pub(super) fn store<A: Shared>(
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
