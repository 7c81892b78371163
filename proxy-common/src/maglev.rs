//! Tables by which every node sends a flow from outside to the same backend.
//!
//! Maglev hashing (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, §3.4): each
//! backend has a permutation of the table's slots, and the backends take turns, each taking the first slot of its own that
//! is still free. All get the same number of slots but for one, and when a backend goes, few slots of the others change hands.
//!
//! A table follows from its backends alone. So does its length, in steps: another length shuffles all flows anew.
//! Absent on purpose: what a slot means to the maps.

use crate::addr::Address;

/// Most backends of a table, and its length: primes. No backend's share differs from another's by more than 5 %, and up to
/// 80 backends the slots that change hands are, on an average, at most twice those that must, which takes about 2.5 × n² of
/// them (the tests measure both).
const STEPS: [(usize, u32); 4] = [(10, 251), (28, 2_003), (80, 16_001), (2_621, 65_537)];

/// The length of the table for so many backends. `None` where a table is of no use: there is nothing to choose, or so many
/// backends that it could not be fair.
pub fn length(backends: usize) -> Option<u32> {
    if backends < 2 {
        return None;
    }
    STEPS.iter().find(|(most, _)| backends <= *most).map(|(_, length)| *length)
}

/// What of a backend decides where its slots are: the same on every node.
pub fn identity<A: Address>(address: A, port: [u8; 2]) -> u64 {
    scramble(address.mix() ^ u64::from(u16::from_be_bytes(port)).wrapping_mul(GOLDEN))
}

/// What a table is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turn {
    /// [`identity`] of the backend.
    pub identity: u64,
    /// The slot that it looks at next.
    next: usize,
    /// How far it goes from there.
    skip: usize,
}

impl Turn {
    /// For a backend with this [`identity`].
    pub const fn new(identity: u64) -> Self {
        Self { identity, next: 0, skip: 1 }
    }
}

/// A slot that nobody has taken yet.
const FREE: u32 = u32::MAX;

/// Fills a table with indexes into `turns`, which has to be in an order that every node comes to. The length of the table has
/// to be a prime above the number of turns. Without turns, or with a table of less than two slots, all slots are 0.
pub fn fill(turns: &mut [Turn], table: &mut [u32]) {
    let length = table.len();
    if turns.is_empty() || length < 2 {
        table.fill(0);
        return;
    }
    table.fill(FREE);
    for turn in &mut *turns {
        turn.next = below(turn.identity, length);
        turn.skip = below(scramble(turn.identity ^ GOLDEN), length - 1) + 1;
    }
    let mut free = length;
    while free > 0 {
        for (index, turn) in (0..).zip(&mut *turns).take(free) {
            // A prime length: every skip comes to all slots, and one is free.
            while let Some(slot) = table.get_mut(turn.next) {
                let was_free = *slot == FREE;
                if was_free {
                    *slot = index;
                }
                turn.next = if turn.next + turn.skip >= length {
                    turn.next + turn.skip - length
                } else {
                    turn.next + turn.skip
                };
                if was_free {
                    break;
                }
            }
        }
        free = free.saturating_sub(turns.len());
    }
}

/// The number of a flow from which its slot follows: the same on every node, whatever the address that it came to.
#[inline(always)]
pub fn hash<A: Address>(client: A, client_port: [u8; 2], frontend_port: [u8; 2], proto: u8) -> u32 {
    let [a, b] = client_port;
    let [c, d] = frontend_port;
    let ports = u64::from(u32::from_be_bytes([a, b, c, d])) | u64::from(proto) << 32;
    (scramble(client.mix() ^ ports.wrapping_mul(GOLDEN)) >> 32) as u32
}

/// 2⁶⁴ divided by the golden ratio: odd, and without a pattern.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// Mixes all bits with all: multiplications and shifts as in the finaliser of MurmurHash3.
#[inline(always)]
const fn scramble(mut word: u64) -> u64 {
    word ^= word >> 32;
    word = word.wrapping_mul(0xff51_afd7_ed55_8ccd);
    word ^= word >> 33;
    word = word.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    word ^ (word >> 33)
}

/// A number below `length`.
fn below(word: u64, length: usize) -> usize {
    (((word >> 32) * length as u64) >> 32) as usize
}
