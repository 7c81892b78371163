//! Fragments after the first: they have no ports, so they go where the first one went.
//!
//! The first fragment is translated like a whole packet, and what became of its addresses is noted under what all the
//! fragments of a packet have in common. Those that come in before it, and whose destination may be a frontend, are kept
//! until it comes, and then come in once more. So at such addresses first fragments are noted also where nothing becomes
//! of them. Absent on purpose: reassembly.

use super::family::{Part, Place, locate};
use super::rewrite::rewrite_addresses;
use super::select::is_in_range;
use super::{Env, Family, Packet, Tuple, Verdict};
use crate::maps::{EarlyKey, Fragment, FragmentHook, FragmentKey, RangeKey};

/// Seconds in which the fragments of a packet must come: what Linux keeps them for (`net.ipv6.ip6frag_time`; IPv4's 30
/// are less). Identifications are used again.
const LIFETIME: u32 = 60;

#[inline(always)]
fn key<A: Family>(src: A, dst: A, place: Place, hook: FragmentHook) -> FragmentKey<A> {
    let proto = if A::FRAGMENTS_BY_PROTO { place.proto } else { 0 };
    FragmentKey { src, dst, id: place.id, proto, hook: hook as u8, zero: [0; 2] }
}

#[inline(always)]
fn early_key<A: Family>(src: A, dst: A, place: Place) -> EarlyKey {
    let proto = if A::FRAGMENTS_BY_PROTO { place.proto } else { 0 };
    EarlyKey { src: src.widened(), dst: dst.widened(), id: place.id, proto, number: 0, zero: [0; 2] }
}

/// Whether an address may be one that Services are asked at: a ClusterIP, one of a load balancer, an external IP, or one of the
/// node's own, which NodePorts have and those answer to that were asked in the node's name.
#[inline(never)]
fn may_be_frontend<A: Family, E: Env<A>>(env: &E, address: &A) -> bool {
    let owners = [RangeKey::<A>::CLUSTER_IPS, RangeKey::<A>::NODE, RangeKey::<A>::EXTERNAL_IPS];
    owners.into_iter().any(|owner| is_in_range(env, owner, *address))
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

/// Has what came before this packet come again, if it is a first fragment, which was noted, and nothing is written yet.
#[inline(never)]
pub(super) fn recall<A: Family, P: Packet>(packet: &mut P, place: Place, from: &Tuple<A>) {
    if place.part == Part::First {
        packet.recall(&mut early_key(from.src, from.dst, place));
    }
}

/// Notes that a packet passes, if it is a first fragment of which later ones may have been kept.
#[inline(never)]
pub(super) fn note_passing<A: Family, E: Env<A>, P: Packet>(packet: &mut P, env: &mut E) {
    let place = locate::<A, P>(packet);
    let mut tuple = Tuple::default();
    if place.part != Part::First || !has_addresses::<A, P>(packet, &mut tuple) || !may_be_frontend(env, &tuple.dst) {
        return;
    }
    note(env, place, &tuple, &tuple, FragmentHook::Ingress);
    recall(packet, place, &tuple);
}

#[inline(always)]
fn has_addresses<A: Family, P: Packet>(packet: &P, tuple: &mut Tuple<A>) -> bool {
    let (Some(src), Some(dst)) = (packet.load::<A>(A::SRC), packet.load::<A>(A::DST)) else {
        return false;
    };
    (tuple.src, tuple.dst) = (src, dst);
    true
}

/// Keeps a fragment that has come before its first.
#[inline(never)]
fn keep<A: Family, E: Env<A>, P: Packet>(packet: &mut P, env: &mut E) -> Verdict {
    let place = locate::<A, P>(packet);
    let mut tuple = Tuple::default();
    if !has_addresses::<A, P>(packet, &mut tuple) || !may_be_frontend(env, &tuple.dst) {
        return Verdict::Pass;
    }
    let now = env.now();
    let mut early = early_key(tuple.src, tuple.dst, place);
    if !packet.keep(&mut early, now) {
        return Verdict::Pass;
    }
    // Its first may have come meanwhile, on another CPU.
    let first = env.fragment(&key(tuple.src, tuple.dst, place, FragmentHook::Ingress));
    if first.is_some_and(|first| now.saturating_sub(first.seen) <= LIFETIME) {
        packet.recall(&mut early);
    }
    Verdict::Kept
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
        _ if hook == FragmentHook::Ingress => keep::<A, E, P>(packet, env),
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
