//! Packets that come in from a device: requests of clients, and replies to masqueraded requests.

use super::balance::{Opening, open};
use super::family::{Place, locate};
use super::flow::{self, Idle};
use super::fragment::{follow_first, is_noted, note};
use super::masquerade::is_masquerade_port;
use super::parse::{Awkward, Kind, Parsed, is_sound, look_closer, parse, parse_at, parse_error};
use super::refuse::refuse;
use super::rewrite::{rewrite, rewrite_error};
use super::select::Refusal;
use super::{Env, Family, Packet, Step, Tuple, Verdict};
use crate::maps::{DropReason, FlowSide, FlowState, FragmentHook};

/// Translates a packet that comes in: undoes the masquerade of a reply, or sends a request to a backend.
#[inline(always)]
pub fn ingress<A: Family, E: Env<A>, P: Packet>(packet: &mut P, env: &mut E) -> Verdict {
    match translate::<A, E, P>(packet, env) {
        Step::Done(verdict) => verdict,
        Step::Slow => begin::<A, E, P>(packet, env, translate::<A, E, P>),
        Step::Other => match look_closer::<A, P>(packet) {
            Awkward::Other => Verdict::Pass,
            Awkward::Icmp => error::<A, E, P>(packet, env),
            Awkward::Later => follow_first::<A, E, P>(packet, env, FragmentHook::Ingress),
            Awkward::Transport => match translate_awkward::<A, E, P>(packet, env) {
                Step::Done(verdict) => verdict,
                Step::Other => Verdict::Pass,
                Step::Slow => begin::<A, E, P>(packet, env, translate_awkward::<A, E, P>),
            },
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
        Opening::Opened => opened(translate(packet, env)),
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
        Opening::Refused(Refusal::NobodyServes) => refuse::<A, E, P>(packet, env, DropReason::NoBackend),
        Opening::Refused(Refusal::UnknownPort) => refuse::<A, E, P>(packet, env, DropReason::UnknownPort),
        Opening::Refused(Refusal::Drop(reason)) | Opening::Failed(reason) => Verdict::Drop(reason),
        Opening::Refused(Refusal::NoFrontend) | Opening::Opened => Verdict::Pass,
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
    Some(env.flow(&parsed.tuple.as_reply(FlowSide::Stack)).is_some())
}

#[inline(never)]
fn is_awkward_reply<A: Family, E: Env<A>, P: Packet>(packet: &P, env: &mut E) -> bool {
    let place = locate::<A, P>(packet);
    let Some(parsed) = parse_at::<A, P>(packet, place) else {
        return false;
    };
    let is_reply = env.flow(&parsed.tuple.as_reply(FlowSide::Stack)).is_some();
    if is_reply {
        note(env, place, &parsed.tuple, &parsed.tuple, FragmentHook::Bridge);
    }
    is_reply
}

/// TCP and UDP packets of a flow that is there; the others are [`Step::Slow`].
#[inline(never)]
fn translate<A: Family, E: Env<A>, P: Packet>(packet: &mut P, env: &mut E) -> Step {
    let Some(parsed) = parse::<A, P>(packet) else {
        return Step::Other;
    };
    let mut to = parsed.tuple;
    if undo_masquerade(env, &parsed, &mut to) || follow(env, &parsed, packet.length(), &mut to) {
        return Step::Done(rewrite(packet, &parsed, &to));
    }
    Step::Slow
}

/// The same for first fragments, and packets with extension headers.
#[inline(never)]
fn translate_awkward<A: Family, E: Env<A>, P: Packet>(packet: &mut P, env: &mut E) -> Step {
    let place = locate::<A, P>(packet);
    let Some(parsed) = parse_at::<A, P>(packet, place) else {
        return Step::Other;
    };
    let mut to = parsed.tuple;
    if undo_masquerade(env, &parsed, &mut to) || follow(env, &parsed, packet.length(), &mut to) {
        note(env, place, &parsed.tuple, &to, FragmentHook::Ingress);
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
    if undo_masquerade(env, &parsed, &mut to) || follow(env, &parsed, packet.length(), &mut to) {
        return rewrite_error(packet, &parsed, &to);
    }
    Verdict::Pass
}

/// A packet of no flow: if it is for a frontend, it begins one.
///
/// Headers are found and lengths compared outside, where the frame leaves more room for others.
#[inline(never)]
fn open_flow<A: Family, E: Env<A>, P: Packet>(packet: &mut P, env: &mut E, place: Place) -> Opening {
    match parse_at::<A, P>(packet, place) {
        Some(parsed) => open(env, &parsed.tuple),
        None => Opening::Refused(Refusal::NoFrontend),
    }
}

/// A reply from a backend to the address that its flow was masqueraded to. False where there is no such flow.
#[inline(always)]
fn undo_masquerade<A: Family, E: Env<A>>(env: &mut E, parsed: &Parsed<A>, to: &mut Tuple<A>) -> bool {
    if !is_masquerade_port(parsed.tuple.dst_port) {
        return false;
    }
    let now = env.now();
    let Some(flow) = env.flow(&parsed.tuple.as_reply(FlowSide::Masquerade)) else {
        return false;
    };
    flow::touch(flow, now, flow::backend_state(parsed));
    to.dst = flow.client;
    to.dst_port = flow.stack_port;
    true
}

/// A packet of a flow that is there. False where there is none or it is over: the packet begins a new one.
#[inline(always)]
fn follow<A: Family, E: Env<A>>(env: &mut E, parsed: &Parsed<A>, length: u32, to: &mut Tuple<A>) -> bool {
    let now = env.now();
    let news = flow::client_state(parsed);
    let Some(flow) = env.flow(&parsed.tuple.as_request(FlowSide::Client)) else {
        return false;
    };
    let is_over = Idle::since(flow, now).is_over(parsed.tuple.proto, flow.state);
    flow::touch(flow, now, news);
    let service = flow.service;
    let (backend_id, generation) = (flow.backend_id, flow.generation);
    to.dst = flow.backend;
    to.dst_port = flow.backend_port;
    to.src_port = flow.stack_port;
    // UDP has no end of its own, so each packet asks whether the backend still serves this Service port. TCP
    // (and SCTP) goes on until it is closed, whatever becomes of the endpoint; only a SYN may begin anew.
    let may_end = match parsed.kind {
        Kind::Udp => true,
        Kind::Tcp | Kind::Sctp => parsed.flags.opens(),
        Kind::Error => false,
    };
    if may_end && (is_over || env.backend(backend_id).is_none_or(|backend| backend.generation != generation)) {
        *to = parsed.tuple;
        return false;
    }
    if news & FlowState::CLOSING != 0 {
        // The stack's side learns of the end as well: it decides whether the port may be used again.
        if let Some(flow) = env.flow(&to.as_request(FlowSide::Stack)) {
            flow::touch(flow, now, news);
        }
    }
    env.count(service, |counters| {
        counters.packets += 1;
        counters.bytes += u64::from(length);
    });
    true
}
