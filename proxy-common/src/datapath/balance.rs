//! A new flow, which remembers the backend that was chosen for it.

use core::mem::MaybeUninit;

use super::ingress::has_ended;
use super::select::{Choice, Refusal};
use super::{Env, Family, Tuple};
use crate::blank::blank;
use crate::flows::{self, InsertError, Inserted, NewFlow, find};
use crate::maps::{DropReason, Flow, FlowSide, FlowState, FrontendKey, UDP};

/// What came of a packet that belongs to no flow.
pub(super) enum Opening {
    /// A flow was stored.
    Opened,
    /// The same, and its packets are sent on where they come in: see [`super::forward`].
    SentOn,
    /// New flows are to wait.
    Held,
    /// None was.
    Refused(Refusal),
}
const _: () = assert!(size_of::<Opening>() == size_of::<DropReason>());

/// Looks for a frontend, chooses a backend, stores the flow. `flow` has what the packet says; `is_first`: whether that may be
/// the first of its connection.
///
/// A client that talks to a backend past its Service may do so from a port of which a flow leads to the same backend already: to the client
/// these are two connections. The backend has to see two ports, so the one past the Service is a flow of no Service.
#[inline(always)]
pub(super) fn open<A: Family, E: Env<A>>(env: &mut E, flow: &mut NewFlow<A>, is_first: bool) -> Opening {
    // First, as most packets that come here are for no frontend.
    match choose(env, flow) {
        Ok(()) => {}
        Err(Refusal::NoFrontend) if is_first && is_taken(env, flow) => {
            (flow.backend, flow.backend_port) = (flow.frontend, flow.frontend_port);
            flow.service = Flow::<A>::OF_NO_SERVICE;
        }
        Err(refusal) => return Opening::Refused(refusal),
    }
    if env.is_held(flow.now) {
        return Opening::Held;
    }
    match store(env, flow) {
        Ok(Inserted::New) => {
            env.count(flow.service, |counters| counters.flows += 1);
            if flow.flags & Flow::<A>::SENT_ON != 0 { Opening::SentOn } else { Opening::Opened }
        }
        Ok(Inserted::There) => Opening::Opened,
        Err(InsertError::Full | InsertError::Contended) => Opening::Refused(Refusal::Drop(DropReason::FlowTable)),
        Err(InsertError::Ports) => {
            env.count(flow.service, |counters| counters.without_port += 1);
            Opening::Refused(Refusal::Drop(DropReason::PortClash))
        }
    }
}

/// What the packet says about the flow that it begins.
#[inline(always)]
pub(super) fn describe<A: Family>(tuple: &Tuple<A>, now: u32, flow: &mut NewFlow<A>) {
    flow.client = tuple.src;
    flow.frontend = tuple.dst;
    flow.client_port = tuple.src_port;
    flow.frontend_port = tuple.dst_port;
    flow.stack_port = tuple.src_port;
    flow.now = now;
    flow.proto = tuple.proto;
    flow.state = if tuple.proto == UDP { 0 } else { FlowState::SYN };
}

/// Chooses the flow's backend.
#[inline(never)]
fn choose<A: Family, E: Env<A>>(env: &mut E, flow: &mut NewFlow<A>) -> Result<(), Refusal> {
    let mut choice = MaybeUninit::uninit();
    let choice: &mut Choice<A> = blank(&mut choice);
    let key = FrontendKey::new(flow.frontend, flow.frontend_port, flow.proto);
    env.select(&flow.client, flow.client_port, &key, choice)?;
    flow.backend = choice.addr;
    flow.backend_port = choice.port;
    flow.backend_id = choice.backend;
    flow.generation = choice.generation;
    flow.service = choice.service;
    if choice.is_masqueraded {
        let is_sent_on = env.is_sent_on(&flow.client, &flow.backend);
        flow.flags = Flow::<A>::MASQUERADE | if is_sent_on { Flow::<A>::SENT_ON } else { 0 };
    }
    Ok(())
}

/// Whether a flow has on the backend's side what a packet for no frontend has; or there is a flow for it already, which was made
/// for that reason.
#[inline(never)]
fn is_taken<A: Family, E: Env<A>>(env: &E, flow: &NewFlow<A>) -> bool {
    let flows = env.flows();
    let key = flow.key(FlowSide::Client);
    find(&flows, &key, FlowSide::Stack).is_some()
        || find(&flows, &key, FlowSide::Client).is_some_and(|found| found.service() == Flow::<A>::OF_NO_SERVICE)
}

/// Stores a flow, in place of one of the same addresses that has ended.
#[inline(always)]
fn store<A: Family, E: Env<A>>(env: &mut E, flow: &mut NewFlow<A>) -> Result<Inserted, InsertError> {
    let random = env.random();
    let stored = flows::open(&env.flows(), flow, None, random);
    if stored != Ok(Inserted::There) {
        return stored;
    }
    let ended = ended(env, flow);
    if ended == 0 { stored } else { flows::open(&env.flows(), flow, Some(ended as u32), random) }
}

/// Beside the sequence of a flow that has ended.
const ENDED: u64 = 1 << 32;

/// The flow that is there already for these addresses, if it has ended: this bit, and its sequence. 0 if it goes on.
#[inline(never)]
fn ended<A: Family, E: Env<A>>(env: &E, flow: &NewFlow<A>) -> u64 {
    let flows = env.flows();
    let Some(found) = find(&flows, &flow.key(FlowSide::Client), FlowSide::Client) else {
        return 0;
    };
    if has_ended(env, &flows, &found, flow.now) && found.is_whole() { ENDED | u64::from(found.sequence) } else { 0 }
}
