//! Masquerade: a source address of this node for a flow that leaves it.

use core::ops::Range;

use super::flow::Idle;
use super::parse::{Kind, Parsed};
use super::{Env, Family, StoreError, StoreMode, Tuple};
use crate::maps::{DropReason, FlowSide};

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

/// A request that is to be masqueraded where it leaves the node. False where no flow asks for it.
#[inline(always)]
pub(super) fn masquerade<A: Family, E: Env<A>>(
    env: &mut E,
    parsed: &Parsed<A>,
    to: &mut Tuple<A>,
) -> Result<bool, DropReason> {
    let Some(flow) = env.flow(&parsed.tuple.as_request(FlowSide::Stack)) else {
        return Ok(false);
    };
    if !flow.is_masqueraded() {
        return Ok(false);
    }
    if !flow.masquerade.is_none() {
        to.src = flow.masquerade;
        to.src_port = flow.masquerade_port;
        return Ok(true);
    }
    if matches!(parsed.kind, Kind::Error(_)) {
        return Ok(false);
    }
    allocate(env, &parsed.tuple, to).map(|()| true)
}

/// Finds a free port, stores the flow's entry on the backend's side, and notes both in the stack's entry and in `to`.
#[inline(never)]
fn allocate<A: Family, E: Env<A>>(env: &mut E, tuple: &Tuple<A>, to: &mut Tuple<A>) -> Result<(), DropReason> {
    to.src = env.device().map(|device| A::masquerade_address(&device)).unwrap_or_default();
    if to.src.is_none() {
        return Err(DropReason::MasqueradeAddress);
    }
    let now = env.now();
    let Some(mut entry) = env.flow(&tuple.as_request(FlowSide::Stack)).copied() else {
        return Err(DropReason::FlowTable);
    };
    entry.masquerade = to.src;
    entry.seen = now;
    for _ in 0..PROBES {
        to.src_port = random_port(env.random());
        entry.masquerade_port = to.src_port;
        let key = to.as_request(FlowSide::Masquerade);
        let mut stored = env.store_flow(&key, &entry, StoreMode::New);
        if stored == Err(StoreError::Exists) {
            let is_over = env.flow(&key).is_none_or(|old| Idle::since(old, now).is_over(tuple.proto, old.state));
            if !is_over {
                continue;
            }
            stored = env.store_flow(&key, &entry, StoreMode::Overwrite);
        }
        if stored.is_err() {
            return Err(DropReason::FlowTable);
        }
        if let Some(flow) = env.flow(&tuple.as_request(FlowSide::Stack)) {
            flow.masquerade = to.src;
            flow.masquerade_port = to.src_port;
        }
        return Ok(());
    }
    Err(DropReason::MasqueradePorts)
}
