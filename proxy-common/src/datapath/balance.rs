//! From frontend to backend, and the flow that remembers the choice.

use super::flow::Idle;
use super::masquerade::random_port;
use super::parse::Parsed;
use super::{Env, Family, StoreError, StoreMode, Tuple};
use crate::maps::{
    Backend, DeviceRole, DropReason, Flow, FlowSide, FlowState, Frontend, FrontendKind, TCP,
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

/// Looks for a frontend, chooses a backend, stores the flow, and writes into `to` what the packet is to become.
#[inline(never)]
pub(super) fn open<A: Family, E: Env<A>>(
    env: &mut E,
    parsed: &Parsed<A>,
    length: u32,
    to: &mut Tuple<A>,
) -> Opening {
    let tuple = &parsed.tuple;
    let (frontend, id, backend) = match choose(env, tuple) {
        Ok(chosen) => chosen,
        Err(opening) => return opening,
    };
    let is_masqueraded = needs_masquerade(env, tuple, &frontend, &backend);
    let mut flow = Flow {
        client: tuple.src,
        frontend: tuple.dst,
        backend: backend.addr,
        masquerade: A::default(),
        client_port: tuple.src_port,
        stack_port: tuple.src_port,
        frontend_port: tuple.dst_port,
        backend_port: backend.port,
        masquerade_port: [0; 2],
        state: if tuple.proto == TCP { FlowState::SYN } else { 0 },
        flags: if is_masqueraded { Flow::<A>::MASQUERADE } else { 0 },
        service: frontend.service,
        backend_id: id,
        generation: backend.generation,
        seen: env.now(),
    };
    to.dst = backend.addr;
    to.dst_port = backend.port;
    if let Err(reason) = store(env, tuple, &mut flow, to) {
        return Opening::Failed(reason);
    }
    env.count(frontend.service, |counters| {
        counters.flows += 1;
        counters.packets += 1;
        counters.bytes += u64::from(length);
    });
    Opening::Opened
}

/// A backend for a packet of no flow.
///
/// The agent may switch a frontend to another range of slots between two look-ups here. A backend that is
/// gone or serves another Service port tells so, and the look-ups are made again.
#[inline(always)]
fn choose<A: Family, E: Env<A>>(
    env: &mut E,
    tuple: &Tuple<A>,
) -> Result<(Frontend, u32, Backend<A>), Opening> {
    let random = env.random();
    for _ in 0..LOOKUPS {
        let Some(frontend) = env.frontend(&tuple.frontend_key()) else {
            return Err(Opening::NoFrontend);
        };
        if frontend.count == 0 {
            env.count(frontend.service, |counters| counters.refused += 1);
            return Err(Opening::NobodyServes);
        }
        // The high bits of the product: a number below `count` without a division.
        let index = ((u64::from(random) * u64::from(frontend.count)) >> 32) as u32;
        let Some(id) = env.slot(frontend.first.wrapping_add(index)) else {
            continue;
        };
        if let Some(backend) = env.backend(id) {
            if backend.is_live() && backend.service == frontend.service {
                return Ok((frontend, id, backend));
            }
        }
    }
    Err(Opening::Failed(DropReason::BackendMissing))
}

/// Whether the backend is to see the node's address instead of the client's.
///
/// - A pod that reaches itself: it would answer itself directly (kube-proxy's hairpin rule).
/// - A remote backend of a frontend that outside clients use: its answer has to come back here.
/// - A remote backend of a ClusterIP whose client is not a pod of this node, for the same reason.
///
/// A backend on this node answers through this node anyway, so an outside client keeps its address: here
/// kube-proxy would masquerade.
#[inline(always)]
fn needs_masquerade<A: Family, E: Env<A>>(
    env: &E,
    tuple: &Tuple<A>,
    frontend: &Frontend,
    backend: &Backend<A>,
) -> bool {
    if backend.addr == tuple.src {
        return true;
    }
    if backend.is_local() {
        return false;
    }
    if frontend.kind != FrontendKind::ClusterIp as u8 {
        return true;
    }
    env.device().is_some_and(|device| device.role == DeviceRole::Uplink as u8)
}

/// Stores the flow on the client's side and in the stack, under another source port if it must be.
#[inline(always)]
fn store<A: Family, E: Env<A>>(
    env: &mut E,
    tuple: &Tuple<A>,
    flow: &mut Flow<A>,
    to: &mut Tuple<A>,
) -> Result<(), DropReason> {
    let mut is_stored = false;
    for _ in 0..PORT_PROBES {
        to.src_port = flow.stack_port;
        if store_in_stack(env, to, flow)? {
            is_stored = true;
            break;
        }
        flow.stack_port = random_port(env.random());
    }
    if !is_stored {
        return Err(DropReason::PortClash);
    }
    if env.store_flow(&tuple.as_request(FlowSide::Client), flow, StoreMode::Overwrite).is_err() {
        env.delete_flow(&to.as_request(FlowSide::Stack));
        return Err(DropReason::FlowTable);
    }
    Ok(())
}

/// Stores the entry that replies are known by. False where another connection, still alive, has it.
#[inline(always)]
fn store_in_stack<A: Family, E: Env<A>>(
    env: &mut E,
    to: &Tuple<A>,
    flow: &Flow<A>,
) -> Result<bool, DropReason> {
    let key = to.as_request(FlowSide::Stack);
    match env.store_flow(&key, flow, StoreMode::New) {
        Ok(()) => return Ok(true),
        Err(StoreError::Full) => return Err(DropReason::FlowTable),
        Err(StoreError::Exists) => {}
    }
    let is_free = match env.flow(&key) {
        Some(old) => {
            let is_same = old.frontend == flow.frontend
                && old.frontend_port == flow.frontend_port
                && old.client_port == flow.client_port;
            is_same || Idle::since(old, flow.seen).is_over(to.proto, old.state)
        }
        None => true,
    };
    if !is_free {
        return Ok(false);
    }
    match env.store_flow(&key, flow, StoreMode::Overwrite) {
        Ok(()) => Ok(true),
        Err(_) => Err(DropReason::FlowTable),
    }
}
