//! Packets that come in from a device: requests of clients, and replies to masqueraded requests.

use core::mem::MaybeUninit;

use super::balance::{Opening, describe, open};
use super::family::{Place, locate};
use super::flow;
use super::fragment::{follow_first, is_noted, note, note_passing, recall};
use super::parse::{Awkward, Kind, Parsed, is_sound, look_closer, parse, parse_at, parse_error};
use super::refuse::refuse;
use super::rewrite::{rewrite, rewrite_error};
use super::select::{Refusal, is_stranger};
use super::{Env, Family, Packet, Step, Tuple, Verdict};
use crate::blank::blank;
use crate::flows::{FlowMemory, Found, Missing, NewFlow, find, find_fast, is_ending, is_masquerade_port};
use crate::maps::{DropReason, Flow, FlowSide, FragmentHook};

/// Translates a packet that comes in: undoes the masquerade of a reply, or sends a request to a backend.
#[inline(always)]
pub fn ingress<A: Family, E: Env<A>, P: Packet>(packet: &mut P, env: &mut E) -> Verdict {
    match translate::<A, E, P>(packet, env) {
        Step::Done(verdict) => verdict,
        Step::Slow => begin::<A, E, P>(packet, env, translate::<A, E, P>),
        Step::Other => {
            let verdict = awkward::<A, E, P>(packet, env);
            if verdict == Verdict::Pass {
                note_passing::<A, E, P>(packet, env);
            }
            verdict
        }
    }
}

#[inline(always)]
fn awkward<A: Family, E: Env<A>, P: Packet>(packet: &mut P, env: &mut E) -> Verdict {
    match look_closer::<A, P>(packet) {
        Awkward::Other => Verdict::Pass,
        Awkward::Icmp => error::<A, E, P>(packet, env),
        Awkward::Later => follow_first::<A, E, P>(packet, env, FragmentHook::Ingress),
        Awkward::Transport => match translate_awkward::<A, E, P>(packet, env) {
            Step::Done(verdict) => verdict,
            Step::Other => Verdict::Pass,
            Step::Slow => begin::<A, E, P>(packet, env, translate_awkward::<A, E, P>),
        },
    }
}

/// A packet of no flow that is as it should be may open one, and is then translated like any other.
#[inline(always)]
fn begin<A: Family, E: Env<A>, P: Packet>(
    packet: &mut P,
    env: &mut E,
    translate: impl Fn(&mut P, &mut E) -> Step,
) -> Verdict {
    let place = locate::<A, P>(packet);
    if !is_sound::<A, P>(packet, place) {
        return Verdict::Pass;
    }
    match open_flow::<A, E, P>(packet, env, place) {
        Opening::Opened | Opening::SentOn => opened(translate(packet, env)),
        opening => not_opened::<A, E, P>(packet, env, opening),
    }
}

/// What came of a packet that was translated once more, after it had opened its flow.
#[inline(always)]
fn opened(step: Step) -> Verdict {
    match step {
        Step::Done(Verdict::Translated) => Verdict::Opened,
        Step::Done(verdict) => verdict,
        // What was just stored is gone: so many flows begin that it was evicted at once.
        Step::Slow | Step::Other => Verdict::Drop(DropReason::FlowTable),
    }
}

#[inline(always)]
fn not_opened<A: Family, E: Env<A>, P: Packet>(packet: &mut P, env: &mut E, opening: Opening) -> Verdict {
    match opening {
        Opening::Held => Verdict::Again,
        Opening::Refused(Refusal::NobodyServes) => refuse::<A, E, P>(packet, env, Verdict::AnswerNobody),
        Opening::Refused(Refusal::UnknownPort) => refuse::<A, E, P>(packet, env, Verdict::AnswerUnknownPort),
        Opening::Refused(Refusal::Drop(reason)) => Verdict::Drop(reason),
        Opening::Refused(Refusal::NoFrontend) | Opening::Opened | Opening::SentOn => Verdict::Pass,
    }
}

