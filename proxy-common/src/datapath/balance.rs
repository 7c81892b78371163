//! A new flow, which remembers the backend that was chosen for it.

use super::flow::Idle;
use super::masquerade::random_port;
use super::select::{Choice, Refusal, select};
use super::{Env, Family, StoreError, StoreMode, Tuple};
use crate::maps::{DropReason, Flow, FlowKey, FlowSide, FlowState, FrontendKey, UDP};

/// How many source ports are tried for a client port that already leads to the same backend.
const PORT_PROBES: u32 = 4;

/// What came of a packet that belongs to no flow.
#[repr(align(8))]
pub(super) enum Opening {
    /// A flow was stored.
    Opened,
    /// None was, as the Service's rules say.
    Refused(Refusal),
    /// None could be stored.
    Failed(DropReason),
}

/// Looks for a frontend, chooses a backend, stores the flow.
#[inline(always)]
pub(super) fn open<A: Family, E: Env<A>>(env: &mut E, tuple: &Tuple<A>) -> Opening {
    let proto = tuple.proto;
    // Everything below speaks of the flow, and no longer of the tuple: the stack has room for one of them.
    let mut flow = Flow {
        client: tuple.src,
        frontend: tuple.dst,
        client_port: tuple.src_port,
        frontend_port: tuple.dst_port,
        stack_port: tuple.src_port,
        state: if proto == UDP { 0 } else { FlowState::SYN },
        ..Flow::default()
    };
    let mut choice = Choice::default();
    let key = FrontendKey::new(flow.frontend, flow.frontend_port, proto);
    if let Err(refusal) = select(env, &flow.client, flow.client_port, &key, &mut choice) {
        return Opening::Refused(refusal);
    }
    flow.backend = choice.addr;
    flow.backend_port = choice.port;
    flow.backend_id = choice.backend;
    flow.generation = choice.generation;
    flow.service = choice.service;
    if choice.is_masqueraded {
        flow.flags = Flow::<A>::MASQUERADE;
    }
    let now = env.now();
    (flow.began, flow.seen) = (now, now);
    match store(env, &mut flow, proto) {
        Ok(()) => {
            env.count(flow.service, |counters| counters.flows += 1);
            Opening::Opened
        }
        Err(reason) => Opening::Failed(reason),
    }
}

/// Stores the flow on the client's side and in the stack, under another source port if it must be.
#[inline(always)]
fn store<A: Family, E: Env<A>>(env: &mut E, flow: &mut Flow<A>, proto: u8) -> Result<(), DropReason> {
    let mut key = flow.key(FlowSide::Stack, proto);
    let mut is_stored = false;
    for probe in 1..=PORT_PROBES {
        if store_in_stack(env, &key, flow, probe == PORT_PROBES)? {
            is_stored = true;
            break;
        }
        flow.stack_port = random_port(env.random());
        key.near_port = flow.stack_port;
    }
    if !is_stored {
        return Err(DropReason::PortClash);
    }
    key = flow.key(FlowSide::Client, proto);
    if env.store_flow(&key, flow, StoreMode::Overwrite).is_err() {
        key = flow.key(FlowSide::Stack, proto);
        env.delete_flow(&key);
        return Err(DropReason::FlowTable);
    }
    Ok(())
}

/// Stores the entry that replies are known by. False where another connection has it: one that is alive, or was lately
/// and this is not the last try.
#[inline(always)]
fn store_in_stack<A: Family, E: Env<A>>(
    env: &mut E,
    key: &FlowKey<A>,
    flow: &Flow<A>,
    is_last: bool,
) -> Result<bool, DropReason> {
    match env.store_flow(key, flow, StoreMode::New) {
        Ok(()) => return Ok(true),
        Err(StoreError::Full) => return Err(DropReason::FlowTable),
        Err(StoreError::Exists) => {}
    }
    let is_free = env.flow(key).is_none_or(|old| {
        let is_same = old.frontend == flow.frontend
            && old.frontend_port == flow.frontend_port
            && old.client_port == flow.client_port;
        let idle = Idle::since(old, flow.seen);
        is_same || idle.is_free(key.proto, old.state) || (is_last && idle.is_over(key.proto, old.state))
    });
    if !is_free {
        return Ok(false);
    }
    match env.store_flow(key, flow, StoreMode::Overwrite) {
        Ok(()) => Ok(true),
        Err(_) => Err(DropReason::FlowTable),
    }
}
