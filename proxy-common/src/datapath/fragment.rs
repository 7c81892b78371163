//! Fragments after the first: they have no ports, so they go where the first one went.
//!
//! The first fragment is translated like a whole packet, and what became of its addresses is noted under what all the
//! fragments of a packet have in common. Absent on purpose: reassembly. A fragment that comes before its first passes
//! as it came.

use super::family::{Part, Place, locate};
use super::rewrite::rewrite_addresses;
use super::{Env, Family, Packet, Tuple, Verdict};
use crate::maps::{Fragment, FragmentHook, FragmentKey};

/// Seconds in which the fragments of a packet must come: what Linux keeps them for (`net.ipv6.ip6frag_time`; IPv4's 30
/// are less). Identifications are used again.
const LIFETIME: u32 = 60;

#[inline(always)]
fn key<A: Family>(src: A, dst: A, place: Place, hook: FragmentHook) -> FragmentKey<A> {
    let proto = if A::FRAGMENTS_BY_PROTO { place.proto } else { 0 };
    FragmentKey { src, dst, id: place.id, proto, hook: hook as u8, zero: [0; 2] }
}

/// Notes what becomes of a packet's addresses, if it is a first fragment.
#[inline(never)]
pub(super) fn note<A: Family, E: Env<A>>(
    env: &mut E,
    place: Place,
    from: &Tuple<A>,
    to: &Tuple<A>,
    hook: FragmentHook,
) {
    if place.part == Part::First {
        let fragment = Fragment { src: to.src, dst: to.dst, seen: env.now(), zero: [0; 4] };
        env.store_fragment(&key(from.src, from.dst, place, hook), &fragment);
    }
}

/// Gives a later fragment the addresses that the first one got.
#[inline(never)]
pub(super) fn follow_first<A: Family, E: Env<A>, P: Packet>(
    packet: &mut P,
    env: &mut E,
    hook: FragmentHook,
) -> Verdict {
    let place = locate::<A, P>(packet);
    let Some(src) = packet.load::<A>(A::SRC) else {
        return Verdict::Pass;
    };
    let Some(dst) = packet.load::<A>(A::DST) else {
        return Verdict::Pass;
    };
    let now = env.now();
    match env.fragment(&key(src, dst, place, hook)) {
        Some(first) if now.saturating_sub(first.seen) <= LIFETIME => {
            if first.src == src && first.dst == dst {
                return Verdict::Pass;
            }
            let (to_src, to_dst) = (first.src, first.dst);
            rewrite_addresses(packet, (src, to_src), (dst, to_dst))
        }
        _ => Verdict::Pass,
    }
}

/// Whether the first fragment was noted at a hook.
#[inline(never)]
pub(super) fn is_noted<A: Family, E: Env<A>, P: Packet>(packet: &P, env: &mut E, hook: FragmentHook) -> bool {
    let place = locate::<A, P>(packet);
    let Some(src) = packet.load::<A>(A::SRC) else {
        return false;
    };
    let Some(dst) = packet.load::<A>(A::DST) else {
        return false;
    };
    let now = env.now();
    env.fragment(&key(src, dst, place, hook)).is_some_and(|first| now.saturating_sub(first.seen) <= LIFETIME)
}