/// Whether a packet that comes in, and that [`ingress`] left alone, is a backend's reply to a translated request.
///
/// On a bridge it matters: the request went through the stack, as it was for the Service's address, but the reply is
/// for a neighbour, and the bridge hands it over by itself. Netfilter then sees one direction only and takes the
/// client's next packet for INVALID. The hook sends such replies up to the stack, as br_netfilter would.
#[inline(always)]
pub fn is_reply<A: Family, E: Env<A>, P: Packet>(packet: &P, env: &mut E) -> bool {
    match is_common_reply::<A, E, P>(packet, env) {
        Some(is_reply) => is_reply,
        None => match look_closer::<A, P>(packet) {
            Awkward::Transport => is_awkward_reply::<A, E, P>(packet, env),
            Awkward::Later => is_noted::<A, E, P>(packet, env, FragmentHook::Bridge),
            Awkward::Icmp | Awkward::Other => false,
        },
    }
}

#[inline(never)]
fn is_common_reply<A: Family, E: Env<A>, P: Packet>(packet: &P, env: &mut E) -> Option<bool> {
    let parsed = parse::<A, P>(packet)?;
    Some(is_flow_reply(env, &parsed.tuple))
}

#[inline(never)]
fn is_awkward_reply<A: Family, E: Env<A>, P: Packet>(packet: &P, env: &mut E) -> bool {
    let place = locate::<A, P>(packet);
    let Some(parsed) = parse_at::<A, P>(packet, place) else {
        return false;
    };
    let is_reply = is_flow_reply(env, &parsed.tuple);
    if is_reply {
        note(env, place, &parsed.tuple, &parsed.tuple, FragmentHook::Bridge);
    }
    is_reply
}

/// Whether a packet with these addresses is a reply of a flow whose requests went through the stack: not of one past all Services, whose
/// requests the bridge has handed over as well.
#[inline(always)]
fn is_flow_reply<A: Family, E: Env<A>>(env: &E, tuple: &Tuple<A>) -> bool {
    find(&env.flows(), &tuple.as_reply(), FlowSide::Stack)
        .is_some_and(|found| found.service() != Flow::<A>::OF_NO_SERVICE && found.is_whole())
}

/// TCP and UDP packets of a flow that is there; the others are [`Step::Slow`].
#[inline(never)]
fn translate<A: Family, E: Env<A>, P: Packet>(packet: &mut P, env: &mut E) -> Step {
    let Some(parsed) = parse::<A, P>(packet) else {
        return Step::Other;
    };
    let mut to = parsed.tuple;
    let followed = follow(env, &parsed, packet.length(), &mut to);
    let Err(missing) = followed else {
        return Step::Done(rewrite(packet, &parsed, &to));
    };
    if undo_masquerade(env, &parsed, &mut to) {
        return Step::Done(rewrite(packet, &parsed, &to));
    }
    if is_bystander(env, &parsed, missing) { Step::Done(Verdict::Pass) } else { Step::Slow }
}

/// The same for first fragments, and packets with extension headers.
#[inline(never)]
fn translate_awkward<A: Family, E: Env<A>, P: Packet>(packet: &mut P, env: &mut E) -> Step {
    let place = locate::<A, P>(packet);
    let Some(parsed) = parse_at::<A, P>(packet, place) else {
        return Step::Other;
    };
    let mut to = parsed.tuple;
    if follow(env, &parsed, packet.length(), &mut to).is_ok() || undo_masquerade(env, &parsed, &mut to) {
        note(env, place, &parsed.tuple, &to, FragmentHook::Ingress);
        recall(packet, place, &parsed.tuple);
        return Step::Done(rewrite(packet, &parsed, &to));
    }
    Step::Slow
}

/// ICMP errors about packets of a flow.
#[inline(never)]
fn error<A: Family, E: Env<A>, P: Packet>(packet: &mut P, env: &mut E) -> Verdict {
    let Some(parsed) = parse_error::<A, P>(packet) else {
        return Verdict::Pass;
    };
    let mut to = parsed.tuple;
    if follow(env, &parsed, packet.length(), &mut to).is_ok() || undo_masquerade(env, &parsed, &mut to) {
        return rewrite_error(packet, &parsed, &to);
    }
    Verdict::Pass
}

