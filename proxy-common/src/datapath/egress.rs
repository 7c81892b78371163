//! Packets that leave through a device: replies to clients, and requests that are to be masqueraded.

use core::mem::MaybeUninit;

use super::family::locate;
use super::flow;
use super::fragment::{follow_first, note};
use super::masquerade::{Masquerade, allocate, masquerade};
use super::parse::{Awkward, Parsed, look_closer, parse, parse_any, parse_at, parse_error};
use super::rewrite::{rewrite, rewrite_error};
use super::{Env, Family, Packet, Step, Tuple, Verdict};
use crate::blank::blank;
use crate::flows::{FlowMemory, find_fast};
use crate::maps::{DropReason, FlowSide, FragmentHook};

/// Translates a packet that leaves: a reply gets the frontend's address back, a request the node's own where
/// its flow asks for that.
#[inline(always)]
pub fn egress<A: Family, E: Env<A>, P: Packet>(packet: &mut P, env: &mut E) -> Verdict {
    match translate::<A, E, P>(packet, env) {
        Step::Done(verdict) => verdict,
        Step::Slow => match begin_masquerade::<A, E, P>(packet, env) {
            Ok(()) => begun(translate::<A, E, P>(packet, env)),
            Err(reason) => Verdict::Drop(reason),
        },
        Step::Other => match look_closer::<A, P>(packet) {
            Awkward::Other => Verdict::Pass,
            Awkward::Icmp => error::<A, E, P>(packet, env),
            Awkward::Later => follow_first::<A, E, P>(packet, env, FragmentHook::Egress),
            Awkward::Transport => match translate_awkward::<A, E, P>(packet, env) {
                Step::Done(verdict) => verdict,
                Step::Other => Verdict::Pass,
                Step::Slow => match begin_masquerade::<A, E, P>(packet, env) {
                    Ok(()) => begun(translate_awkward::<A, E, P>(packet, env)),
                    Err(reason) => Verdict::Drop(reason),
                },
            },
        },
    }
}

/// What came of a packet that was translated once more, after its flow had got its masquerade address.
#[inline(always)]
fn begun(step: Step) -> Verdict {
    match step {
        Step::Done(verdict) => verdict,
        // The flow was evicted in between.
        Step::Slow | Step::Other => Verdict::Drop(DropReason::FlowTable),
    }
}

/// TCP and UDP packets of a flow that is there. [`Step::Slow`] where it is yet to be masqueraded.
#[inline(never)]
fn translate<A: Family, E: Env<A>, P: Packet>(packet: &mut P, env: &mut E) -> Step {
    let Some(parsed) = parse::<A, P>(packet) else {
        return Step::Other;
    };
    let mut to = parsed.tuple;
    match rename(env, &parsed, packet.length(), &mut to) {
        Masquerade::NotAsked => return Step::Done(Verdict::Pass),
        Masquerade::Yet => return Step::Slow,
        Masquerade::Known => {}
    }
    Step::Done(rewrite(packet, &parsed, &to))
}

/// The same for first fragments, and packets with extension headers.
#[inline(never)]
fn translate_awkward<A: Family, E: Env<A>, P: Packet>(packet: &mut P, env: &mut E) -> Step {
    let place = locate::<A, P>(packet);
    let Some(parsed) = parse_at::<A, P>(packet, place) else {
        return Step::Other;
    };
    let mut to = parsed.tuple;
    match rename(env, &parsed, packet.length(), &mut to) {
        Masquerade::NotAsked => return Step::Done(Verdict::Pass),
        Masquerade::Yet => return Step::Slow,
        Masquerade::Known => {}
    }
    note(env, place, &parsed.tuple, &to, FragmentHook::Egress);
    Step::Done(rewrite(packet, &parsed, &to))
}

/// The names under which a packet goes on: those of its flow's other side, or a masquerade's.
#[inline(always)]
fn rename<A: Family, E: Env<A>>(env: &mut E, parsed: &Parsed<A>, length: u32, to: &mut Tuple<A>) -> Masquerade {
    if undo_dnat(env, parsed, length, to) { Masquerade::Known } else { masquerade(env, parsed, to) }
}

/// ICMP errors about packets of a flow.
#[inline(never)]
fn error<A: Family, E: Env<A>, P: Packet>(packet: &mut P, env: &mut E) -> Verdict {
    let Some(parsed) = parse_error::<A, P>(packet) else {
        return Verdict::Pass;
    };
    let mut to = parsed.tuple;
    if rename(env, &parsed, packet.length(), &mut to) == Masquerade::Known {
        return rewrite_error(packet, &parsed, &to);
    }
    Verdict::Pass
}

/// The first packet of a flow that leaves the node under another address.
#[inline(never)]
fn begin_masquerade<A: Family, E: Env<A>, P: Packet>(packet: &mut P, env: &mut E) -> Result<(), DropReason> {
    let mut tuple = MaybeUninit::uninit();
    let tuple = blank(&mut tuple);
    if !has_tuple::<A, P>(packet, tuple) {
        return Ok(());
    }
    let number = env.flows().search(&tuple.as_request(), FlowSide::Stack);
    allocate(env, tuple, number)
}

#[inline(never)]
fn has_tuple<A: Family, P: Packet>(packet: &P, tuple: &mut Tuple<A>) -> bool {
    let Some(parsed) = parse_any::<A, P>(packet) else {
        return false;
    };
    *tuple = parsed.tuple;
    true
}

/// A reply on its way to the client. False where there is no such flow.
#[inline(always)]
fn undo_dnat<A: Family, E: Env<A>>(env: &mut E, parsed: &Parsed<A>, length: u32, to: &mut Tuple<A>) -> bool {
    let flows = env.flows();
    let Ok(found) = find_fast(&flows, &parsed.tuple.as_reply(), FlowSide::Stack) else {
        return false;
    };
    let service = found.service();
    to.src = found.frontend();
    [to.dst_port, to.src_port] = found.outer_ports();
    if !found.is_whole() {
        *to = parsed.tuple;
        return false;
    }
    found.touch(env.now(), flow::backend_state(parsed));
    env.count(service, |counters| {
        counters.reply_packets += 1;
        counters.reply_bytes += u64::from(length);
    });
    true
}
