//! Masquerade: a source address of this node for a flow that leaves it.

use core::ops::Range;

use super::flow::{self, Idle};
use super::parse::Parsed;
use super::{Env, Family, StoreError, StoreMode, Tuple};
use crate::maps::{DropReason, FlowSide, FlowState};

/// The source ports that masqueraded flows get.
///
/// Below the ports that sockets get by themselves (`net.ipv4.ip_local_port_range`, 32768 to 60999) and below
/// the NodePorts (30000 to 32767): a host's own connection never has one unless it binds it on purpose.
/// 28,976 flows to one backend at once.
pub const MASQUERADE_PORTS: Range<u16> = 1024..30000;

/// How many ports are tried for one flow.
const PROBES: u32 = 16;

/// Whether a port, in network order, is one of [`MASQUERADE_PORTS`].
#[inline(always)]
pub(super) fn is_masquerade_port(port: [u8; 2]) -> bool {
    MASQUERADE_PORTS.contains(&u16::from_be_bytes(port))
}

/// A port of the range, in network order.
#[inline(always)]
pub(super) fn random_port(random: u32) -> [u8; 2] {
    let width = u32::from(MASQUERADE_PORTS.end - MASQUERADE_PORTS.start);
    // The high bits of the product: a number below `width` without a division.
    let offset = (u64::from(random) * u64::from(width)) >> 32;
    (MASQUERADE_PORTS.start + offset as u16).to_be_bytes()
}

/// What a flow says about the source address of its requests.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Masquerade {
    /// No flow, or one that keeps the client's address.
    NotAsked,
    /// It is to be replaced, and nobody has said by what: see [`allocate`].
    Yet,
    /// It has been replaced before, by what now is in the tuple.
    Known,
}

/// Asks the flow of a request about its source address.
#[inline(always)]
pub(super) fn masquerade<A: Family, E: Env<A>>(env: &mut E, parsed: &Parsed<A>, to: &mut Tuple<A>) -> Masquerade {
    let Some(flow) = env.flow(&parsed.tuple.as_request(FlowSide::Stack)) else {
        return Masquerade::NotAsked;
    };
    if !flow.is_masqueraded() {
        return Masquerade::NotAsked;
    }
    if flow.masquerade.is_none() {
        return Masquerade::Yet;
    }
    to.src = flow.masquerade;
    to.src_port = flow.masquerade_port;
    let news = flow::client_state(parsed);
    if news & FlowState::CLOSING != 0 {
        // The backend's side learns of the end as well: it decides when the port is free again.
        let now = env.now();
        if let Some(flow) = env.flow(&to.as_request(FlowSide::Masquerade)) {
            flow::touch(flow, now, news);
        }
    }
    Masquerade::Known
}

/// Finds a free port, stores the flow's entry on the backend's side, and notes both in the stack's entry.
#[inline(always)]
pub(super) fn allocate<A: Family, E: Env<A>>(env: &mut E, tuple: &Tuple<A>) -> Result<(), DropReason> {
    let Some(device) = env.device() else {
        return Err(DropReason::MasqueradeAddress);
    };
    let address = A::masquerade_address(&device);
    if address.is_none() {
        return Err(DropReason::MasqueradeAddress);
    }
    let now = env.now();
    let proto = tuple.proto;
    let mut key = tuple.as_request(FlowSide::Stack);
    let Some(flow) = env.flow(&key) else {
        return Err(DropReason::FlowTable);
    };
    let mut entry = *flow;
    entry.masquerade = address;
    entry.seen = now;
    for probe in 1..=PROBES {
        entry.masquerade_port = random_port(env.random());
        key = entry.key(FlowSide::Masquerade, proto);
        let mut stored = env.store_flow(&key, &entry, StoreMode::New);
        if stored == Err(StoreError::Exists) {
            let is_last = probe == PROBES;
            let is_free = env.flow(&key).is_none_or(|old| {
                let idle = Idle::since(old, now);
                idle.is_free(proto, old.state) || (is_last && idle.is_over(proto, old.state))
            });
            if !is_free {
                continue;
            }
            stored = env.store_flow(&key, &entry, StoreMode::Overwrite);
        }
        if stored.is_err() {
            return Err(DropReason::FlowTable);
        }
        key = entry.key(FlowSide::Stack, proto);
        if let Some(flow) = env.flow(&key) {
            flow.masquerade = entry.masquerade;
            flow.masquerade_port = entry.masquerade_port;
        }
        return Ok(());
    }
    Err(DropReason::MasqueradePorts)
}
