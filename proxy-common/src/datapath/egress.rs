//! Packets that leave through a device: replies to clients, and requests that are to be masqueraded.

use super::flow;
use super::masquerade::masquerade;
use super::parse::{Parsed, parse};
use super::rewrite::rewrite;
use super::{Env, Family, Packet, Tuple, Verdict};
use crate::maps::{DropReason, FlowSide};

/// Translates a packet that leaves: a reply gets the frontend's address back, a request the node's own where
/// its flow asks for that.
#[inline(always)]
pub fn egress<A: Family, E: Env<A>, P: Packet>(packet: &mut P, env: &mut E) -> Verdict {
    let Some(parsed) = parse::<A, P>(packet) else {
        return Verdict::Pass;
    };
    let mut to = parsed.tuple;
    if !undo_dnat(env, &parsed, packet.len(), &mut to) {
        match masquerade(env, &parsed, &mut to) {
            Ok(true) => {}
            Ok(false) => return Verdict::Pass,
            Err(reason) => return Verdict::Drop(reason),
        }
    }
    match rewrite(packet, &parsed, &to) {
        Some(()) => Verdict::Translated,
        None => Verdict::Drop(DropReason::Rewrite),
    }
}

/// A reply on its way to the client. False where there is no such flow.
#[inline(always)]
fn undo_dnat<A: Family, E: Env<A>>(env: &mut E, parsed: &Parsed<A>, length: u32, to: &mut Tuple<A>) -> bool {
    let now = env.now();
    let news = flow::backend_state(parsed.kind);
    let Some(flow) = env.flow(&parsed.tuple.as_reply(FlowSide::Stack)) else {
        return false;
    };
    let is_news = flow.state & news != news;
    flow::touch(flow, now, news);
    let service = flow.service;
    to.src = flow.frontend;
    to.src_port = flow.frontend_port;
    to.dst_port = flow.client_port;
    if is_news {
        // The client's side learns of it as well: it decides what the next SYN means.
        if let Some(flow) = env.flow(&to.as_reply(FlowSide::Client)) {
            flow::touch(flow, now, news);
        }
    }
    env.count(service, |counters| {
        counters.reply_packets += 1;
        counters.reply_bytes += u64::from(length);
    });
    true
}
