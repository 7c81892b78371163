//! The table of flows: sets of seven, in an array that all CPUs share.
//!
//! | module | what it does |
//! |---|---|
//! | [`memory`] | where sets lie, and how words of them are read and written |
//! | `find` | look-up, and what may be read of what was found |
//! | `insert` | a new flow |
//! | `alias` | second entries: for a changed source port, and for a masquerade |
//! | `renew` | a closed flow whose client opens it anew |
//! | `room` | who makes room for an entry, and the lock of a set |
//! | `ports` | source ports for flows that cannot keep the client's |
//! | `life` | when a flow is over, and whom it may have to make way for |
//! | [`sweep`](sweep()) | housekeeping, by the agent |
//! | [`carry`](carry()) | into a table of another size, by the agent |
//!
//! # One entry for both directions
//!
//! A flow's set follows from the hash of its client's address, port and protocol alone. So a request on its way to the
//! frontend, the same request on its way to the backend, and the reply on its way to the client all lead to one entry,
//! which is compared in full with what the packet has on that side. Two things have addresses of their own and so
//! another set: a flow that was masqueraded, and one whose source port had to be changed inside the node. For these an
//! *alias* is stored there: a word that says where the flow is. Whoever follows it compares the packet with the flow
//! itself, so an alias without its flow leads nowhere, and there are no halves of a connection.
//!
//! The first line of a set has a word for each way: 16 bits of the hash, the protocol, the state, and when a packet was
//! last seen. A look-up that misses reads that line alone; one that hits reads the flow's line as well. A flow
//! whose set is full lies in one of the three that follow; [`reach`](crate::maps::FlowSet::reach) says how far to look.
//!
//! # Many CPUs
//!
//! - **Nobody sees a mix of two flows.** A flow's fields are written only while its
//!   [`sequence`](crate::maps::Flow::sequence) is odd, and whoever writes has made it odd by compare-and-exchange, so
//!   there is one writer. A reader takes the sequence, reads and compares the fields, and takes the sequence again: it
//!   is whole if that was even and has not changed. It counts up to 2²⁸ before it comes round, which no reader outlasts;
//!   it has the protocol in it, which is part of what is compared. Before the first field changes, the way's word has
//!   been taken away, and it is put back, as another one, after the last.
//! - **A masquerade is added once to a flow that is in use**, without making it odd: who adds it (or renews a closed flow) marks
//!   the sequence with its highest bit, by compare-and-exchange, so there is one who does, and nobody evicts the flow meanwhile. The
//!   address is written before the port, and read after it; a port of 0 means that it is not there yet.
//! - **A connection is stored once.** Who inserts holds the lock of the set where the flow belongs (where the alias
//!   belongs), looks whether the flow has come meanwhile, and stores it. The lock is a counter made odd by
//!   compare-and-exchange; who does not get it within some tries drops the packet, which is counted. No program sleeps
//!   or is moved while it has a lock, and the agent, which may be killed at any moment, takes none.
//! - **State and time are in the way's word**, which is always exchanged as a whole: what one CPU sees is not lost by
//!   what another writes, and a flow that was just used is not removed as idle: the word has changed.
//! - **Order.** A compare-and-exchange orders all before it and after it, on every CPU. The publishing of a sequence
//!   comes after the fields (x86 orders stores; elsewhere it is an exchange). Readers order their loads by
//!   `order_loads`, which is nothing on x86 and an exchange elsewhere.
//!
//! # Who makes way
//!
//! An insertion takes, in this order: a free way of the set, one whose flow is over, the same of the three sets that
//! follow; then the longest idle closed connection of all these; then the longest idle one that is half open: a TCP
//! connection whose client has not yet answered its backend, a UDP flow that nobody has answered. If there is none, the
//! new flow is not stored. **An established flow that is not over is never evicted**, whatever comes in.

mod alias;
mod carry;
mod find;
mod insert;
mod life;
pub mod memory;
mod ports;
mod renew;
mod room;
mod sweep;

pub use alias::{Alias, AliasError, alias, masquerade, untagged_port};
pub use carry::{Carried, carry};
pub use find::{Found, Missing, NOBODY, find, find_fast, home_of, remove, search};
pub use insert::{InsertError, Inserted, Insertion, NewFlow, insert, open};
pub(crate) use life::is_ending;
pub use life::is_over;
pub use memory::{FlowMemory, SetRef, Shared};
pub(crate) use ports::is_masquerade_port;
pub use ports::{MASQUERADE_PORTS, Ports};
pub use room::room;
pub use sweep::{FlowUse, staying, sweep};

use crate::maps::FlowKey;

/// In how many sets a flow may lie, the one where it belongs included.
pub const REACH: u32 = 4;

/// How often room is looked for, where another CPU takes what was found.
///
/// Programs count loops in whole words. Two halves of a word on the stack are one to the verifier: where one is written, as the
/// key of a look-up is, it forgets what the other one was, and so how often the loop has been gone through.
const ROOMS: u64 = 3;

/// The highest bit of a sequence: a masquerade is being added.
const HELD: u32 = 1 << 31;

/// Where a flow is: the number of its set × 8, and that of its way, from 1 on.
pub type Place = u32;

/// What the hash says about an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Home {
    /// The set where it belongs.
    pub set: u32,
    /// Its tag there.
    pub tag: u16,
}

/// What is mixed in for the parts of a key, and what the sum is multiplied by: odd numbers without a pattern.
const MIX: [u64; 4] = [0x9e37_79b9_7f4a_7c15, 0xbf58_476d_1ce4_e5b9, 0x94d0_49bb_1331_11eb, 0xd6e8_feb8_6659_fd93];

/// Where an entry belongs. A flow and its replies are found by the client's side alone; an alias for masqueraded
/// packets by all of their addresses, as the near one is always the node's own.
#[inline(always)]
fn home<A: Shared>(seed: u64, sets: u32, key: &FlowKey<A>, whole: bool) -> Home {
    let near = u32::from(u16::from_ne_bytes(key.near_port)) | (key.protocol << 16);
    let mut word = key.near.mix() ^ u64::from(near).wrapping_mul(MIX[1]) ^ seed;
    if whole {
        let far = u64::from(u16::from_ne_bytes(key.far_port)) | 1 << 16;
        word ^= key.far.mix().rotate_left(32) ^ far.wrapping_mul(MIX[3]);
    }
    word = word.wrapping_mul(MIX[0]);
    word = (word ^ (word >> 32)).wrapping_mul(MIX[2]);
    word ^= word >> 29;
    // The high bits of the product: a number below `sets` without a division.
    Home { set: ((u64::from(word as u32) * u64::from(sets)) >> 32) as u32, tag: (word >> 48) as u16 }
}

/// The set that lies so many after another; the first follows the last.
#[inline(always)]
const fn set_after(set: u32, distance: u32, sets: u32) -> u32 {
    let index = set.wrapping_add(distance);
    if index >= sets { index.wrapping_sub(sets) } else { index }
}
