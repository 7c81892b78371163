//! Carrying flows over into a table of another size, by the agent.
//!
//! Where a flow lies follows from the size, so a table keeps its size for life. Another one is made beside it and filled
//! with the same flows, while programs still use the former one, and again while programs of both run; see the agent's
//! `kernel/sets.rs` for who does what when. What the former table has counts: a flow that differs is replaced.
//!
//! It takes no lock: the agent may be killed at any moment. That is sound as long as no program stores new flows in the
//! table that is filled: either no program uses it yet, or new flows are held ([`FlowHold`](crate::maps::FlowHold)).

use super::alias::{Alias, alias_locked};
use super::find::{Found, find};
use super::insert::{NewFlow, store};
use super::life::{Class, Rank, is_over};
use super::memory::{Fields, FlowMemory, Shared};
use super::{HELD, Place, home_of};
use crate::maps::{FlowKey, FlowSet, FlowSide, FlowWay};

/// How often a flow is read that somebody writes at the same time.
const READS: u32 = 8;
/// How often it is tried to raise how far look-ups go on from a set.
const RAISES: u32 = 1_000;

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// Flows that were not there, or were other ones.
    pub stored: u32,
    /// Flows that were there, and are as new now as in the former table.
    pub there: u32,
    /// Flows that found no room, and that nothing would have evicted from the former table.
    pub lost: u32,
}

/// A flow as it was read from the former table.
struct Copied<A: Shared> {
    new: NewFlow<A>,
    word: FlowWay,
    began: u32,
    masquerade: A,
    masquerade_port: [u8; 2],
}

/// Carries flows over that are not over at `now`, of which a packet was seen at `since` or later.
pub fn carry<A: Shared>(from: &impl FlowMemory<A>, to: &impl FlowMemory<A>, since: u32, now: u32) -> Carried {
    let mut carried = Carried::default();
    for index in 0..from.config().sets {
        let Some(set) = from.set(index) else { break };
        for way in 1..=FlowSet::<A>::WAYS {
            let word = set.way(way);
            if word.is_free() || word.is_alias() || word.seen < since || is_over(word, now, from.config()) {
                continue;
            }
            let Some(flow) = read(from, index * 8 + way, now) else {
                continue;
            };
            match bring(to, flow, now) {
                Brought::Stored => carried.stored += 1,
                Brought::There => carried.there += 1,
                Brought::NoRoom => {
                    carried.lost += u32::from(Rank::of(word, now, from.config()).class() == Class::Stays);
                }
            }
        }
    }
    carried
}

/// A whole flow. `None` if it goes, or comes, at this moment: what comes is seen the next time.
fn read<A: Shared>(from: &impl FlowMemory<A>, place: Place, now: u32) -> Option<Copied<A>> {
    for _ in 0..READS {
        let found = Found::at(from, place)?;
        let ([client_port, frontend_port], [stack_port, backend_port]) = (found.outer_ports(), found.inner_ports());
        let (backend_id, generation) = found.backend_identity();
        let (masquerade_port, flags) = found.masquerade_port();
        let copied = Copied {
            new: NewFlow {
                service: found.service(),
                backend_id,
                generation,
                backend_port,
                flags,
                now,
                client_port,
                frontend_port,
                stack_port,
                proto: found.word.proto(),
                state: found.word.state,
                backend: found.backend(),
                client: found.client(),
                frontend: found.frontend(),
                ..NewFlow::default()
            },
            word: found.word,
            began: found.began(),
            masquerade: found.masquerade(),
            masquerade_port,
        };
        // Settled, so that it has its aliases, or will be read again.
        if found.is_settled() {
            return Some(copied);
        }
    }
    None
}

enum Brought {
    Stored,
    There,
    NoRoom,
}

impl<A: Shared> Copied<A> {
    /// Its addresses on the backend's side, if it is masqueraded.
    fn masqueraded(&self) -> Option<FlowKey<A>> {
        let key = self.new.key(FlowSide::Masquerade);
        (self.masquerade_port != [0; 2]).then_some(FlowKey {
            near: self.masquerade,
            near_port: self.masquerade_port,
            ..key
        })
    }

