//! From frontend to backend, and the flow that remembers the choice.

use super::flow::Idle;
use super::masquerade::random_port;
use super::{Env, Family, StoreError, StoreMode, Tuple};
use crate::maps::{
    Backend, DeviceRole, DropReason, Flow, FlowKey, FlowSide, FlowState, Frontend, FrontendKey, Masquerade, RangeKey,
    TCP,
};

/// How often a look-up is repeated that met the maps in the middle of a change.
const LOOKUPS: u32 = 2;
/// How many source ports are tried for a client port that already leads to the same backend.
const PORT_PROBES: u32 = 4;

/// What came of a packet that belongs to no flow.
pub(super) enum Opening {
    /// It is for no frontend.
    NoFrontend,
    /// It is for a frontend without backends.
    NobodyServes,
    /// A flow was stored.
    Opened,
    /// No flow could be stored.
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
        state: if proto == TCP { FlowState::SYN } else { 0 },
        ..Flow::default()
    };
    match choose(env, &mut flow, proto) {
        Ok(()) => {}
        Err(opening) => return opening,
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

/// Chooses the flow's backend.
///
/// The agent may switch a frontend to another range of slots between two look-ups here. A backend that is
/// gone or serves another Service port tells so, and the look-ups are made again.
#[inline(always)]
fn choose<A: Family, E: Env<A>>(env: &mut E, flow: &mut Flow<A>, proto: u8) -> Result<(), Opening> {
    let key = FrontendKey::new(flow.frontend, flow.frontend_port, proto);
    for _ in 0..LOOKUPS {
        let Some(frontend) = env.frontend(&key) else {
            return Err(Opening::NoFrontend);
        };
        if frontend.flags & Frontend::RANGES != 0 && !env.is_in_range(&RangeKey::exact(frontend.service, flow.client)) {
            return Err(Opening::Failed(DropReason::SourceRange));
        }
        let is_pod = env.role() == DeviceRole::Pod as u8;
        let (first, count) =
            if is_pod { (frontend.first, frontend.count) } else { (frontend.outside_first, frontend.outside_count) };
        if count == 0 && frontend.flags & Frontend::DROP != 0 {
            return Err(Opening::Failed(DropReason::NoLocalBackend));
        }
        if count == 0 {
            env.count(frontend.service, |counters| counters.refused += 1);
            return Err(Opening::NobodyServes);
        }
        // The high bits of the product: a number below `count` without a division.
        let index = ((u64::from(env.random()) * u64::from(count)) >> 32) as u32;
        let Some(id) = env.slot(first.wrapping_add(index)) else {
            continue;
        };
        let Some(backend) = env.backend(id) else {
            continue;
        };
        if backend.is_live() && backend.service == frontend.service {
            flow.backend = backend.addr;
            flow.backend_port = backend.port;
            flow.backend_id = id;
            flow.generation = backend.generation;
            flow.service = frontend.service;
            if needs_masquerade(frontend.masquerade, is_pod, &flow.client, &backend) {
                flow.flags = Flow::<A>::MASQUERADE;
            }
            return Ok(());
        }
    }
    Err(Opening::Failed(DropReason::BackendMissing))
}

/// Whether the backend is to see the node's address instead of the client's: see [`Masquerade`].
///
/// A pod that reaches itself is always masqueraded: it would answer itself directly (kube-proxy's hairpin rule).
#[inline(always)]
fn needs_masquerade<A: Family>(rule: u8, is_pod: bool, client: &A, backend: &Backend<A>) -> bool {
    if backend.addr == *client {
        return true;
    }
    if is_pod {
        return rule & Masquerade::PODS != 0;
    }
    rule & Masquerade::OUTSIDE != 0 && !(rule & Masquerade::KEEP_OUTSIDE != 0 && backend.is_local())
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