/// A packet of no flow: if it is for a frontend, it begins one.
///
/// Headers are found and lengths compared outside, where the frame leaves more room for others.
#[inline(never)]
pub(super) fn open_flow<A: Family, E: Env<A>, P: Packet>(packet: &mut P, env: &mut E, place: Place) -> Opening {
    let mut flow = MaybeUninit::uninit();
    let flow: &mut NewFlow<A> = blank(&mut flow);
    match described::<A, P>(packet, place, env.now(), flow) {
        Some(is_first) => open(env, flow, is_first),
        None => Opening::Refused(Refusal::NoFrontend),
    }
}

/// Whether it may be the first of its connection. `None` where it is no packet that could open a flow.
#[inline(never)]
fn described<A: Family, P: Packet>(packet: &P, place: Place, now: u32, flow: &mut NewFlow<A>) -> Option<bool> {
    let parsed = parse_at::<A, P>(packet, place)?;
    describe(&parsed.tuple, now, flow);
    Some(may_end(&parsed))
}

/// Whether a packet of no flow surely passes as it is: it is for no frontend, and no flow has its addresses and ports on the backend's
/// side (see [`open`]).
#[inline(always)]
pub(super) fn is_bystander<A: Family, E: Env<A>>(env: &E, parsed: &Parsed<A>, missing: Missing) -> bool {
    if !is_stranger(env, &parsed.tuple) {
        return false;
    }
    let is_taken = match missing {
        Missing::Nobody => false,
        Missing::Alike => may_end(parsed) && find(&env.flows(), &parsed.tuple.as_request(), FlowSide::Stack).is_some(),
        Missing::Over => true,
    };
    !is_taken
}

/// A reply from a backend to the address that its flow was masqueraded to. False where there is no such flow.
///
/// Its state is left to the hook where it leaves for the client.
#[inline(always)]
fn undo_masquerade<A: Family, E: Env<A>>(env: &mut E, parsed: &Parsed<A>, to: &mut Tuple<A>) -> bool {
    if !is_masquerade_port(parsed.tuple.dst_port) {
        return false;
    }
    let flows = env.flows();
    let Some(found) = find(&flows, &parsed.tuple.as_reply(), FlowSide::Masquerade) else {
        return false;
    };
    to.dst = found.client();
    [to.dst_port, _] = found.inner_ports();
    if !found.is_whole() {
        *to = parsed.tuple;
        return false;
    }
    true
}

/// A packet of a flow that is there. Where there is none, or it is over, the packet may begin a new one.
#[inline(always)]
fn follow<A: Family, E: Env<A>>(
    env: &mut E,
    parsed: &Parsed<A>,
    length: u32,
    to: &mut Tuple<A>,
) -> Result<(), Missing> {
    let flows = env.flows();
    let found = find_fast(&flows, &parsed.tuple.as_request(), FlowSide::Client)?;
    let now = env.now();
    let service = found.service();
    to.dst = found.backend();
    [to.src_port, to.dst_port] = found.inner_ports();
    if may_end(parsed) && has_ended::<A, E>(env, &flows, &found, now) || !found.is_whole() {
        *to = parsed.tuple;
        return Err(Missing::Over);
    }
    found.touch(now, flow::client_state(parsed, found.word.state));
    env.count(service, |counters| {
        counters.packets += 1;
        counters.bytes += u64::from(length);
    });
    Ok(())
}

/// Whether a packet may find that its flow has ended.
///
/// UDP has no end of its own, so each packet asks whether the backend still serves this Service port. TCP
/// (and SCTP) goes on until it is closed, whatever becomes of the endpoint; only a SYN may begin anew.
#[inline(always)]
pub(super) fn may_end<A>(parsed: &Parsed<A>) -> bool {
    match parsed.kind {
        Kind::Udp => true,
        Kind::Tcp | Kind::Sctp => parsed.flags.opens(),
        Kind::Error => false,
    }
}

/// Whether a flow is over, or its backend has left the Service port.
#[inline(always)]
pub(super) fn has_ended<A: Family, E: Env<A>>(env: &E, flows: &E::Flows, found: &Found<'_, A>, now: u32) -> bool {
    let (backend, generation) = found.backend_identity();
    is_ending(found.word, now, flows.config())
        || env.backend(backend).is_none_or(|backend| backend.generation != generation)
}