    /// Whether a flow with the same client and frontend is the same connection.
    fn is(&self, there: &Found<'_, A>) -> bool {
        let new = &self.new;
        let is_same = there.began() == self.began
            && there.backend() == new.backend
            && there.inner_ports() == [new.stack_port, new.backend_port]
            && there.backend_identity() == (new.backend_id, new.generation);
        is_same && there.is_whole()
    }
}

fn bring<A: Shared>(to: &impl FlowMemory<A>, flow: Copied<A>, now: u32) -> Brought {
    if let Some(there) = find(to, &flow.new.key(FlowSide::Client), FlowSide::Client) {
        let port = there.masquerade_port().0;
        if flow.is(&there) && (port == flow.masquerade_port || flow.masquerade_port == [0; 2]) {
            there.touch(flow.word.seen.max(there.word.seen), flow.word.state);
            return Brought::There;
        }
        // In vain if it is used at this moment: then it is looked at again the next time.
        there.remove(to);
    }
    // Whatever else has its addresses is no more in the former table.
    let sides = [(Some(flow.new.key(FlowSide::Stack)), FlowSide::Stack), (flow.masqueraded(), FlowSide::Masquerade)];
    for (key, side) in sides {
        if let Some(key) = key
            && let Some(other) = find(to, &key, side)
        {
            other.remove(to);
        }
    }
    if place(to, &flow, now).is_some() { Brought::Stored } else { Brought::NoRoom }
}

/// Stores a flow with its aliases. `None` if there is no room for them.
fn place<A: Shared>(to: &impl FlowMemory<A>, flow: &Copied<A>, now: u32) -> Option<()> {
    let new = &flow.new;
    let key = new.key(FlowSide::Client);
    let home = home_of(to, &key, FlowSide::Client);
    let mut reach = 0;
    // Held until it knows its aliases, so that nobody takes them for lost.
    let place = store(to, new, home, &mut reach, HELD).ok()?;
    raise_reach(to, home.set, reach)?;
    let stored = Found::at(to, place)?;
    let (set, way) = (stored.set(), stored.way());
    set.store(way, Fields::<A>::BEGAN, flow.began);
    // The time of its last packet, unless one has come meanwhile.
    set.exchange_way(way, FlowWay { seen: now, ..stored.word }, FlowWay { seen: flow.word.seen, ..stored.word });
    let mut is_whole = true;
    if new.stack_port != new.client_port {
        match second(to, &new.key(FlowSide::Stack), FlowSide::Stack, place, now) {
            Some(alias) => set.store(way, Fields::<A>::STACK_ALIAS, alias),
            None => is_whole = false,
        }
    }
    if let Some(key) = flow.masqueraded() {
        match second(to, &key, FlowSide::Masquerade, place, now) {
            Some(alias) => {
                let [high, low] = flow.masquerade_port;
                set.store(way, Fields::<A>::MASQUERADE, flow.masquerade);
                set.store(way, Fields::<A>::MASQUERADE_ALIAS, alias);
                set.store(way, Fields::<A>::MASQUERADE_PORT, u32::from_ne_bytes([high, low, new.flags, 0]));
            }
            None => is_whole = false,
        }
    }
    set.publish(way, Fields::<A>::SEQUENCE, stored.sequence);
    if !is_whole && let Some(stored) = Found::at(to, place) {
        stored.remove(to);
    }
    is_whole.then_some(())
}

/// Stores an alias.
fn second<A: Shared>(
    to: &impl FlowMemory<A>,
    key: &FlowKey<A>,
    side: FlowSide,
    place: Place,
    now: u32,
) -> Option<Place> {
    let home = home_of(to, key, side);
    let mut reach = 0;
    let alias: Alias = alias_locked(to, key, side, home, place, now, &mut reach);
    let alias = alias.place()?;
    raise_reach(to, home.set, reach)?;
    Some(alias)
}

/// Has look-ups go on at least so far from a set.
fn raise_reach<A: Shared>(to: &impl FlowMemory<A>, index: u32, reach: u32) -> Option<()> {
    let set = to.set(index)?;
    for _ in 0..RAISES {
        let head = set.head();
        if (head >> 32) as u32 >= reach {
            return Some(());
        }
        // Never while a program has the lock: it would write what it read before.
        if head & 1 == 0 && set.exchange_head(head, u64::from(head as u32) | (u64::from(reach) << 32)) {
            return Some(());
        }
        core::hint::spin_loop();
    }
    None
}
